//! What differs between two states.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::values::{Sides, compare};
use super::{Action, Change};

/// A resource instance of a state.
#[derive(Debug, Clone)]
struct Instance {
    module: String,
    name: String,
    attributes: Value,
    sensitive: Value,
}

/// Resource instances of a state by address, and how many of each type.
#[derive(Debug, Clone, Default)]
pub struct Document {
    instances: BTreeMap<String, Instance>,
    outputs: BTreeMap<String, Value>,
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

impl Document {
    /// Reads a raw state; `None` when it can't be read, for example because the engine encrypted it.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let state: Value = serde_json::from_slice(bytes).ok()?;
        let resources = state.get("resources")?.as_array()?;
        let mut document = Self::default();
        for resource in resources {
            for instance in array(&resource["instances"]) {
                let instance = read_instance(resource, instance);
                let address = if instance.module.is_empty() {
                    instance.name.clone()
                } else {
                    format!("{}.{}", instance.module, instance.name)
                };
                document.instances.insert(address, instance);
            }
        }
        for (name, output) in state["outputs"].as_object().into_iter().flatten() {
            document.outputs.insert(name.clone(), output.clone());
        }
        Some(document)
    }

    /// Instances of managed resources by type, most first.
    pub fn types(&self) -> Vec<(String, u64)> {
        let mut types: BTreeMap<&str, u64> = BTreeMap::new();
        for instance in self.instances.values() {
            if let Some((kind, _)) = instance.name.split_once('.')
                && kind != "data"
            {
                *types.entry(kind).or_default() += 1;
            }
        }
        let mut types: Vec<(String, u64)> = types
            .into_iter()
            .map(|(kind, number)| (kind.to_owned(), number))
            .collect();
        types.sort_by(|one, two| two.1.cmp(&one.1).then_with(|| one.0.cmp(&two.0)));
        types
    }

    /// Whether it has a resource instance with this address.
    pub fn has(&self, address: &str) -> bool {
        self.instances.contains_key(address)
    }

    /// The outputs as the state has them: an object with `value`, `type` and perhaps `sensitive` each.
    pub fn outputs(&self) -> &BTreeMap<String, Value> {
        &self.outputs
    }
}

fn read_instance(resource: &Value, instance: &Value) -> Instance {
    let text = |name: &str| resource[name].as_str().unwrap_or_default();
    let data = if text("mode") == "data" { "data." } else { "" };
    let key = match &instance["index_key"] {
        Value::Null => String::new(),
        key => format!("[{key}]"),
    };
    Instance {
        module: text("module").to_owned(),
        name: format!("{data}{}.{}{key}", text("type"), text("name")),
        attributes: instance["attributes"].clone(),
        sensitive: sensitive(&instance["sensitive_attributes"]),
    }
}

/// Marks in the shape of the values, from a list of paths. A path that leads into a list marks the whole attribute.
fn sensitive(paths: &Value) -> Value {
    let mut marks = Map::new();
    for path in array(paths) {
        let first = array(path).first().map_or(&Value::Null, |step| &step["value"]);
        if let Some(name) = first.as_str() {
            marks.insert(name.to_owned(), Value::Bool(true));
        }
    }
    Value::Object(marks)
}

