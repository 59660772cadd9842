//! Masking of sensitive values in what leaves a sandbox to be shown: output, as it streams, and plans.
//!
//! A value is looked for as it is, JSON-escaped (once and twice), HCL-escaped, in base64 at all three alignments, and
//! line by line when it has several. What overlaps is masked as one. Values (and lines) below [`MINIMUM`] bytes, and the
//! words `true`, `false` and `null`, are not masked: they occur everywhere, and masking them would only tell which
//! ones they are.

use std::collections::{BTreeSet, HashMap};

use crate::job::JobSpec;

/// Shortest value, or line of a value, that is masked.
pub const MINIMUM: usize = 4;

/// What stands in place of a sensitive value.
pub const MARKER: &[u8] = b"(sensitive value)";

/// Shortest piece of base64 without its edges that says enough to be looked for.
const MINIMUM_BASE64: usize = 6;

/// Replaces sensitive values in output that arrives in pieces. Only bytes that may be the beginning of a value are held
/// back.
#[derive(Debug)]
pub struct Masker {
    /// Patterns by their first four bytes.
    patterns: HashMap<[u8; 4], Vec<Vec<u8>>>,
    /// One bit for each pair of bytes that some pattern begins with.
    pairs: Vec<u64>,
    pending: Vec<u8>,
    /// Bytes at the front of `pending` that a match before them covers.
    covered: usize,
}

impl Masker {
    /// A masker for these values.
    pub fn new<'value>(values: impl IntoIterator<Item = &'value str>) -> Self {
        let mut all = BTreeSet::new();
        for value in values {
            forms(value, &mut all);
        }
        let mut patterns: HashMap<[u8; 4], Vec<Vec<u8>>> = HashMap::new();
        let mut pairs = vec![0; 1024];
        for pattern in all {
            if let Some(head) = pattern.first_chunk::<4>() {
                let pair = usize::from(head[0]) << 8 | usize::from(head[1]);
                pairs[pair >> 6] |= 1_u64 << (pair & 63);
                patterns.entry(*head).or_default().push(pattern);
            }
        }
        Self {
            patterns,
            pairs,
            pending: Vec::new(),
            covered: 0,
        }
    }

    /// Takes bytes of output and appends to `out` what may be shown by now.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.patterns.is_empty() {
            out.extend_from_slice(bytes);
            return;
        }
        self.pending.extend_from_slice(bytes);
        self.scan(false, out);
    }

    /// The output ends here: nothing held back can become a value any more.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.scan(true, out);
    }

    /// A text masked on its own.
    pub fn mask(&self, text: &str) -> String {
        let mut copy = Self {
            patterns: self.patterns.clone(),
            pairs: self.pairs.clone(),
            pending: Vec::new(),
            covered: 0,
        };
        let mut out = Vec::new();
        copy.push(text.as_bytes(), &mut out);
        copy.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Whether a text shows a value, in any form.
    pub fn finds(&self, text: &str) -> bool {
        let bytes = text.as_bytes();
        !self.patterns.is_empty()
            && bytes.windows(2).enumerate().any(|(at, pair)| {
                let pair = usize::from(pair[0]) << 8 | usize::from(pair[1]);
                self.pairs[pair >> 6] & (1 << (pair & 63)) != 0 && self.matches(&bytes[at..]).0 > 0
            })
    }

    fn scan(&mut self, last: bool, out: &mut Vec<u8>) {
        let buffer = &self.pending;
        let mut plain_from = self.covered.min(buffer.len());
        let mut covered = self.covered;
        let mut at = 0;
        while at < buffer.len() {
            let rest = &buffer[at..];
            if let [first, second, ..] = rest {
                let pair = usize::from(*first) << 8 | usize::from(*second);
                if self.pairs[pair >> 6] & (1 << (pair & 63)) == 0 {
                    at += 1;
                    continue;
                }
            }
            let (longest, may_grow) = self.matches(rest);
            if may_grow && !last {
                break;
            }
            if longest > 0 {
                if at >= covered {
                    out.extend_from_slice(&buffer[plain_from..at]);
                    out.extend_from_slice(MARKER);
                }
                covered = covered.max(at + longest);
                plain_from = covered;
            }
            at += 1;
        }
        if plain_from < at {
            out.extend_from_slice(&buffer[plain_from..at]);
        }
        self.covered = covered.saturating_sub(at);
        self.pending.drain(..at);
    }

    /// The longest pattern that stands at the beginning of `rest`, and whether more bytes could make a longer one.
    fn matches(&self, rest: &[u8]) -> (usize, bool) {
        let Some(head) = rest.first_chunk::<4>() else {
            let may_grow = self.patterns.keys().any(|head| head.starts_with(rest));
            return (0, may_grow);
        };
        let mut longest = 0;
        let mut may_grow = false;
        for pattern in self.patterns.get(head).into_iter().flatten() {
            if rest.len() >= pattern.len() {
                if rest.starts_with(pattern) {
                    longest = longest.max(pattern.len());
                }
            } else if pattern.starts_with(rest) {
                may_grow = true;
            }
        }
        (longest, may_grow)
    }
}

