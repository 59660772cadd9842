//! Lines of a log: plain output as it is, machine-readable output as its messages.

use serde_json::Value;

use super::ansi;

/// Adds the lines that a line of a log's file is shown as, without its line break: a message with line breaks becomes
/// several.
pub fn expand(line: &[u8], lines: &mut Vec<String>) {
    let line = String::from_utf8_lossy(line);
    // A line that was written over keeps its last text.
    let line = line.trim_end_matches('\r');
    let line = line.rsplit('\r').next().unwrap_or(line);
    match line.starts_with("{\"@").then(|| serde_json::from_str(line)) {
        Some(Ok(message)) => lines.extend(message_lines(&message)),
        _ => lines.push(line.to_owned()),
    }
}

/// A message of the machine-readable output.
fn message_lines(message: &Value) -> Vec<String> {
    let text = message["@message"].as_str().unwrap_or_default();
    match message["type"].as_str() {
        Some("diagnostic") => diagnostic(&message["diagnostic"]),
        Some("outputs") => outputs(text, &message["outputs"]),
        _ => text.lines().map(str::to_owned).collect(),
    }
}

fn diagnostic(diagnostic: &Value) -> Vec<String> {
    let text = |name: &str| diagnostic[name].as_str().unwrap_or_default();
    let (colour, word) = if text("severity") == "error" {
        ("31", "Error")
    } else {
        ("33", "Warning")
    };
    let bar = format!("\u{1b}[{colour}m│\u{1b}[0m ");
    let mut lines = vec![
        format!("\u{1b}[{colour}m╷\u{1b}[0m"),
        format!(
            "{bar}\u{1b}[1;{colour}m{word}:\u{1b}[0m \u{1b}[1m{}\u{1b}[0m",
            text("summary")
        ),
    ];
    let range = &diagnostic["range"];
    if let (Some(file), Some(line)) = (range["filename"].as_str(), range["start"]["line"].as_u64()) {
        lines.push(bar.clone());
        if let Some(address) = diagnostic["address"].as_str() {
            lines.push(format!("{bar}  with {address},"));
        }
        let context = diagnostic["snippet"]["context"].as_str();
        let context = context.map_or_else(String::new, |context| format!(", in {context}"));
        lines.push(format!("{bar}  on {file} line {line}{context}:"));
        if let Some(code) = diagnostic["snippet"]["code"].as_str() {
            lines.extend(code.lines().map(|code| format!("{bar}  {line}: {code}")));
        }
    }
    if !text("detail").is_empty() {
        lines.push(bar.clone());
        lines.extend(text("detail").lines().map(|detail| format!("{bar}{detail}")));
    }
    lines.push(format!("\u{1b}[{colour}m╵\u{1b}[0m"));
    lines
}

fn outputs(text: &str, outputs: &Value) -> Vec<String> {
    let mut lines = vec![text.to_owned()];
    for (name, output) in outputs.as_object().into_iter().flatten() {
        let value = if output["sensitive"] == true {
            "<sensitive>".to_owned()
        } else {
            output.get("value").unwrap_or(&Value::Null).to_string()
        };
        lines.push(format!("{name} = {value}"));
    }
    lines
}

/// Whether a line begins an error.
pub fn is_error(line: &str) -> bool {
    if !line.contains("Error:") {
        return false;
    }
    let plain = ansi::plain(line);
    let plain = plain.trim_start_matches(['│', ' ']);
    plain.starts_with("Error:")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(line: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        expand(line, &mut lines);
        lines
    }

    #[test]
    fn plain_output_is_kept_and_written_over_lines_keep_their_last_text() {
        assert_eq!(lines(b"one\r"), ["one"]);
        assert_eq!(lines(b"10%\r20%\rdone"), ["done"]);
        assert_eq!(lines(b"a\xffb"), ["a\u{fffd}b"]);
        assert_eq!(lines(b""), [""]);
    }

    #[test]
    fn messages_diagnostics_and_outputs_are_read_out_of_machine_readable_output() {
        let log = [
            json!({"@level": "info", "@message": "a.b: Creating...", "type": "apply_start"}).to_string(),
            json!({"@level": "error", "@message": "Error: broken", "type": "diagnostic", "diagnostic": {
                "severity": "error", "summary": "broken", "detail": "one\ntwo",
                "range": {"filename": "main.tf", "start": {"line": 3}},
                "snippet": {"context": "resource \"a\" \"b\"", "code": "  x = 1"}}})
            .to_string(),
            json!({"@level": "info", "@message": "Outputs: 1", "type": "outputs",
                "outputs": {"secret": {"sensitive": true, "value": "x"}, "size": {"value": 2}}})
            .to_string(),
        ];
        let lines: Vec<String> = log.iter().flat_map(|line| lines(line.as_bytes())).collect();
        assert_eq!(lines[0], "a.b: Creating...");
        assert!(is_error(&lines[2]), "{}", lines[2]);
        let plain: Vec<String> = lines.iter().map(|line| ansi::plain(line)).collect();
        assert!(
            plain.contains(&"│   on main.tf line 3, in resource \"a\" \"b\":".to_owned()),
            "{plain:?}"
        );
        assert!(plain.contains(&"│ two".to_owned()));
        assert!(plain.contains(&"secret = <sensitive>".to_owned()));
    }
}
