//! What an engine says of an error, read from the lines that it is shown as.

use super::ansi;

/// An error of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnostic {
    /// What is wrong, in a sentence.
    pub summary: String,
    /// The resource that it is about.
    pub address: Option<String>,
    /// Where in the configuration: "main.tf line 3, in resource …".
    pub place: Option<String>,
    /// What the engine says besides, a line each.
    pub detail: Vec<String>,
}

/// Lines that an error has at most.
pub const MOST_LINES: usize = 60;

impl Diagnostic {
    /// Reads the error whose first line is the first of these.
    pub fn read(lines: &[String]) -> Option<Self> {
        let plain = |line: &String| {
            let plain = ansi::plain(line);
            let plain = plain.strip_prefix('│').unwrap_or(&plain);
            plain
                .trim_end()
                .strip_prefix(' ')
                .unwrap_or(plain)
                .trim_end()
                .to_owned()
        };
        let mut lines = lines.iter().map(plain);
        let first = lines.next()?;
        let mut found = Self {
            summary: first.trim_start().strip_prefix("Error:")?.trim().to_owned(),
            ..Self::default()
        };
        // The configuration that is quoted ends with an empty line.
        let mut quotes = false;
        for line in lines.take(MOST_LINES) {
            let text = line.trim();
            if text.starts_with('╵') || text.starts_with('╷') || text.starts_with("Error:") {
                break;
            }
            if text.is_empty() {
                quotes = false;
                if found.detail.last().is_some_and(|last| !last.is_empty()) {
                    found.detail.push(String::new());
                }
            } else if let Some(address) = text.strip_prefix("with ").and_then(|rest| rest.strip_suffix(','))
                && found.is_open()
            {
                found.address = Some(address.to_owned());
            } else if let Some(place) = text.strip_prefix("on ").and_then(|rest| rest.strip_suffix(':'))
                && found.is_open()
            {
                found.place = Some(place.to_owned());
                quotes = true;
            } else if !quotes {
                found.detail.push(text.to_owned());
            }
        }
        while found.detail.last().is_some_and(String::is_empty) {
            found.detail.pop();
        }
        Some(found)
    }

    /// Whether its address and place may still come.
    fn is_open(&self) -> bool {
        self.place.is_none() && self.detail.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn an_error_with_its_frame_is_read() {
        let found = Diagnostic::read(&lines(
            "\u{1b}[31m│\u{1b}[0m \u{1b}[1;31mError:\u{1b}[0m \u{1b}[1mcreating DB Instance (ledger)\u{1b}[0m\n\
             │ \n\
             │   with module.db.aws_db_instance.this[\"ledger\"],\n\
             │   on modules/db/main.tf line 12, in resource \"aws_db_instance\" \"this\":\n\
             │   12: resource \"aws_db_instance\" \"this\" {\n\
             │ \n\
             │ The subnet group does not exist.\n\
             │ \n\
             │ Make it first.\n\
             ╵\n\
             ╷\n\
             │ Error: another one\n",
        ));
        assert_eq!(
            found,
            Some(Diagnostic {
                summary: "creating DB Instance (ledger)".to_owned(),
                address: Some("module.db.aws_db_instance.this[\"ledger\"]".to_owned()),
                place: Some(
                    "modules/db/main.tf line 12, in resource \"aws_db_instance\" \"this\"".to_owned()
                ),
                detail: lines("The subnet group does not exist.\n\nMake it first."),
            })
        );
    }

    #[test]
    fn an_error_without_colours_or_more_words_is_read() {
        let found = Diagnostic::read(&lines("Error: broken\n\nwith great care, it fails\n\nError: two"));
        let found = found.unwrap();
        assert_eq!(found.summary, "broken");
        assert_eq!(
            (found.address, found.detail),
            (None, lines("with great care, it fails"))
        );
        let alone = Diagnostic::read(&lines("Error: broken")).unwrap();
        assert_eq!((alone.address, alone.place, alone.detail.len()), (None, None, 0));
        assert_eq!(Diagnostic::read(&lines("all is well")), None);
        assert_eq!(Diagnostic::read(&[]), None);
    }
}