/// All forms in which a value may show.
fn forms(value: &str, all: &mut BTreeSet<Vec<u8>>) {
    let trimmed = value.trim();
    if !maskable(trimmed) {
        return;
    }
    for text in [value.trim_end_matches(['\n', '\r']), trimmed] {
        written_forms(text, all);
    }
    if trimmed.contains('\n') {
        for line in trimmed.lines().map(str::trim).filter(|line| maskable(line)) {
            written_forms(line, all);
        }
    }
    base64_forms(value.as_bytes(), all);
    if trimmed.len() < value.len() {
        base64_forms(trimmed.as_bytes(), all);
    }
}

fn maskable(text: &str) -> bool {
    text.len() >= MINIMUM && !matches!(text, "true" | "false" | "null")
}

fn written_forms(text: &str, all: &mut BTreeSet<Vec<u8>>) {
    all.insert(text.as_bytes().to_vec());
    let escaped = json_escaped(text);
    // The engines' JSON encoder also escapes what has a meaning in HTML.
    let for_html = escaped
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026");
    all.insert(json_escaped(&escaped).into_bytes());
    all.insert(json_escaped(&for_html).into_bytes());
    all.insert(escaped.replace("${", "$${").replace("%{", "%%{").into_bytes());
    all.insert(for_html.into_bytes());
    all.insert(escaped.into_bytes());
}

fn json_escaped(text: &str) -> String {
    match serde_json::to_string(text) {
        Ok(quoted) if quoted.len() >= 2 => quoted[1..quoted.len() - 1].to_owned(),
        _ => text.to_owned(),
    }
}

