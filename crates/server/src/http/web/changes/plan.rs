//! The changes of a plan, read from the plan as clients render it, which holds no sensitive values.

use std::collections::BTreeSet;

use serde_json::Value;

use super::values::{Sides, compare};
use super::{Action, Change, Shown};

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What happens to resources.
    pub resources: Vec<Change>,
    /// What happens to outputs.
    pub outputs: Vec<Change>,
    /// What was changed outside, and is not changed by the plan.
    pub outside: Vec<Change>,
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Reads the document; `None` when it is no plan.
pub fn read(document: &[u8]) -> Option<Plan> {
    let document: Value = serde_json::from_slice(document).ok()?;
    let drifted: BTreeSet<&str> = array(&document["resource_drift"])
        .iter()
        .filter(|entry| action(entry).is_some_and(|action| !matches!(action, Action::Move)))
        .filter_map(|entry| entry["address"].as_str())
        .collect();
    let resources: Vec<Change> = array(&document["resource_changes"])
        .iter()
        .filter_map(|entry| {
            let mut change = resource(entry, &document, action(entry)?);
            change.also_outside = entry["address"]
                .as_str()
                .is_some_and(|address| drifted.contains(address));
            Some(change)
        })
        .collect();
    let planned: BTreeSet<String> = resources.iter().map(Change::address).collect();
    let outside = array(&document["resource_drift"])
        .iter()
        .filter(|entry| {
            let address = entry["address"].as_str().unwrap_or_default();
            drifted.contains(address) && !planned.contains(address)
        })
        .map(|entry| resource(entry, &document, Action::Outside))
        .collect();
    let outputs = document["output_changes"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, change)| output(name, change))
        .collect();
    Some(Plan {
        resources,
        outputs,
        outside,
    })
}

