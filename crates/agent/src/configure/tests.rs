use super::*;

struct Answers(Vec<&'static str>, Vec<String>);

impl Answers {
    fn next(&mut self, question: String) -> String {
        self.1.push(question);
        self.0.remove(0).to_owned()
    }
}

impl Questions for Answers {
    fn ask(&mut self, question: &str, current: &str) -> std::io::Result<String> {
        Ok(self.next(format!("{question} [{current}]")))
    }

    fn ask_secret(&mut self, question: &str) -> std::io::Result<Secret> {
        Ok(Secret::new(self.next(question.to_owned())))
    }
}

fn settings(folder: &Path) -> Settings {
    Settings {
        config: folder.join("agent.toml"),
        ..Settings::default()
    }
}

#[test]
fn a_person_is_asked_when_nothing_is_said_and_an_empty_answer_keeps_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut answers = Answers(
        vec!["https://tp.example/", "tpa_secret", "", "north", ""],
        Vec::new(),
    );
    let written = configure(settings(folder.path()), &mut std::io::empty(), Some(&mut answers)).unwrap();
    assert_eq!(written.changed, ["token", "url", "name"]);
    let text = std::fs::read_to_string(&written.path).unwrap();
    assert!(text.contains("\nurl = \"https://tp.example\"\n"), "{text}");
    assert!(!text.contains("tpa_secret"), "{text}");

    let mut answers = Answers(vec!["", "", "", "", "3"], Vec::new());
    let written = configure(settings(folder.path()), &mut std::io::empty(), Some(&mut answers)).unwrap();
    assert_eq!(written.changed, ["concurrency"]);
    assert_eq!(
        answers.1[0],
        "Address of the control plane (https://…) [https://tp.example]"
    );
    let token = std::fs::read_to_string(folder.path().join("token")).unwrap();
    assert_eq!(token, "tpa_secret\n");
}

#[test]
fn certificates_are_added_to_those_there_are_and_none_twice() {
    let block = |name: &str| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----");
    let kept = format!("{}\n", block("one"));
    let new = format!("A comment\n{}\nanother\n{}\n", block("two"), block("one"));
    let both = together(&kept, &new);
    assert_eq!(both, format!("{}\n{}\n", block("one"), block("two")));
    assert_eq!(together(&both, &new), both);
}

#[test]
fn without_a_terminal_nobody_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = configure(settings(folder.path()), &mut std::io::empty(), None);
    assert!(matches!(outcome, Err(ConfigureError::NothingSaid)));
    assert!(!folder.path().join("agent.toml").exists());
}

#[test]
fn the_services_user_is_found_by_its_whole_name() {
    let users = "root:x:0:0::/root:/bin/sh\nterrapool-agent-2:x:7:7::/:/bin/false\nterrapool-agent:x:998:997::/:/bin/false\n";
    assert_eq!(service_user(users), Some((998, 997)));
    assert_eq!(service_user("root:x:0:0::/root:/bin/sh\n"), None);
}
