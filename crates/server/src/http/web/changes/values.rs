//! Two documents, compared attribute by attribute.

use serde_json::Value;

use super::{Attribute, Shown};

/// Attributes of one resource that are listed at most.
const MOST: usize = 300;

/// Two sides of a resource with what is known about their values. Marks have the shape of the values they speak of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sides<'a> {
    pub(super) old: &'a Value,
    pub(super) new: &'a Value,
    /// What is known after the apply only.
    pub(super) unknown: &'a Value,
    pub(super) old_sensitive: &'a Value,
    pub(super) new_sensitive: &'a Value,
    /// The block's schema, where it is known.
    pub(super) schema: &'a Value,
}

/// What differs, and how many attributes do not.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) attributes: Vec<Attribute>,
    pub(super) unchanged: usize,
}

fn is_true(mark: &Value) -> bool {
    mark == &Value::Bool(true)
}

/// A value in the notation of the language.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "[]".to_owned(),
        Value::Object(members) if members.is_empty() => "{}".to_owned(),
        Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn side(value: &Value, unknown: &Value, sensitive: &Value) -> Option<Shown> {
    if is_true(sensitive) {
        return Some(Shown::Sensitive);
    }
    if is_true(unknown) {
        return Some(Shown::Unknown);
    }
    match value {
        Value::Null => None,
        value => Some(Shown::Text(text(value))),
    }
}

fn member<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&Value::Null)
}

fn item(value: &Value, index: usize) -> &Value {
    value.get(index).unwrap_or(&Value::Null)
}

/// Compares two sides.
pub(super) fn compare(sides: Sides<'_>) -> Difference {
    let mut difference = Difference::default();
    walk(&mut difference, "", sides);
    difference
}

fn walk(found: &mut Difference, path: &str, sides: Sides<'_>) {
    if found.attributes.len() >= MOST {
        return;
    }
    let leaf = is_true(sides.unknown) || is_true(sides.old_sensitive) || is_true(sides.new_sensitive);
    if !leaf && (sides.old.is_object() || sides.new.is_object() || path.is_empty()) {
        let mut names: Vec<&String> = [sides.old, sides.new, sides.unknown]
            .into_iter()
            .filter_map(Value::as_object)
            .flat_map(serde_json::Map::keys)
            .collect();
        names.sort();
        names.dedup();
        for name in names {
            let inner = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            let by_schema = &sides.schema["attributes"][name.as_str()]["sensitive"];
            let mark = |marks| {
                if is_true(by_schema) {
                    by_schema
                } else {
                    member(marks, name)
                }
            };
            let next = Sides {
                old: member(sides.old, name),
                new: member(sides.new, name),
                unknown: member(sides.unknown, name),
                old_sensitive: mark(sides.old_sensitive),
                new_sensitive: mark(sides.new_sensitive),
                schema: &sides.schema["block_types"][name.as_str()]["block"],
            };
            walk(found, &inner, next);
        }
        return;
    }
    let both = [sides.old, sides.new].into_iter().filter_map(Value::as_array);
    let nested = both
        .clone()
        .flatten()
        .any(|value| value.is_object() || value.is_array());
    if !leaf && nested {
        let length = both.map(Vec::len).max().unwrap_or(0);
        for index in 0..length {
            let next = Sides {
                old: item(sides.old, index),
                new: item(sides.new, index),
                unknown: item(sides.unknown, index),
                old_sensitive: item(sides.old_sensitive, index),
                new_sensitive: item(sides.new_sensitive, index),
                schema: sides.schema,
            };
            walk(found, &format!("{path}[{index}]"), next);
        }
        return;
    }
    if sides.old == sides.new && !is_true(sides.unknown) {
        if !sides.old.is_null() {
            found.unchanged += 1;
        }
        return;
    }
    let old = side(
        sides.old,
        &Value::Null,
        if sides.old.is_null() {
            &Value::Null
        } else {
            sides.old_sensitive
        },
    );
    let new = side(sides.new, sides.unknown, sides.new_sensitive);
    // A value that goes away is null, not absent, as long as its resource stays.
    let new = match (&old, new) {
        (Some(_), None) if !path.is_empty() => Some(Shown::Null),
        (_, new) => new,
    };
    if old.is_none() && new.is_none() {
        return;
    }
    found.attributes.push(Attribute {
        name: path.to_owned(),
        old,
        new,
        forces: false,
    });
}