/// What happens to the resource of an entry; `None` when nothing does.
fn action(entry: &Value) -> Option<Action> {
    let change = &entry["change"];
    let actions: Vec<&str> = array(&change["actions"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    Some(match actions.as_slice() {
        ["create"] => Action::Create,
        ["read"] => Action::Read,
        ["update"] => Action::Update,
        ["delete"] => Action::Destroy,
        ["forget"] => Action::Forget,
        ["delete", "create"] => Action::Replace { create_first: false },
        ["create", "delete"] => Action::Replace { create_first: true },
        _ if !change["importing"].is_null() => Action::Import,
        _ if entry["previous_address"].is_string() => Action::Move,
        _ => return None,
    })
}

fn resource(entry: &Value, document: &Value, action: Action) -> Change {
    let text = |name: &str| entry[name].as_str().unwrap_or_default();
    let (address, module) = (text("address"), text("module_address"));
    let name = address
        .strip_prefix(module)
        .and_then(|rest| rest.strip_prefix('.'))
        .filter(|_| !module.is_empty())
        .unwrap_or(address);
    let kind = if text("mode") == "data" {
        "data_source_schemas"
    } else {
        "resource_schemas"
    };
    let schema = &document["provider_schemas"][text("provider_name")][kind][text("type")]["block"];
    let change = &entry["change"];
    let mut difference = compare(Sides {
        old: &change["before"],
        new: &change["after"],
        unknown: &change["after_unknown"],
        old_sensitive: &change["before_sensitive"],
        new_sensitive: &change["after_sensitive"],
        schema,
    });
    let forcing: Vec<String> = array(&change["replace_paths"]).iter().map(path).collect();
    for attribute in &mut difference.attributes {
        let name = &attribute.name;
        attribute.forces = forcing.iter().any(|forcing| {
            name == forcing
                || name
                    .strip_prefix(forcing.as_str())
                    .is_some_and(|rest| rest.starts_with(['.', '[']))
        });
        if action == Action::Destroy {
            attribute.new = None;
        }
    }
    let note = match action {
        Action::Import => change["importing"]["id"].as_str().map(|id| format!("id {id}")),
        _ => entry["previous_address"]
            .as_str()
            .map(|from| format!("from {from}")),
    };
    Change {
        action,
        module: module.to_owned(),
        name: name.to_owned(),
        attributes: difference.attributes,
        unchanged: difference.unchanged,
        note,
        also_outside: false,
    }
}

/// `["ingress", 3, "cidr"]` → `ingress[3].cidr`.
fn path(steps: &Value) -> String {
    let mut path = String::new();
    for step in array(steps) {
        match step {
            Value::String(name) if path.is_empty() => path.push_str(name),
            Value::String(name) => path.push_str(&format!(".{name}")),
            step => path.push_str(&format!("[{step}]")),
        }
    }
    path
}

fn output(name: &str, change: &Value) -> Option<Change> {
    let actions: Vec<&str> = array(&change["actions"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let action = match actions.as_slice() {
        ["create"] => Action::Create,
        ["delete"] => Action::Destroy,
        ["update"] | ["delete", "create"] | ["create", "delete"] => Action::Update,
        _ => return None,
    };
    // As an attribute of this name, so that a plain value is a line of its own.
    let wrap = |value: &Value| serde_json::json!({ name: value });
    let (old, new) = (wrap(&change["before"]), wrap(&change["after"]));
    let (unknown, old_sensitive, new_sensitive) = (
        wrap(&change["after_unknown"]),
        wrap(&change["before_sensitive"]),
        wrap(&change["after_sensitive"]),
    );
    let mut difference = compare(Sides {
        old: &old,
        new: &new,
        unknown: &unknown,
        old_sensitive: &old_sensitive,
        new_sensitive: &new_sensitive,
        schema: &Value::Null,
    });
    if action == Action::Destroy {
        for attribute in &mut difference.attributes {
            attribute.new = attribute.new.take().filter(|new| *new != Shown::Null);
        }
    }
    Some(Change {
        action,
        module: String::new(),
        name: name.to_owned(),
        attributes: difference.attributes,
        unchanged: difference.unchanged,
        note: None,
        also_outside: false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(text: &str) -> Option<Shown> {
        Some(Shown::Text(text.to_owned()))
    }

    #[test]
    fn a_plan_is_read_with_what_forces_a_replacement_and_without_secrets() {
        let document = json!({
            "provider_schemas": {"p": {"resource_schemas": {"aws_gw": {"block": {"attributes": {"key": {"sensitive": true}}}}}}},
            "resource_changes": [
                {"address": "module.vpn.aws_gw.a", "module_address": "module.vpn", "mode": "managed", "type": "aws_gw",
                 "provider_name": "p", "change": {
                    "actions": ["delete", "create"],
                    "before": {"asn": 65010, "id": "cgw-1", "key": "", "name": "a", "tags": {"x": "1"}},
                    "after": {"asn": 65044, "key": "*", "name": "a", "tags": {"x": "1"}},
                    "after_unknown": {"id": true, "tags": {}}, "before_sensitive": {}, "after_sensitive": {},
                    "replace_paths": [["asn"]]}},
                {"address": "aws_x.same", "mode": "managed", "type": "aws_x", "provider_name": "p",
                 "change": {"actions": ["no-op"], "before": {}, "after": {}}},
                {"address": "aws_x.moved", "previous_address": "aws_x.old", "mode": "managed", "type": "aws_x",
                 "provider_name": "p", "change": {"actions": ["no-op"], "before": {}, "after": {}}},
            ],
            "resource_drift": [
                {"address": "aws_x.drift", "mode": "managed", "type": "aws_x", "provider_name": "p",
                 "change": {"actions": ["update"], "before": {"a": 1}, "after": {"a": 2}}},
            ],
            "output_changes": {"secret": {"actions": ["update"], "before": "", "after": "*", "after_unknown": false,
                "before_sensitive": true, "after_sensitive": true}},
        });
        let plan = read(document.to_string().as_bytes()).unwrap();
        let change = &plan.resources[0];
        assert_eq!(
            (change.module.as_str(), change.name.as_str()),
            ("module.vpn", "aws_gw.a")
        );
        assert_eq!(change.action, Action::Replace { create_first: false });
        let asn = &change.attributes[0];
        assert_eq!((asn.name.as_str(), asn.forces), ("asn", true));
        assert_eq!((asn.old.clone(), asn.new.clone()), (text("65010"), text("65044")));
        assert_eq!(change.attributes[1].new, Some(Shown::Unknown));
        assert_eq!(change.attributes[2].old, Some(Shown::Sensitive));
        assert_eq!(change.unchanged, 2);
        assert_eq!(plan.resources[1].action, Action::Move);
        assert_eq!(plan.resources[1].note.as_deref(), Some("from aws_x.old"));
        assert_eq!(plan.resources.len(), 2);
        assert_eq!(plan.outside.len(), 1);
        assert_eq!(plan.outputs[0].attributes[0].new, Some(Shown::Sensitive));
    }

    #[test]
    fn what_is_no_plan_is_none() {
        assert_eq!(read(b"{"), None);
        assert_eq!(read(b"{}"), Some(Plan::default()));
    }
}
