//! The plan as clients render it, made where the plan was made, so that sensitive values never leave in it.
//!
//! The document is composed of `show -json` and `providers schema -json` (TFE API, `json-output-redacted`): values that
//! are sensitive become placeholders, and only the schemas of resource types that occur are kept.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use terrapool_protocol::job::ChangeCounts;
use terrapool_protocol::mask::Masker;

/// A document of the engine that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the engine's {document} cannot be read")]
pub struct RedactionError {
    document: &'static str,
    #[source]
    source: serde_json::Error,
}

/// Composes the redacted plan and counts what the plan would change. What `masker` finds in a value is masked also where
/// neither plan nor schema calls the value sensitive: a configuration need not declare what its workspace keeps secret.
///
/// # Errors
/// [`RedactionError`] when a document is no JSON.
pub fn redact(
    plan: &[u8],
    schemas: &[u8],
    masker: &Masker,
) -> Result<(Vec<u8>, ChangeCounts), RedactionError> {
    let plan: Value = serde_json::from_slice(plan).map_err(|source| RedactionError {
        document: "plan",
        source,
    })?;
    let schemas: Value = serde_json::from_slice(schemas).map_err(|source| RedactionError {
        document: "provider schemas",
        source,
    })?;
    let counts = count(&plan);
    let mut document = Map::new();
    document.insert("plan_format_version".to_owned(), plan["format_version"].clone());
    document.insert(
        "provider_format_version".to_owned(),
        schemas["format_version"].clone(),
    );
    let changes = ["resource_changes", "resource_drift"];
    for name in changes {
        let redacted: Vec<Value> = array(&plan[name])
            .iter()
            .map(|change| redact_entry(change, sensitive_by_schema(change, &schemas), masker))
            .collect();
        document.insert(name.to_owned(), Value::Array(redacted));
    }
    let deferred: Vec<Value> = array(&plan["deferred_changes"])
        .iter()
        .map(|entry| {
            let mut entry = entry.clone();
            let change = entry["resource_change"].clone();
            entry["resource_change"] = redact_entry(&change, None, masker);
            entry
        })
        .collect();
    document.insert("deferred_changes".to_owned(), Value::Array(deferred));
    let outputs: Map<String, Value> = plan["output_changes"]
        .as_object()
        .map(|outputs| {
            outputs
                .iter()
                .map(|(name, change)| (name.clone(), redact_change(change, None, masker)))
                .collect()
        })
        .unwrap_or_default();
    document.insert("output_changes".to_owned(), Value::Object(outputs));
    document.insert(
        "relevant_attributes".to_owned(),
        plan["relevant_attributes"].clone(),
    );
    document.insert("provider_schemas".to_owned(), used_schemas(&plan, &schemas));
    let bytes = serde_json::to_vec(&Value::Object(document)).map_err(|source| RedactionError {
        document: "plan",
        source,
    })?;
    Ok((bytes, counts))
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn count(plan: &Value) -> ChangeCounts {
    let mut counts = ChangeCounts::default();
    for change in array(&plan["resource_changes"]) {
        let change = &change["change"];
        for action in array(&change["actions"]) {
            match action.as_str() {
                Some("create") => counts.add += 1,
                Some("update") => counts.change += 1,
                Some("delete") => counts.destroy += 1,
                _ => {}
            }
        }
        if change
            .get("importing")
            .is_some_and(|importing| !importing.is_null())
        {
            counts.import += 1;
        }
    }
    counts
}

/// The block schema of a changed resource, whose own `sensitive` attributes count besides the plan's marks.
fn sensitive_by_schema<'s>(change: &Value, schemas: &'s Value) -> Option<&'s Value> {
    let provider = &schemas["provider_schemas"][change["provider_name"].as_str()?];
    let kind = if change["mode"] == "data" {
        "data_source_schemas"
    } else {
        "resource_schemas"
    };
    provider[kind][change["type"].as_str()?].get("block")
}

fn redact_entry(entry: &Value, schema: Option<&Value>, masker: &Masker) -> Value {
    let mut entry = entry.clone();
    entry["change"] = redact_change(&entry["change"], schema, masker);
    entry
}

fn redact_change(change: &Value, schema: Option<&Value>, masker: &Masker) -> Value {
    let Some(object) = change.as_object() else {
        return change.clone();
    };
    let mut redacted = object.clone();
    for (side, other, marks) in [
        ("before", "after", "before_sensitive"),
        ("after", "before", "after_sensitive"),
    ] {
        let other = object.get(other).unwrap_or(&Value::Null);
        let changed = |value: &Value, other: &Value| side == "after" && value != other;
        if let Some(value) = redacted.get_mut(side) {
            if let Some(marks) = object.get(marks) {
                blank(value, other, marks, &changed);
            }
            if let Some(block) = schema {
                blank_by_schema(value, other, block, &changed);
            }
            mask(value, other, masker, &changed);
        }
    }
    Value::Object(redacted)
}

