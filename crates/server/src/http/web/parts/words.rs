//! Numbers in words.

use std::fmt;

use super::html;

/// A number with commas between thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number(pub u64);

impl fmt::Display for Number {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (at, digit) in digits.char_indices() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                out.write_str(",")?;
            }
            write!(out, "{digit}")?;
        }
        Ok(())
    }
}

/// "1 run", "3 runs".
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", Number(number), if number == 1 { one } else { many })
}

/// The same for templates, which hand over references.
pub fn counted(number: &u64, one: &str, many: &str) -> String {
    count(*number, one, many)
}

/// "3 more runs wait", of a list that ends before them; none when it has all.
pub fn more_runs(unlisted: u64) -> Option<String> {
    (unlisted > 0).then(|| count(unlisted, "more run waits", "more runs wait"))
}

/// A number for templates, which hand over references.
pub fn number(number: &u64) -> Number {
    Number(*number)
}

/// Somebody's text within a sentence of ours: marks in it that turn the direction of writing end with it.
pub fn theirs(text: &str) -> String {
    format!("\u{2068}{text}\u{2069}")
}

/// Mebibytes as engines count them: "512 MB", "4.0 GB".
pub fn megabytes(number: u64) -> String {
    if number < 2048 {
        format!("{} MB", Number(number))
    } else {
        format!("{}.{} GB", number / 1024, number % 1024 * 10 / 1024)
    }
}

/// Bytes: "84 kB", "1.2 MB".
pub fn bytes(number: u64) -> String {
    match number {
        0..1024 => format!("{number} B"),
        1024..1_048_576 => format!("{} kB", number / 1024),
        _ => format!("{}.{} MB", number >> 20, ((number & 0xf_ffff) * 10) >> 20),
    }
}

/// Up to `most` names, and how many more there are.
pub fn some(names: &[String], most: usize) -> String {
    let mut text = names.iter().take(most).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > most {
        text.push_str(&format!(" and {} more", names.len() - most));
    }
    text
}

/// The letters in the circle that stands for a person.
pub fn initials(name: &str) -> String {
    let parts: Vec<&str> = name
        .split(['-', '_', ' ', '.'])
        .filter(|part| !part.is_empty())
        .collect();
    let letters: String = match parts.as_slice() {
        [one] => one.chars().take(2).collect(),
        parts => parts
            .iter()
            .take(2)
            .filter_map(|part| part.chars().next())
            .collect(),
    };
    letters.to_uppercase()
}

html!(Number);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(Number(1_482_001).to_string(), "1,482,001");
        assert_eq!(Number(12).to_string(), "12");
        assert_eq!(count(1, "run", "runs"), "1 run");
        assert_eq!(megabytes(512), "512 MB");
        assert_eq!(megabytes(4096), "4.0 GB");
        assert_eq!(bytes(1_258_291), "1.1 MB");
        assert_eq!(initials("ana-kovac"), "AK");
        assert_eq!(initials("demo"), "DE");
        let names = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(some(&names, 2), "a, b and 1 more");
    }
}
