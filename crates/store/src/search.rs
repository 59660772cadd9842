//! Search texts as patterns of `LIKE … ESCAPE '!'` on a lower-cased column.

/// A pattern for texts that contain `text`, whatever the case.
pub(crate) fn contains(text: &str) -> String {
    format!("%{}%", escape(text))
}

/// A pattern for a wildcard text in which `*` stands for anything.
pub(crate) fn wildcard(text: &str) -> String {
    text.split('*').map(escape).collect::<Vec<_>>().join("%")
}

fn escape(text: &str) -> String {
    text.to_lowercase()
        .replace('!', "!!")
        .replace('%', "!%")
        .replace('_', "!_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_special_in_patterns_is_escaped() {
        assert_eq!(contains("A_b%!"), "%a!_b!%!!%");
        assert_eq!(wildcard("*-Prod_*"), "%-prod!_%");
    }
}