/// Whether the new side of a value differs from the old one; always false for the old side.
type Changed<'c> = dyn Fn(&Value, &Value) -> bool + 'c;

/// What stands for a sensitive value: of the same JSON type, because clients look into it, and another one when it has
/// changed, because they compare. Null stays null.
fn placeholder(value: &Value, changed: bool) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(_) => Value::Bool(changed),
        Value::Number(_) => Value::from(u8::from(changed)),
        Value::String(_) => Value::from(if changed { "*" } else { "" }),
        Value::Array(_) => Value::Array(if changed { vec![Value::Null] } else { Vec::new() }),
        Value::Object(_) => Value::Object(if changed {
            Map::from_iter([(String::new(), Value::Null)])
        } else {
            Map::new()
        }),
    }
}

fn hide(value: &mut Value, other: &Value, changed: &Changed<'_>) {
    *value = placeholder(value, changed(value, other));
}

/// Hides whatever `marks`, which has the shape of the value, says true of.
fn blank(value: &mut Value, other: &Value, marks: &Value, changed: &Changed<'_>) {
    match marks {
        Value::Bool(true) => hide(value, other, changed),
        Value::Object(marks) => {
            if let Some(object) = value.as_object_mut() {
                for (name, mark) in marks {
                    if let Some(found) = object.get_mut(name) {
                        blank(found, &other[name.as_str()], mark, changed);
                    }
                }
            }
        }
        Value::Array(marks) => {
            if let Some(items) = value.as_array_mut() {
                for (index, (item, mark)) in items.iter_mut().zip(marks).enumerate() {
                    blank(item, &other[index], mark, changed);
                }
            }
        }
        Value::Null | Value::Bool(false) | Value::Number(_) | Value::String(_) => {}
    }
}

fn blank_by_schema(value: &mut Value, other: &Value, block: &Value, changed: &Changed<'_>) {
    let Some(object) = value.as_object_mut() else {
        return;
    };
    for (name, attribute) in block["attributes"].as_object().into_iter().flatten() {
        if attribute["sensitive"] == true
            && let Some(found) = object.get_mut(name)
        {
            hide(found, &other[name.as_str()], changed);
        }
    }
    for (name, nested) in block["block_types"].as_object().into_iter().flatten() {
        let (other, block) = (&other[name.as_str()], &nested["block"]);
        match object.get_mut(name) {
            Some(Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    blank_by_schema(item, &other[index], block, changed);
                }
            }
            Some(Value::Object(items)) if nested["nesting_mode"] == "map" => {
                for (key, item) in items {
                    blank_by_schema(item, &other[key.as_str()], block, changed);
                }
            }
            Some(single) => blank_by_schema(single, other, block, changed),
            None => {}
        }
    }
}

