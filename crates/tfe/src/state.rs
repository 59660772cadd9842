//! What can be read in a raw state.
//!
//! States are kept byte for byte. Reading one is optional: a state that a client encrypted, or one of an unknown
//! format, is opaque, and only its serial and lineage are taken when they are in clear.

use serde::Deserialize;
use serde_json::Value;

/// One output value of a state.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Name.
    pub name: String,
    /// Whether the configuration marked it sensitive.
    pub sensitive: bool,
    /// The value.
    pub value: Value,
    /// The engine's type, for example `"string"` or `["tuple", ["string"]]`.
    pub detailed_type: Value,
}

impl Output {
    /// The simple type that clients show: string, number, boolean, array, object.
    pub fn simple_type(&self) -> &'static str {
        let name = match &self.detailed_type {
            Value::String(name) => name.as_str(),
            Value::Array(parts) => parts.first().and_then(Value::as_str).unwrap_or_default(),
            _ => "",
        };
        match name {
            "string" => "string",
            "number" => "number",
            "bool" => "boolean",
            "list" | "set" | "tuple" => "array",
            "map" | "object" => "object",
            _ => match &self.value {
                Value::String(_) => "string",
                Value::Number(_) => "number",
                Value::Bool(_) => "boolean",
                Value::Array(_) => "array",
                Value::Object(_) | Value::Null => "object",
            },
        }
    }
}

/// What a raw state says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Serial, when it is in clear.
    pub serial: Option<u64>,
    /// Lineage, when it is in clear.
    pub lineage: Option<String>,
    /// Version of the engine that wrote it.
    pub engine_version: Option<String>,
    /// The contents, unless they can't be read here.
    pub contents: Option<Contents>,
}

/// The readable contents of a state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contents {
    /// Outputs of the root module, by name.
    pub outputs: Vec<Output>,
    /// Instances of managed resources.
    pub resource_count: u64,
}

