//! How far an apply has come with each resource, read from its log.

use std::collections::BTreeMap;

use super::ansi;

/// Where a resource of an apply stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is being worked on.
    Working,
    /// It is done.
    Done,
    /// It failed.
    Failed,
}

/// A resource that an apply has begun with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its address.
    pub address: String,
    /// Where it stands.
    pub stage: Stage,
    /// How long it took, or takes so far, as the engine says it ("3s", "1m10s").
    pub took: String,
}

/// What a line says of a resource.
enum Said<'a> {
    Begun,
    Going(&'a str),
    Ended(&'a str),
    Failed,
}

/// The address in front of a message, and what the message says.
fn said(line: &str) -> Option<(&str, Said<'_>)> {
    // Addresses may hold colons in their keys: the message begins behind the last ": " that fits.
    for (at, _) in line.rmatch_indices(": ") {
        let (address, message) = (&line[..at], &line[at + 2..]);
        let said = if ["Creating...", "Modifying...", "Destroying..."]
            .iter()
            .any(|word| message.starts_with(word))
        {
            Said::Begun
        } else if message.starts_with("Still ") {
            Said::Going(elapsed(message))
        } else if let Some((_, rest)) = message.split_once(" complete after ") {
            Said::Ended(rest.split([' ', '[']).next().unwrap_or_default())
        } else if message.contains(" errored after ") {
            Said::Failed
        } else {
            continue;
        };
        return Some((address, said));
    }
    None
}

/// "Still creating... [id=x, 10s elapsed]" or "[00m10s elapsed]" → "10s".
fn elapsed(message: &str) -> &str {
    message
        .rsplit(['[', ' ', ','])
        .find(|part| part.ends_with('s') && part.starts_with(|first: char| first.is_ascii_digit()))
        .unwrap_or_default()
}

/// The seconds of an engine's "3s", "1m10s", "00m10s" or "1h2m3s".
pub fn seconds(took: &str) -> Option<u64> {
    let (mut sum, mut number) = (0, None);
    for letter in took.chars() {
        if let Some(digit) = letter.to_digit(10) {
            number = Some(number.unwrap_or(0_u64).saturating_mul(10) + u64::from(digit));
            continue;
        }
        let unit = match letter {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        sum += number.take()?.saturating_mul(unit);
    }
    (number.is_none() && !took.is_empty()).then_some(sum)
}

/// The resources that an apply has begun with, in that order, as its log has told so far.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    steps: Vec<Step>,
    /// Where each of them is.
    places: BTreeMap<String, usize>,
}

impl Steps {
    /// Those that were read before, to go on with.
    pub fn after(steps: &[Step]) -> Self {
        let places = steps.iter().enumerate();
        Self {
            places: places
                .map(|(place, step)| (step.address.clone(), place))
                .collect(),
            steps: steps.to_vec(),
        }
    }

    /// The resources.
    pub fn list(&self) -> &[Step] {
        &self.steps
    }

    /// The next line of the log.
    pub fn read(&mut self, line: &str) {
        if !line.contains("...") && !line.contains(" after ") {
            return;
        }
        let plain = ansi::plain(line);
        let Some((address, said)) = said(&plain) else {
            return;
        };
        let (stage, took) = match said {
            Said::Begun => (Stage::Working, ""),
            Said::Going(took) => (Stage::Working, took),
            Said::Ended(took) => (Stage::Done, took),
            Said::Failed => (Stage::Failed, ""),
        };
        let place = self.places.get(address);
        match place.and_then(|place| self.steps.get_mut(*place)) {
            // A replaced resource is destroyed, and then begun with again.
            Some(step) if step.stage == Stage::Done && matches!(said, Said::Begun) => {
                step.stage = Stage::Working;
            }
            Some(step) => {
                step.stage = stage;
                if !took.is_empty() {
                    took.clone_into(&mut step.took);
                }
            }
            None => {
                self.places.insert(address.to_owned(), self.steps.len());
                self.steps.push(Step {
                    address: address.to_owned(),
                    stage,
                    took: took.to_owned(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[String]) -> Vec<Step> {
        let mut steps = Steps::default();
        for line in lines {
            steps.read(line);
        }
        steps.list().to_vec()
    }

    #[test]
    fn resources_are_followed_from_their_begin_to_their_end() {
        let log: Vec<String> = [
            "aws_x.a: Creating...",
            "\u{1b}[1maws_x.b[\"k: v\"]: Modifying... [id=1]\u{1b}[0m",
            "aws_x.a: Still creating... [10s elapsed]",
            "aws_x.a: Creation complete after 12s [id=a]",
            "aws_x.c: Destroying... [id=c]",
            "aws_x.c: Still destroying... [id=c, 20s elapsed]",
            "Apply complete! Resources: 1 added",
        ]
        .map(str::to_owned)
        .to_vec();
        let steps = read(&log);
        let found: Vec<(&str, Stage, &str)> = steps
            .iter()
            .map(|step| (step.address.as_str(), step.stage, step.took.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("aws_x.a", Stage::Done, "12s"),
                ("aws_x.b[\"k: v\"]", Stage::Working, ""),
                ("aws_x.c", Stage::Working, "20s"),
            ]
        );
    }

    #[test]
    fn the_times_of_engines_are_read() {
        for (took, expected) in [
            ("3s", Some(3)),
            ("00m10s", Some(10)),
            ("1m10s", Some(70)),
            ("1h2m3s", Some(3723)),
            ("", None),
            ("10", None),
            ("long", None),
        ] {
            assert_eq!(seconds(took), expected, "{took}");
        }
    }

    #[test]
    fn a_replaced_resource_is_done_when_the_new_one_is() {
        let log: Vec<String> = [
            "a.b: Destroying... [id=1]",
            "a.b: Destruction complete after 1s",
            "a.b: Creating...",
        ]
        .map(str::to_owned)
        .to_vec();
        assert_eq!(read(&log)[0].stage, Stage::Working);
    }
}
