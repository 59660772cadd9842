//! `lease-times` of an agent pool: the times of leases, stops and locks that a pool may set, in seconds.

use std::collections::BTreeMap;

use serde_json::Value;
use terrapool_model::time::Millis;
use terrapool_model::times::Times;
use terrapool_tfe::request::{Field, Item};

use crate::http::answer::Result;
use crate::http::error::ApiError;

/// One of the times.
struct Setting {
    name: &'static str,
    /// Smallest and largest value, in seconds.
    range: (u64, u64),
    /// Whether null (never) is allowed.
    may_be_never: bool,
    read: fn(&Times) -> Option<Millis>,
    write: fn(&mut Times, Option<Millis>),
}

fn or(value: Option<Millis>, old: Millis) -> Millis {
    value.unwrap_or(old)
}

const DAY: u64 = 24 * 3600;

/// Leases are longer than two held syncs, so that an agent that is well never loses one.
const SETTINGS: [Setting; 7] = [
    Setting {
        name: "plan-lease",
        range: (60, DAY),
        may_be_never: false,
        read: |times| Some(times.lease_plan),
        write: |times, value| times.lease_plan = or(value, times.lease_plan),
    },
    Setting {
        name: "apply-lease",
        range: (60, DAY),
        may_be_never: false,
        read: |times| Some(times.lease_apply),
        write: |times, value| times.lease_apply = or(value, times.lease_apply),
    },
    Setting {
        name: "plan-contact-limit",
        range: (30, DAY),
        may_be_never: true,
        read: |times| times.contact_limit_plan,
        write: |times, value| times.contact_limit_plan = value,
    },
    Setting {
        name: "apply-contact-limit",
        range: (60, 7 * DAY),
        may_be_never: true,
        read: |times| times.contact_limit_apply,
        write: |times, value| times.contact_limit_apply = value,
    },
    Setting {
        name: "plan-grace",
        range: (1, 3600),
        may_be_never: false,
        read: |times| Some(times.grace_plan),
        write: |times, value| times.grace_plan = or(value, times.grace_plan),
    },
    Setting {
        name: "apply-grace",
        range: (1, 6 * 3600),
        may_be_never: false,
        read: |times| Some(times.grace_apply),
        write: |times, value| times.grace_apply = or(value, times.grace_apply),
    },
    Setting {
        name: "cool-off",
        range: (0, 3600),
        may_be_never: false,
        read: |times| Some(times.cool_off),
        write: |times, value| times.cool_off = or(value, times.cool_off),
    },
];

/// The times as the API shows them.
pub(super) fn shown(times: &Times) -> BTreeMap<&'static str, Option<u64>> {
    SETTINGS
        .iter()
        .map(|setting| (setting.name, (setting.read)(times).map(|value| value.0 / 1000)))
        .collect()
}

/// The times after a request; `None` when it does not speak of them. What it does not name stays.
///
/// # Errors
/// [`ApiError::Invalid`] for unknown names, values out of their range, and a contact limit of applies that is shorter
/// than their lease.
pub(super) fn requested(item: &Item, times: &Times) -> Result<Option<Times>> {
    let named = match item.attribute::<BTreeMap<String, Value>>("lease-times")? {
        Field::Absent | Field::Null => return Ok(None),
        Field::Value(named) => named,
    };
    let mut next = *times;
    for (name, value) in &named {
        let setting = SETTINGS
            .iter()
            .find(|setting| setting.name == name)
            .ok_or_else(|| wrong(format!("Lease times have no `{name}`: {}", names())))?;
        let seconds = match value {
            Value::Null if setting.may_be_never => None,
            value => Some(in_range(setting, value)?),
        };
        (setting.write)(&mut next, seconds.map(Millis::from_seconds));
    }
    if next
        .contact_limit_apply
        .is_some_and(|limit| limit < next.lease_apply)
    {
        return Err(wrong(
            "Lease times: apply-contact-limit can't be shorter than apply-lease: an outage of the control plane \
             would stop applies that no other run could replace",
        ));
    }
    Ok(Some(next))
}

fn names() -> String {
    let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    format!("there are {}", names.join(", "))
}

fn in_range(setting: &Setting, value: &Value) -> Result<u64> {
    let (least, most) = setting.range;
    let never = if setting.may_be_never {
        ", or null for never"
    } else {
        ""
    };
    value
        .as_u64()
        .filter(|seconds| (least..=most).contains(seconds))
        .ok_or_else(|| {
            wrong(format!(
                "Lease times: {} has to be a whole number of seconds from {least} to {most}{never}",
                setting.name
            ))
        })
}

fn wrong(detail: impl Into<String>) -> ApiError {
    ApiError::attribute("lease-times", detail)
}