/// What differs, and how many instances do not.
pub fn difference(old: &Document, new: &Document) -> (Vec<Change>, usize) {
    let mut changes = Vec::new();
    let mut unchanged = 0;
    let mut addresses: Vec<&String> = old.instances.keys().chain(new.instances.keys()).collect();
    addresses.sort();
    addresses.dedup();
    for address in addresses {
        let (before, after) = (old.instances.get(address), new.instances.get(address));
        let Some(known) = after.or(before) else {
            continue;
        };
        let side = |instance: Option<&Instance>| {
            instance.map_or((Value::Null, Value::Null), |found| {
                (found.attributes.clone(), found.sensitive.clone())
            })
        };
        let ((old, old_sensitive), (new, new_sensitive)) = (side(before), side(after));
        let action = match (before, after) {
            (None, _) => Action::Create,
            (_, None) => Action::Destroy,
            (Some(_), Some(_)) if old == new => {
                unchanged += 1;
                continue;
            }
            (Some(_), Some(_)) => Action::Update,
        };
        changes.push(change(
            (action, &known.module, &known.name),
            (&old, &old_sensitive),
            (&new, &new_sensitive),
        ));
    }
    for (name, before, after) in outputs(old, new) {
        let part = |output: Option<&Value>, member: &str| {
            output.map_or(Value::Null, |output| {
                output.get(member).cloned().unwrap_or(Value::Null)
            })
        };
        let wrap = |value: Value| serde_json::json!({ "value": value });
        let action = match (before, after) {
            (None, _) => Action::Create,
            (_, None) => Action::Destroy,
            (Some(_), Some(_)) => Action::Update,
        };
        changes.push(change(
            (action, "", &format!("output.{name}")),
            (&wrap(part(before, "value")), &wrap(part(before, "sensitive"))),
            (&wrap(part(after, "value")), &wrap(part(after, "sensitive"))),
        ));
    }
    (changes, unchanged)
}

fn outputs<'a>(
    old: &'a Document,
    new: &'a Document,
) -> Vec<(&'a String, Option<&'a Value>, Option<&'a Value>)> {
    let mut names: Vec<&String> = old.outputs.keys().chain(new.outputs.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|name| (name, old.outputs.get(name), new.outputs.get(name)))
        .filter(|(_, before, after)| before != after)
        .collect()
}

fn change(
    (action, module, name): (Action, &str, &str),
    (old, old_sensitive): (&Value, &Value),
    (new, new_sensitive): (&Value, &Value),
) -> Change {
    let mut difference = compare(Sides {
        old,
        new,
        unknown: &Value::Null,
        old_sensitive,
        new_sensitive,
        schema: &Value::Null,
    });
    if action == Action::Destroy {
        for attribute in &mut difference.attributes {
            attribute.new = None;
        }
    }
    Change {
        action,
        module: module.to_owned(),
        name: name.to_owned(),
        attributes: difference.attributes,
        unchanged: difference.unchanged,
        note: None,
        also_outside: false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Shown;
    use super::*;

    fn document(size: u64, password: &str) -> Document {
        let state = json!({
            "outputs": {"size": {"value": size, "type": "number"},
                "key": {"value": password, "type": "string", "sensitive": true}},
            "resources": [{"mode": "managed", "type": "aws_db", "name": "a", "module": "module.m",
                "instances": [{"index_key": "x", "attributes": {"size": size, "password": password},
                    "sensitive_attributes": [[{"type": "get_attr", "value": "password"}]]}]}],
        });
        Document::read(state.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn attributes_and_outputs_are_compared_and_secrets_are_not_shown() {
        let (changes, unchanged) = difference(&document(1, "old"), &document(2, "new"));
        assert_eq!(unchanged, 0);
        assert_eq!(changes[0].address(), "module.m.aws_db.a[\"x\"]");
        assert_eq!(changes[0].attributes[0].new, Some(Shown::Sensitive));
        assert_eq!(changes[0].attributes[1].new, Some(Shown::Text("2".to_owned())));
        let text = format!("{changes:?}");
        assert!(!text.contains("\"old\"") && !text.contains("\"new\""), "{text}");
        assert_eq!(difference(&document(1, "a"), &document(1, "a")).1, 1);
    }

    #[test]
    fn resources_that_come_and_go_are_created_and_destroyed() {
        let (made, _) = difference(&Document::default(), &document(1, "p"));
        assert_eq!(made[0].action, Action::Create);
        let (gone, _) = difference(&document(1, "p"), &Document::default());
        assert_eq!(gone[0].action, Action::Destroy);
        assert!(gone[0].attributes.iter().all(|attribute| attribute.new.is_none()));
        assert_eq!(document(1, "p").types(), [("aws_db".to_owned(), 1)]);
    }

    #[test]
    fn a_state_that_the_engine_encrypted_is_not_read() {
        assert!(Document::read(b"{\"encryption_version\":\"v0\"}").is_none());
    }
}
