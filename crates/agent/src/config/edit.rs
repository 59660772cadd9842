//! Changes of single settings in a configuration file that people write, too.
//!
//! Lines are changed and not a parsed document, so that comments and order stay as they are. What came out is parsed and
//! compared with what was wanted: a file that is written in a way that lines do not show is left alone.

use toml::{Table, Value};

/// What becomes of a setting.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It gets this value.
    Set(&'static str, Value),
    /// It goes, so that the default or another setting takes its place.
    Remove(&'static str),
}

/// Why a file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It is no TOML.
    #[error("it is no valid configuration")]
    Parse(#[source] toml::de::Error),
    /// A setting does not stand on a line of its own.
    #[error("`{key}` is not on a line of its own: change it by hand")]
    Layout {
        /// The setting.
        key: &'static str,
    },
}

/// Makes changes to a file's text. What already is as wanted stays as it is, to the byte.
///
/// # Errors
/// [`EditError`], and nothing is changed.
pub fn edit(text: &str, changes: &[Change]) -> Result<String, EditError> {
    let mut text = text.to_owned();
    for change in changes {
        let before: Table = toml::from_str(&text).map_err(EditError::Parse)?;
        let mut wanted = before.clone();
        let (key, edited) = match change {
            Change::Set(key, value) => {
                if wanted.insert((*key).to_owned(), value.clone()).as_ref() == Some(value) {
                    continue;
                }
                (*key, set(&text, key, value))
            }
            Change::Remove(key) => {
                if wanted.remove(*key).is_none() {
                    continue;
                }
                (*key, remove(&text, key))
            }
        };
        match toml::from_str::<Table>(&edited) {
            Ok(after) if after == wanted => text = edited,
            _ => return Err(EditError::Layout { key }),
        }
    }
    Ok(text)
}

fn sets(line: &str, key: &str) -> bool {
    let rest = line.trim_start().strip_prefix(key);
    rest.is_some_and(|rest| rest.trim_start().starts_with('='))
}

fn shows(line: &str, key: &str) -> bool {
    let example = line.trim_start().strip_prefix('#');
    example.is_some_and(|example| sets(example, key))
}

/// A comment behind the value of a line.
fn comment(line: &str) -> &str {
    let whole = |end: &usize| toml::from_str::<Table>(&line[..*end]).is_ok();
    let begin = line.match_indices('#').map(|(at, _)| at).find(whole);
    begin.map_or("", |begin| &line[begin..])
}

fn set(text: &str, key: &str, value: &Value) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut line = format!("{key} = {value}");
    if let Some(at) = lines.iter().position(|line| sets(line, key)) {
        let behind = comment(&lines[at]);
        if !behind.is_empty() {
            line = format!("{line} {behind}");
        }
        lines[at] = line;
    } else if let Some(at) = lines.iter().rposition(|line| shows(line, key)) {
        lines.insert(at + 1, line);
    } else {
        // Before the first table: what follows a table's header belongs to it.
        let end = lines.iter().position(|line| line.trim_start().starts_with('['));
        lines.insert(end.unwrap_or(lines.len()), line);
    }
    lines.join("\n") + "\n"
}

fn remove(text: &str, key: &str) -> String {
    let kept = text.lines().filter(|line| !sets(line, key));
    kept.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Value {
        Value::String(value.to_owned())
    }

    fn edited(before: &str, changes: &[Change]) -> String {
        edit(before, changes).unwrap()
    }

    #[test]
    fn a_value_is_changed_in_its_place_and_the_comment_behind_it_stays() {
        let before = "# mine\nurl = \"https://a#b\"  # the old one\nname='x'\n";
        assert_eq!(
            edited(before, &[Change::Set("url", text("https://c"))]),
            "# mine\nurl = \"https://c\" # the old one\nname='x'\n"
        );
    }

    #[test]
    fn a_new_setting_stands_below_the_line_that_explains_it() {
        let before = "# Jobs at once.\n#concurrency = 5\n\n# Name.\n";
        assert_eq!(
            edited(before, &[Change::Set("concurrency", Value::Integer(2))]),
            "# Jobs at once.\n#concurrency = 5\nconcurrency = 2\n\n# Name.\n"
        );
    }

    #[test]
    fn a_setting_that_nothing_explains_stands_at_the_end() {
        assert_eq!(
            edited("a = 1", &[Change::Set("name", text("n"))]),
            "a = 1\nname = \"n\"\n"
        );
        assert_eq!(
            edited("[t]\nx = 1\n", &[Change::Set("name", text("n"))]),
            "name = \"n\"\n[t]\nx = 1\n"
        );
    }

    #[test]
    fn the_same_value_again_changes_no_byte() {
        let before = "url='https://a'   # odd, but mine\r\n";
        assert_eq!(edited(before, &[Change::Set("url", text("https://a"))]), before);
        assert_eq!(edited(before, &[Change::Remove("token")]), before);
    }

    #[test]
    fn what_is_removed_leaves_its_neighbours() {
        assert_eq!(
            edited("token = \"t\"\nname = \"n\"\n", &[Change::Remove("token")]),
            "name = \"n\"\n"
        );
    }

    #[test]
    fn names_that_begin_alike_are_not_mixed_up() {
        let before = "token_file = \"f\"\n";
        assert_eq!(
            edited(before, &[Change::Set("token", text("t"))]),
            "token_file = \"f\"\ntoken = \"t\"\n"
        );
    }

    #[test]
    fn a_file_that_lines_do_not_show_is_left_alone() {
        let before = "name = \"\"\"\nurl = 'x'\n\"\"\"\n";
        let error = edit(before, &[Change::Set("url", text("https://a"))]).unwrap_err();
        assert!(matches!(error, EditError::Layout { key: "url" }), "{error}");
        assert!(matches!(
            edit("url =", &[Change::Remove("url")]),
            Err(EditError::Parse(_))
        ));
    }

    #[test]
    fn values_are_written_so_that_they_are_read_as_they_were() {
        let odd = text("a\"b\\c\nd");
        let after = edited("", &[Change::Set("name", odd.clone())]);
        assert_eq!(toml::from_str::<Table>(&after).unwrap()["name"], odd);
    }
}