fn base64_forms(bytes: &[u8], all: &mut BTreeSet<Vec<u8>>) {
    let mut insert = |pattern: &str, minimum: usize| {
        if pattern.len() >= minimum {
            all.insert(pattern.as_bytes().to_vec());
            if pattern.contains(['+', '/']) {
                all.insert(pattern.replace('+', "-").replace('/', "_").into_bytes());
            }
        }
    };
    insert(&base64(bytes), MINIMUM);
    for shift in 0..3 {
        // Put as many bytes in front as the alignment asks for, then drop the characters that they take part in, and
        // those at the end that what follows would take part in.
        let mut padded = vec![0; shift];
        padded.extend_from_slice(bytes);
        let text = base64(&padded);
        let from = (shift * 8).div_ceil(6);
        let to = padded.len() * 8 / 6;
        if let Some(inner) = text.get(from..to) {
            insert(inner, MINIMUM_BASE64);
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut bits = 0_usize;
        for index in 0..3 {
            bits = bits << 8 | usize::from(group.get(index).copied().unwrap_or(0));
        }
        for index in 0..4 {
            if index <= group.len() {
                text.push(char::from(ALPHABET[bits >> (18 - 6 * index) & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// The string literals inside HCL text, so that a sensitive list or map is masked value by value.
pub fn literals(hcl: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut characters = hcl.chars();
    while let Some(character) = characters.next() {
        if character != '"' {
            continue;
        }
        let mut literal = String::new();
        while let Some(character) = characters.next() {
            match character {
                '"' => break,
                '\\' => match characters.next() {
                    Some('n') => literal.push('\n'),
                    Some('t') => literal.push('\t'),
                    Some('r') => literal.push('\r'),
                    Some(other) => literal.push(other),
                    None => break,
                },
                other => literal.push(other),
            }
        }
        found.push(literal);
    }
    found
}

/// Everything that must not be shown.
pub fn secrets(spec: &JobSpec) -> Vec<String> {
    let mut secrets = Vec::new();
    for variable in spec.variables.iter().filter(|variable| variable.sensitive) {
        let value = variable.value.expose();
        if variable.hcl {
            secrets.extend(literals(value));
        }
        secrets.push(value.to_owned());
    }
    // A run's own value of a sensitive variable is as secret as the workspace's.
    for variable in &spec.run_variables {
        let sensitive = spec
            .variables
            .iter()
            .any(|other| other.sensitive && other.key == variable.key);
        if sensitive {
            secrets.extend(literals(variable.value.expose()));
        }
    }
    secrets
}

#[cfg(test)]
mod tests {
    use super::{Masker, base64, literals};

    /// Masks a text cut in every way into two pieces and in single bytes; all have to give the same.
    fn masked(values: &[&str], text: &str) -> String {
        let run = |pieces: Vec<&[u8]>| {
            let mut masker = Masker::new(values.iter().copied());
            let mut out = Vec::new();
            for piece in pieces {
                masker.push(piece, &mut out);
            }
            masker.finish(&mut out);
            String::from_utf8(out).unwrap()
        };
        let whole = run(vec![text.as_bytes()]);
        for cut in 0..text.len() {
            let (left, right) = text.as_bytes().split_at(cut);
            assert_eq!(run(vec![left, right]), whole, "cut at {cut}");
        }
        assert_eq!(run(text.as_bytes().chunks(1).collect()), whole);
        whole
    }

    #[test]
    fn case_14_a_value_is_masked_however_its_output_is_cut() {
        assert_eq!(
            masked(&["hunter2"], "a hunter2 b hunter b hunter2"),
            "a (sensitive value) b hunter b (sensitive value)"
        );
    }

    #[test]
    fn case_14_escaped_and_encoded_forms_are_masked() {
        let value = "pa\"ss<w>ord\\1";
        assert_eq!(
            masked(&[value], r#"{"m":"pa\"ss\u003cw\u003eord\\1"}"#),
            r#"{"m":"(sensitive value)"}"#
        );
        assert_eq!(masked(&[value], r#"pa\"ss<w>ord\\1"#), "(sensitive value)");
        for before in ["", "a", "ab"] {
            let encoded = base64(format!("{before}{value}xyz").as_bytes());
            let shown = masked(&[value], &encoded);
            assert!(shown.contains("(sensitive value)"), "{shown}");
            assert!(shown.len() <= "(sensitive value)".len() + 10, "{shown}");
        }
        assert_eq!(masked(&[value], &base64(value.as_bytes())), "(sensitive value)");
    }

    #[test]
    fn case_14_lines_of_a_value_are_masked_each() {
        let key = "-----BEGIN KEY-----\nabcdefgh\nijklmnop\n-----END KEY-----\n";
        assert_eq!(
            masked(&[key], "      abcdefgh\r\n| ijklmnop |"),
            "      (sensitive value)\r\n| (sensitive value) |"
        );
    }

    #[test]
    fn overlapping_values_are_masked_as_one() {
        assert_eq!(
            masked(&["abcdef", "defghi", "abcd"], "-abcdefghi-"),
            "-(sensitive value)-"
        );
    }

    #[test]
    fn short_values_and_plain_words_are_left_alone() {
        assert_eq!(
            masked(&["abc", "true", "", "null"], "abc true null"),
            "abc true null"
        );
    }

    #[test]
    fn only_a_possible_beginning_is_held_back() {
        let mut masker = Masker::new(["secret"]);
        let mut out = Vec::new();
        masker.push(b"line\nprompt: se", &mut out);
        assert_eq!(out, b"line\nprompt: ");
        masker.push(b"ven\n", &mut out);
        assert_eq!(out, b"line\nprompt: seven\n");
    }

    #[test]
    fn strings_inside_hcl_are_found() {
        assert_eq!(
            literals(r#"["one", { a = "t\"wo" }]"#),
            ["one".to_owned(), "t\"wo".to_owned()]
        );
    }
}
