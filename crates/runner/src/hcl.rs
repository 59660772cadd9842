//! HCL text that the runner writes.

use std::fmt::Write;

/// A string literal that means exactly `text`: nothing in it is a template or an escape.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            // As a code point, since doubling it is read differently behind another `$`.
            '$' | '%' if characters.peek() == Some(&'{') => push_code(&mut quoted, character),
            other if other.is_control() => push_code(&mut quoted, other),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

fn push_code(text: &mut String, character: char) {
    // Writing to a string does not fail.
    let _ = write!(text, "\\u{:04x}", u32::from(character));
}

/// Whether a text can be the name of a variable.
pub fn is_identifier(text: &str) -> bool {
    let mut characters = text.chars();
    characters
        .next()
        .is_some_and(|first| first.is_alphabetic() || first == '_')
        && characters.all(|other| other.is_alphanumeric() || other == '_' || other == '-')
}

#[cfg(test)]
mod tests {
    use super::{is_identifier, quote};

    #[test]
    fn quoted_text_has_no_templates_and_no_line_ends() {
        assert_eq!(
            quote("a\"b\\c\n${d} $e %{f} \u{7}"),
            r#""a\"b\\c\n\u0024{d} $e \u0025{f} \u0007""#
        );
    }

    #[test]
    fn names_are_told_from_other_texts() {
        assert!(is_identifier("region") && is_identifier("_a-1"));
        assert!(
            !is_identifier("a = 1\nb") && !is_identifier("1a") && !is_identifier("") && !is_identifier("-a")
        );
    }
}
