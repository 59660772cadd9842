//! Two states as they are written, line by line, without what is sensitive in them.

use std::fmt;

use serde_json::Value;

use crate::http::web::parts::words::count;
use crate::http::web::parts::{Escaped, html};

/// Lines around a difference that are shown.
const AROUND: usize = 3;

/// Lines that may differ: two states with more differences are told apart better by their resources.
const MOST_DIFFERENT: usize = 500;

/// Characters of a line that are shown.
const LONGEST: usize = 2000;

/// What stands for a value that is not shown.
const HIDDEN: &str = "(sensitive value)";

/// A state as lines of JSON with its members in order, sensitive values hidden; `None` when it can't be read.
pub fn masked(bytes: &[u8]) -> Option<String> {
    let mut state: Value = serde_json::from_slice(bytes).ok()?;
    for resource in state.get_mut("resources")?.as_array_mut()? {
        let instances = resource.get_mut("instances").and_then(Value::as_array_mut);
        for instance in instances.into_iter().flatten() {
            mask(instance);
        }
    }
    let outputs = state.get_mut("outputs").and_then(Value::as_object_mut);
    for (_, output) in outputs.into_iter().flatten() {
        if output["sensitive"] == true {
            output["value"] = HIDDEN.into();
        }
    }
    serde_json::to_string_pretty(&state).ok()
}

/// Hides the sensitive attributes of a resource instance, and what its provider keeps for itself.
fn mask(instance: &mut Value) {
    let paths = instance["sensitive_attributes"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    for path in &paths {
        let Some(attributes) = instance.get_mut("attributes") else {
            continue;
        };
        match path.get(0).and_then(|step| step["value"].as_str()) {
            // A path that leads into an attribute hides all of it.
            Some(name) => {
                if let Some(value) = attributes.get_mut(name) {
                    *value = HIDDEN.into();
                }
            }
            None => *attributes = HIDDEN.into(),
        }
    }
    if let Some(private) = instance.get_mut("private") {
        *private = HIDDEN.into();
    }
}

/// A line of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Both have it.
    Same(String),
    /// Only the older one has it.
    Old(String),
    /// Only the newer one has it.
    New(String),
    /// So many that both have are left out.
    Skipped(usize),
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tone, sign, text, tag) = match self {
            Self::Same(text) => ("", "", text, "span"),
            Self::Old(text) => (" bad", "−", text, "del"),
            Self::New(text) => (" good", "+", text, "ins"),
            Self::Skipped(lines) => {
                let lines = count(*lines as u64, "line", "lines");
                return write!(
                    out,
                    r#"<tr><td class="s"></td><td><em>{lines} as before</em></td></tr>"#
                );
            }
        };
        let cut: String = text.chars().take(LONGEST).collect();
        let more = if cut.len() < text.len() { " …" } else { "" };
        let indent = cut.len() - cut.trim_start().len();
        write!(
            out,
            r#"<tr><td class="s{tone}">{sign}</td><td>{}<{tag}>{}{more}</{tag}></td></tr>"#,
            "&nbsp;".repeat(indent),
            Escaped(cut.trim_start())
        )
    }
}

html!(Line);

/// How two texts differ, with a few lines around each difference; `None` when they differ in too many lines.
pub fn difference(old: &str, new: &str) -> Option<Vec<Line>> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let begin = old
        .iter()
        .zip(&new)
        .take_while(|(one, other)| one == other)
        .count();
    let end = old[begin..]
        .iter()
        .rev()
        .zip(new[begin..].iter().rev())
        .take_while(|(one, other)| one == other)
        .count();
    let (olds, news) = (&old[begin..old.len() - end], &new[begin..new.len() - end]);
    let mut lines: Vec<Line> = Vec::new();
    lines.extend(old[..begin].iter().map(|line| Line::Same((*line).to_owned())));
    lines.extend(edits(olds, news)?);
    lines.extend(
        old[old.len() - end..]
            .iter()
            .map(|line| Line::Same((*line).to_owned())),
    );
    Some(without_the_same(lines))
}

/// The shortest way from one list of lines to another (E. W. Myers, An O(ND) Difference Algorithm, 1986).
fn edits(old: &[&str], new: &[&str]) -> Option<Vec<Line>> {
    // The furthest line of `old` on each diagonal, for each number of differences; diagonals are moved by this much, so
    // that none is negative.
    let middle = MOST_DIFFERENT + 1;
    let mut furthest = vec![0_usize; 2 * middle + 1];
    let mut steps: Vec<Vec<usize>> = Vec::new();
    for different in 0..=MOST_DIFFERENT {
        steps.push(furthest[middle - different..=middle + different].to_vec());
        for diagonal in (middle - different..=middle + different).step_by(2) {
            let down = diagonal == middle - different
                || (diagonal != middle + different && furthest[diagonal - 1] < furthest[diagonal + 1]);
            let mut x = if down {
                furthest[diagonal + 1]
            } else {
                furthest[diagonal - 1] + 1
            };
            let Some(mut y) = (x + middle).checked_sub(diagonal) else {
                continue;
            };
            while x < old.len() && y < new.len() && old[x] == new[y] {
                (x, y) = (x + 1, y + 1);
            }
            furthest[diagonal] = x;
            if x >= old.len() && y >= new.len() {
                return Some(way_back(old, new, &steps, middle));
            }
        }
    }
    None
}