/// Masks what the masker finds, in whatever a value has in it. The new side is told from the old one where it differs.
fn mask(value: &mut Value, other: &Value, masker: &Masker, changed: &Changed<'_>) {
    match value {
        Value::String(text) if masker.finds(text) => {
            let mut masked = masker.mask(text);
            if changed(value, other)
                && other.as_str().map(|other| masker.mask(other)).as_ref() == Some(&masked)
            {
                masked.push_str(" (changed)");
            }
            *value = Value::String(masked);
        }
        Value::Number(number) if masker.finds(&number.to_string()) => hide(value, other, changed),
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                mask(item, &other[index], masker, changed);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                mask(member, &other[name.as_str()], masker, changed);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Schemas of the resource types that occur, for every provider that occurs: a client that finds none crashes.
fn used_schemas(plan: &Value, schemas: &Value) -> Value {
    let mut used: BTreeMap<&str, BTreeSet<(&'static str, &str)>> = BTreeMap::new();
    let deferred = array(&plan["deferred_changes"])
        .iter()
        .map(|entry| &entry["resource_change"]);
    let entries = array(&plan["resource_changes"])
        .iter()
        .chain(array(&plan["resource_drift"]))
        .chain(deferred);
    for entry in entries {
        let (Some(provider), Some(name)) = (entry["provider_name"].as_str(), entry["type"].as_str()) else {
            continue;
        };
        let kind = if entry["mode"] == "data" {
            "data_source_schemas"
        } else {
            "resource_schemas"
        };
        used.entry(provider).or_default().insert((kind, name));
    }
    let mut kept = Map::new();
    for (provider, types) in used {
        let all = &schemas["provider_schemas"][provider];
        let mut schema = Map::new();
        schema.insert(
            "provider".to_owned(),
            all.get("provider")
                .cloned()
                .unwrap_or_else(|| json!({"version": 0})),
        );
        for kind in ["resource_schemas", "data_source_schemas"] {
            let chosen: Map<String, Value> = types
                .iter()
                .filter(|(of, _)| *of == kind)
                .filter_map(|(_, name)| Some(((*name).to_owned(), all[kind].get(*name)?.clone())))
                .collect();
            schema.insert(kind.to_owned(), Value::Object(chosen));
        }
        kept.insert(provider.to_owned(), Value::Object(schema));
    }
    Value::Object(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Value {
        json!({
            "format_version": "1.2",
            "variables": {"password": {"value": "hunter2"}},
            "resource_changes": [{
                "address": "acme_user.a", "mode": "managed", "type": "acme_user", "name": "a",
                "provider_name": "registry.terraform.io/acme/acme",
                "change": {
                    "actions": ["create"], "before": null,
                    "after": {"name": "a", "password": "hunter2", "keys": [{"private": "hunter2", "id": 1}],
                              "tags": {"secret": "hunter2", "plain": "p"}},
                    "after_sensitive": {"tags": {"secret": true}}, "after_unknown": {"id": true}
                }
            }],
            "output_changes": {"o": {"actions": ["create"], "before": null, "after": "hunter2", "after_sensitive": true}}
        })
    }

    fn schemas() -> Value {
        json!({"format_version": "1.0", "provider_schemas": {
            "registry.terraform.io/acme/acme": {"provider": {"version": 0}, "resource_schemas": {
                "acme_user": {"version": 1, "block": {
                    "attributes": {"name": {"type": "string"}, "password": {"type": "string", "sensitive": true}},
                    "block_types": {"keys": {"nesting_mode": "list", "block": {
                        "attributes": {"private": {"type": "string", "sensitive": true}, "id": {"type": "number"}}}}}
                }},
                "acme_unused": {"version": 1, "block": {}}
            }},
            "registry.terraform.io/acme/other": {"provider": {"version": 0}}
        }})
    }

    fn redacted() -> (Value, ChangeCounts) {
        let (bytes, counts) = redact(
            &serde_json::to_vec(&plan()).unwrap(),
            &serde_json::to_vec(&schemas()).unwrap(),
            &Masker::new([]),
        )
        .unwrap();
        (serde_json::from_slice(&bytes).unwrap(), counts)
    }

    #[test]
    fn no_sensitive_value_is_left_anywhere() {
        let (document, _) = redacted();
        assert!(!document.to_string().contains("hunter2"), "{document}");
        assert_eq!(document["resource_changes"][0]["change"]["after"]["name"], "a");
        assert_eq!(
            document["resource_changes"][0]["change"]["after"]["keys"][0]["id"],
            1
        );
        assert_eq!(
            document["resource_changes"][0]["change"]["after"]["tags"]["plain"],
            "p"
        );
    }

    #[test]
    fn a_sensitive_value_that_changes_is_still_seen_to_change() {
        let change = json!({"actions": ["update"], "before": {"password": "one", "same": "x"},
            "after": {"password": "two", "same": "x"}, "before_sensitive": {"password": true, "same": true},
            "after_sensitive": {"password": true, "same": true}});
        let redacted = redact_change(&change, None, &Masker::new([]));
        assert_ne!(redacted["before"]["password"], redacted["after"]["password"]);
        assert_eq!(redacted["before"]["same"], redacted["after"]["same"]);
        assert!(!redacted.to_string().contains("one") && !redacted.to_string().contains("two"));
    }

    #[test]
    fn case_14_a_secret_of_the_workspace_is_masked_where_nothing_calls_it_sensitive() {
        let masker = Masker::new(["hunter2", "12345"]);
        let before = json!({"user_data": "a hunter2", "port": 12345, "list": ["aHVudGVyMg=="], "plain": "x"});
        let after = json!({"user_data": "b hunter2", "port": 1, "list": ["aHVudGVyMg=="], "plain": "y"});
        let change = json!({"actions": ["update"], "before": before, "after": after, "before_sensitive": {},
            "after_sensitive": {}});
        let redacted = redact_change(&change, None, &masker);
        assert_eq!(redacted["before"]["user_data"], "a (sensitive value)");
        assert_eq!(redacted["after"]["user_data"], "b (sensitive value)");
        assert_eq!(redacted["after"]["plain"], "y");
        assert_eq!(redacted["actions"], json!(["update"]));
        let shown = redacted.to_string();
        assert!(!shown.contains("hunter2") && !shown.contains("12345"), "{shown}");
        assert!(!shown.contains("aHVudGVyMg"), "{shown}");
        let one = json!({"before": "hunter2", "after": "12345"});
        let redacted = redact_change(&one, None, &masker);
        assert_ne!(redacted["before"], redacted["after"]);
    }

    #[test]
    fn schemas_are_kept_for_what_occurs_and_for_nothing_else() {
        let (document, counts) = redacted();
        let providers = document["provider_schemas"].as_object().unwrap();
        assert_eq!(
            providers.keys().collect::<Vec<_>>(),
            ["registry.terraform.io/acme/acme"]
        );
        let resources = providers["registry.terraform.io/acme/acme"]["resource_schemas"]
            .as_object()
            .unwrap();
        assert_eq!(resources.keys().collect::<Vec<_>>(), ["acme_user"]);
        assert_eq!(
            counts,
            ChangeCounts {
                add: 1,
                ..ChangeCounts::default()
            }
        );
    }
}