/// Whether bytes are a JSON object, which every state is, encrypted ones too.
pub fn is_document(bytes: &[u8]) -> bool {
    let begins = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    begins == Some(&b'{') && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

#[derive(Deserialize)]
struct Raw {
    version: Option<u64>,
    serial: Option<u64>,
    lineage: Option<String>,
    terraform_version: Option<String>,
    encrypted_data: Option<Value>,
    outputs: Option<serde_json::Map<String, Value>>,
    resources: Option<Vec<RawResource>>,
}

#[derive(Deserialize)]
struct RawResource {
    mode: Option<String>,
    #[serde(default)]
    instances: Vec<serde::de::IgnoredAny>,
}

/// Reads a raw state. Never fails: what can't be read is left out.
pub fn read(bytes: &[u8]) -> State {
    let Ok(raw) = serde_json::from_slice::<Raw>(bytes) else {
        return State::default();
    };
    let readable = raw.version == Some(4) && raw.encrypted_data.is_none();
    let contents = readable.then(|| Contents {
        outputs: raw
            .outputs
            .iter()
            .flatten()
            .map(|(name, value)| output(name, value))
            .collect(),
        resource_count: raw
            .resources
            .iter()
            .flatten()
            .filter(|resource| resource.mode.as_deref() == Some("managed"))
            .map(|resource| resource.instances.len() as u64)
            .sum(),
    });
    State {
        serial: raw.serial,
        lineage: raw.lineage.filter(|lineage| !lineage.is_empty()),
        engine_version: raw.terraform_version,
        contents,
    }
}

/// A state with another serial; every other byte stays as it is.
///
/// `None` when its serial has to stay: of an encrypted state, because OpenTofu compares the serial in clear with the one
/// inside and refuses a state in which they differ, and of one that can't be read here.
pub fn with_serial(bytes: &[u8], serial: u64) -> Option<Vec<u8>> {
    let found = read(bytes);
    found.contents?;
    let (before, after) = around_serial(bytes, &found.serial?.to_string())?;
    let changed = [before, serial.to_string().as_bytes(), after].concat();
    // What the scan took for the document's own serial has to be it.
    (read(&changed).serial == Some(serial)).then_some(changed)
}

/// What stands before and behind the value of the outermost object's member `serial`.
fn around_serial<'a>(bytes: &'a [u8], value: &str) -> Option<(&'a [u8], &'a [u8])> {
    const KEY: &[u8] = b"\"serial\"";
    let (mut depth, mut at) = (0_u32, 0_usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let end = at + string_length(bytes.get(at..)?)?;
                let start = end + value_offset(bytes.get(end..)?).unwrap_or(0);
                if depth == 1 && start > end && bytes.get(at..end) == Some(KEY) {
                    let after = bytes.get(start..)?.strip_prefix(value.as_bytes())?;
                    return Some((bytes.get(..start)?, after));
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Bytes of the JSON string at the start, with its quotes.
fn string_length(bytes: &[u8]) -> Option<usize> {
    let mut escaped = true;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Where the value begins behind a member's name; `None` behind a string that is no name.
fn value_offset(bytes: &[u8]) -> Option<usize> {
    let colon = bytes.iter().position(|byte| !byte.is_ascii_whitespace())?;
    let rest = bytes.get(colon..)?.strip_prefix(b":")?;
    let blanks = rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
    Some(colon + 1 + blanks)
}

/// Reads the outputs that clients send beside a state (`json-state-outputs`): `{name: {sensitive, value, type}}`.
pub fn read_outputs(bytes: &[u8]) -> Option<Vec<Output>> {
    let outputs: serde_json::Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    Some(outputs.iter().map(|(name, value)| output(name, value)).collect())
}

fn output(name: &str, value: &Value) -> Output {
    Output {
        name: name.to_owned(),
        sensitive: value.get("sensitive").and_then(Value::as_bool).unwrap_or(false),
        value: value.get("value").cloned().unwrap_or(Value::Null),
        detailed_type: value.get("type").cloned().unwrap_or(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = r#"{"version":4,"terraform_version":"1.11.4","serial":7,"lineage":"babf",
        "outputs":{"o":{"value":"d","type":"string"},"l":{"value":["a"],"type":["tuple",["string"]],"sensitive":true}},
        "resources":[{"mode":"managed","type":"t","name":"a","instances":[{},{}]},
                     {"mode":"data","type":"t","name":"b","instances":[{}]}]}"#;

    #[test]
    fn a_plain_state_gives_its_outputs_and_counts_managed_resources() {
        let state = read(PLAIN.as_bytes());
        assert_eq!((state.serial, state.lineage.as_deref()), (Some(7), Some("babf")));
        let contents = state.contents.unwrap();
        assert_eq!(contents.resource_count, 2);
        let list = contents.outputs.iter().find(|output| output.name == "l").unwrap();
        assert!(list.sensitive);
        assert_eq!(list.simple_type(), "array");
    }

    #[test]
    fn an_encrypted_state_stays_opaque_but_for_serial_and_lineage() {
        let state = read(
            br#"{"serial":3,"lineage":"x","meta":{},"encrypted_data":"AAAA","encryption_version":"v0"}"#,
        );
        assert_eq!((state.serial, state.lineage.as_deref()), (Some(3), Some("x")));
        assert_eq!(state.contents, None);
        assert_eq!(read(b"\x00garbage"), State::default());
    }

    #[test]
    fn a_new_serial_changes_nothing_else_in_a_state() {
        let tricky = r#"{"outputs":{"serial":{"value":{"serial":7,"s":"\"serial\": 7"},"type":"x"}},
            "version":4, "lineage":"serial", "big":10000000000000000000000001, "serial" : 7, "resources":[]}"#;
        for state in [PLAIN, tricky] {
            let changed = with_serial(state.as_bytes(), 1203).unwrap();
            let back = with_serial(&changed, 7).unwrap();
            assert_eq!(
                (read(&changed).serial, back.as_slice()),
                (Some(1203), state.as_bytes())
            );
        }
    }

    #[test]
    fn what_is_encrypted_or_unknown_keeps_its_serial() {
        let kept = [
            r#"{"serial":3,"lineage":"x","meta":{},"encrypted_data":"AAAA","encryption_version":"v0"}"#,
            r#"{"version":3,"serial":3}"#,
            r#"{"version":4,"lineage":"no serial"}"#,
            r#"{"version":4,"\u0073erial":3}"#,
            "\u{0}garbage",
            "",
        ];
        for state in kept {
            assert_eq!(with_serial(state.as_bytes(), 9), None, "{state}");
        }
    }
}
