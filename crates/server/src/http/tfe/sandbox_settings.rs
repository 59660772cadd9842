//! `sandbox` of an agent pool: what the sandboxes of its jobs may use and reach.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use terrapool_model::image::PinnedImage;
use terrapool_protocol::job::{Limit, SandboxNetwork, SandboxProxy};
use terrapool_store::pools::PoolSettings;
use terrapool_tfe::request::{Field, Item};

use crate::http::answer::Result;
use crate::http::error::ApiError;

/// The settings as the API shows them.
pub(super) fn shown(settings: &PoolSettings) -> Value {
    let mut shown = Map::from_iter([
        ("network".to_owned(), json!(settings.sandbox_network)),
        ("proxy".to_owned(), json!(settings.sandbox_proxy)),
        ("root-allowed".to_owned(), json!(!settings.root_refused)),
        ("image".to_owned(), json!(settings.image)),
        ("images".to_owned(), json!(settings.images)),
    ]);
    for limit in Limit::ALL {
        let (value, most) = (
            limit.get(&settings.default_limits),
            settings.maximum_limits.get(limit),
        );
        shown.insert(limit.setting().to_owned(), json!(value));
        shown.insert(limit.maximum_setting().to_owned(), json!(most));
    }
    Value::Object(shown)
}

/// The settings after a request; `None` when it does not speak of them. What it does not name stays.
///
/// # Errors
/// [`ApiError::Invalid`] for unknown names, values out of their range, and defaults above the maximum.
pub(super) fn requested(item: &Item, settings: &PoolSettings) -> Result<Option<PoolSettings>> {
    let named = match item.attribute::<BTreeMap<String, Value>>("sandbox")? {
        Field::Absent | Field::Null => return Ok(None),
        Field::Value(named) => named,
    };
    let mut next = settings.clone();
    for (name, value) in &named {
        let as_maximum = name.strip_prefix("maximum-");
        let limit = Limit::of(as_maximum.unwrap_or(name));
        match (name.as_str(), as_maximum, limit) {
            ("network", _, _) => next.sandbox_network = network(value)?,
            ("proxy", _, _) => next.sandbox_proxy = proxy(value)?,
            ("root-allowed", _, _) => {
                next.root_refused = !value
                    .as_bool()
                    .ok_or_else(|| wrong("Sandbox: root-allowed is true or false"))?;
            }
            ("image", _, _) => {
                next.image = pinned::<Option<PinnedImage>>(name, value)?.map(String::from);
            }
            ("images", _, _) => next.images = pinned(name, value)?,
            (_, Some(_), Some(limit)) => {
                let most = if value.is_null() {
                    None
                } else {
                    Some(number(name, value, limit)?)
                };
                next.maximum_limits.set(limit, most);
            }
            ("silence-seconds", _, _) if value.is_null() => next.default_limits.silence_seconds = None,
            (_, None, Some(limit)) => limit.set(&mut next.default_limits, number(name, value, limit)?),
            _ => {
                let known = Limit::ALL.map(Limit::setting).join(", ");
                return Err(wrong(format!(
                    "Sandbox has no `{name}`: there are network, proxy, root-allowed, image, images, {known}, and each of the limits with maximum- \
                     before it"
                )));
            }
        }
    }
    for limit in Limit::ALL {
        if let (Some(value), Some(most)) = (limit.get(&next.default_limits), next.maximum_limits.get(limit))
            && value > most
        {
            return Err(wrong(format!(
                "Sandbox: {} can't be above the pool's own maximum",
                limit.setting()
            )));
        }
    }
    Ok(Some(next))
}

fn network(value: &Value) -> Result<SandboxNetwork> {
    serde_json::from_value(value.clone()).map_err(|_| {
        wrong(
            "Sandbox: network is closed (no metadata services), metadata (these too) or none; host, gateway and other \
             sandboxes are out of reach in every case",
        )
    })
}

fn proxy(value: &Value) -> Result<SandboxProxy> {
    serde_json::from_value(value.clone()).map_err(|_| {
        wrong("Sandbox: proxy is none or agent (the proxy and the certificates that the agent itself uses)")
    })
}

/// One image or a list of them, each named by its content.
fn pinned<T: serde::de::DeserializeOwned>(name: &str, value: &Value) -> Result<T> {
    T::deserialize(value).map_err(|error| wrong(format!("Sandbox: {name}: {error}")))
}

fn number(name: &str, value: &Value, limit: Limit) -> Result<u64> {
    let (least, most) = limit.range();
    value
        .as_u64()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| {
            wrong(format!(
                "Sandbox: {name} has to be a whole number from {least} to {most}"
            ))
        })
}

fn wrong(detail: impl Into<String>) -> ApiError {
    ApiError::attribute("sandbox", detail)
}
