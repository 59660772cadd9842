//! `sandbox` of an agent pool: what the sandboxes of its jobs may use and reach.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use terrapool_protocol::job::{Limits, SandboxNetwork};
use terrapool_store::pools::{MaximumLimits, PoolSettings};
use terrapool_tfe::request::{Field, Item};

use crate::http::answer::Result;
use crate::http::error::ApiError;

/// Smallest memory of a sandbox in MiB: below it no engine starts.
const LEAST_MEMORY: u64 = 128;
const MOST_MEMORY: u64 = 1 << 20;
const LEAST_CPU: u64 = 100;
const MOST_CPU: u64 = 256_000;

/// The settings as the API shows them.
pub(super) fn shown(settings: &PoolSettings) -> Value {
    let Limits {
        memory_mb,
        cpu_millis,
        pids,
    } = settings.default_limits;
    json!({
        "network": settings.sandbox_network,
        "memory-mb": memory_mb,
        "cpu-millis": cpu_millis,
        "processes": pids,
        "maximum-memory-mb": settings.maximum_limits.memory_mb,
        "maximum-cpu-millis": settings.maximum_limits.cpu_millis,
    })
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
        match name.as_str() {
            "network" => next.sandbox_network = network(value)?,
            "memory-mb" => next.default_limits.memory_mb = number(name, value, LEAST_MEMORY, MOST_MEMORY)?,
            "cpu-millis" => next.default_limits.cpu_millis = number(name, value, LEAST_CPU, MOST_CPU)?,
            "processes" => {
                let processes = number(name, value, 64, 1 << 16)?;
                next.default_limits.pids = u32::try_from(processes).unwrap_or(u32::MAX);
            }
            "maximum-memory-mb" => {
                next.maximum_limits.memory_mb = maximum(name, value, LEAST_MEMORY, MOST_MEMORY)?;
            }
            "maximum-cpu-millis" => {
                next.maximum_limits.cpu_millis = maximum(name, value, LEAST_CPU, MOST_CPU)?;
            }
            other => {
                return Err(wrong(format!(
                    "Sandbox has no `{other}`: there are network, memory-mb, cpu-millis, processes, \
                     maximum-memory-mb, maximum-cpu-millis"
                )));
            }
        }
    }
    let MaximumLimits {
        memory_mb,
        cpu_millis,
    } = next.maximum_limits;
    let above = |maximum: Option<u64>, value: u64| maximum.is_some_and(|maximum| value > maximum);
    if above(memory_mb, next.default_limits.memory_mb) || above(cpu_millis, next.default_limits.cpu_millis) {
        return Err(wrong(
            "Sandbox: memory-mb and cpu-millis can't be above the pool's own maximum",
        ));
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

fn maximum(name: &str, value: &Value, least: u64, most: u64) -> Result<Option<u64>> {
    if value.is_null() {
        return Ok(None);
    }
    number(name, value, least, most).map(Some)
}

fn number(name: &str, value: &Value, least: u64, most: u64) -> Result<u64> {
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