/// The lines of the way that was found, from its end to its begin.
fn way_back(old: &[&str], new: &[&str], steps: &[Vec<usize>], middle: usize) -> Vec<Line> {
    let (mut x, mut y) = (old.len(), new.len());
    let mut lines = Vec::new();
    for (different, furthest) in steps.iter().enumerate().rev() {
        let diagonal = x + middle - y;
        // What was kept of this step begins with its lowest diagonal.
        let at = |diagonal: usize| furthest.get(diagonal + different - middle).copied().unwrap_or(0);
        let (lowest, highest) = (middle - different, middle + different);
        let down = diagonal == lowest || (diagonal != highest && at(diagonal - 1) < at(diagonal + 1));
        let before = if different == 0 {
            0
        } else if down {
            at(diagonal + 1)
        } else {
            at(diagonal - 1)
        };
        let before_diagonal = if down { diagonal + 1 } else { diagonal - 1 };
        let before_y = if different == 0 {
            0
        } else {
            before + middle - before_diagonal
        };
        while x > before && y > before_y {
            (x, y) = (x - 1, y - 1);
            lines.push(Line::Same(old[x].to_owned()));
        }
        if different > 0 {
            if down {
                y -= 1;
                lines.push(Line::New(new[y].to_owned()));
            } else {
                x -= 1;
                lines.push(Line::Old(old[x].to_owned()));
            }
        }
    }
    lines.reverse();
    lines
}

/// Leaves out what both have, but for a few lines around each difference.
fn without_the_same(lines: Vec<Line>) -> Vec<Line> {
    let is_same = |line: &Line| matches!(line, Line::Same(_));
    let mut kept = vec![false; lines.len()];
    for at in (0..lines.len()).filter(|at| !is_same(&lines[*at])) {
        kept[at.saturating_sub(AROUND)..(at + AROUND + 1).min(lines.len())].fill(true);
    }
    let mut shown = Vec::new();
    for (line, kept) in lines.into_iter().zip(kept) {
        match shown.last_mut() {
            _ if kept => shown.push(line),
            Some(Line::Skipped(number)) => *number += 1,
            _ => shown.push(Line::Skipped(1)),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(old: &str, new: &str) -> Vec<String> {
        let text = |words: &str| words.split(' ').collect::<Vec<_>>().join("\n");
        let lines = difference(&text(old), &text(new)).unwrap();
        lines
            .into_iter()
            .map(|line| match line {
                Line::Same(text) => text,
                Line::Old(text) => format!("-{text}"),
                Line::New(text) => format!("+{text}"),
                Line::Skipped(lines) => format!("..{lines}"),
            })
            .collect()
    }

    #[test]
    fn the_shortest_way_from_one_text_to_another_is_shown() {
        assert_eq!(words("a b c", "a b c"), ["..3"]);
        assert_eq!(words("a b c", "a x c"), ["a", "-b", "+x", "c"]);
        assert_eq!(words("a b c", "c"), ["-a", "-b", "c"]);
        assert_eq!(words("c", "a b c d"), ["+a", "+b", "c", "+d"]);
        assert_eq!(
            words("1 2 3 4 5 x 6 7 8 9", "1 2 3 4 5 y 6 7 8 9"),
            ["..2", "3", "4", "5", "-x", "+y", "6", "7", "8", "..1"]
        );
    }

    /// Whatever the texts: without the new lines it is the old one, without the old lines the new one.
    #[test]
    fn every_way_leads_from_the_old_text_to_the_new_one() {
        let mut number = 7_u32;
        let mut draw = |most: u32| {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (number >> 16) % most
        };
        for _ in 0..300 {
            let mut text = || -> Vec<String> {
                let lines = draw(14);
                (0..lines).map(|_| draw(4).to_string()).collect()
            };
            let (old, new) = (text(), text());
            let (one, other): (Vec<&str>, Vec<&str>) = (
                old.iter().map(String::as_str).collect(),
                new.iter().map(String::as_str).collect(),
            );
            let way = edits(&one, &other).unwrap();
            let side = |left_out: fn(&Line) -> bool| -> Vec<String> {
                let kept = way.iter().filter(|line| !left_out(line));
                kept.map(|line| match line {
                    Line::Same(text) | Line::Old(text) | Line::New(text) => text.clone(),
                    Line::Skipped(_) => panic!("nothing is left out yet"),
                })
                .collect()
            };
            assert_eq!(side(|line| matches!(line, Line::New(_))), old);
            assert_eq!(side(|line| matches!(line, Line::Old(_))), new);
        }
    }

    #[test]
    fn texts_without_anything_in_common_are_not_compared() {
        let text = |mark: &str| {
            (0..1000)
                .map(|line| format!("{mark}{line}\n"))
                .collect::<String>()
        };
        assert_eq!(difference(&text("a"), &text("b")), None);
        assert!(difference(&text("a"), &text("a")).is_some());
    }

    #[test]
    fn what_is_sensitive_is_in_no_line() {
        let state = json!({"serial": 3, "resources": [{"type": "a", "instances": [{
                "attributes": {"size": 4, "password": "hunter2", "deep": {"key": "hunter2"}},
                "private": "aHVudGVyMg==", "sensitive_attributes": [
                    [{"type": "get_attr", "value": "password"}],
                    [{"type": "get_attr", "value": "deep"}, {"type": "get_attr", "value": "key"}]]}]}],
            "outputs": {"plain": {"value": 4}, "secret": {"value": "hunter2", "sensitive": true}}});
        let text = masked(state.to_string().as_bytes()).unwrap();
        assert!(
            !text.contains("hunter2") && !text.contains("aHVudGVyMg"),
            "{text}"
        );
        assert!(
            text.contains("\"size\": 4") && text.contains("\"serial\": 3"),
            "{text}"
        );
        assert_eq!(masked(b"{\"encryption_version\":\"v0\"}"), None);
        let line = Line::New("  \"<b>\"".to_owned()).to_string();
        assert!(
            line.contains("<td>&nbsp;&nbsp;<ins>&quot;&lt;b&gt;&quot;</ins>"),
            "{line}"
        );
    }
}
