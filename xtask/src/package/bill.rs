//! The list of everything that a program is made of, as CycloneDX.

use std::collections::BTreeSet;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::Job;
use crate::command::{cargo, output};

/// Writes the list for the program of a package.
pub(super) fn write(job: &Job, package: &str) -> anyhow::Result<()> {
    let metadata = output(cargo().args([
        "metadata",
        "--locked",
        "--format-version=1",
        "--filter-platform",
        job.architecture.target(),
    ]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let packages = list(&metadata["packages"]);
    let nodes = list(&metadata["resolve"]["nodes"]);
    let root = packages
        .iter()
        .find(|found| found["name"] == package)
        .with_context(|| format!("there is no package {package}"))?;
    let mut reached = BTreeSet::new();
    let mut open = vec![root["id"].clone()];
    while let Some(id) = open.pop() {
        if !reached.insert(id.as_str().unwrap_or_default().to_owned()) {
            continue;
        }
        let node = nodes.iter().find(|node| node["id"] == id);
        for dependency in node.map(|node| list(&node["deps"])).unwrap_or_default() {
            // What tests and build scripts use is not in the program.
            if list(&dependency["dep_kinds"])
                .iter()
                .any(|kind| kind["kind"].is_null())
            {
                open.push(dependency["pkg"].clone());
            }
        }
    }
    let mut components: Vec<Value> = packages
        .iter()
        .filter(|found| found["id"] != root["id"])
        .filter(|found| found["id"].as_str().is_some_and(|id| reached.contains(id)))
        .map(component)
        .collect();
    components.sort_by_key(|component| component["bom-ref"].to_string());
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": component(root) },
        "components": components,
    });
    let name = package.trim_end_matches("-server");
    let file = format!(
        "{name}-{}-linux-{}.cdx.json",
        job.version,
        job.architecture.name()
    );
    std::fs::write(job.folder.join(file), serde_json::to_vec_pretty(&document)?)?;
    Ok(())
}

fn component(package: &Value) -> Value {
    let name = package["name"].as_str().unwrap_or_default();
    let version = package["version"].as_str().unwrap_or_default();
    let address = format!("pkg:cargo/{name}@{version}");
    json!({
        "type": "library",
        "bom-ref": address,
        "name": name,
        "version": version,
        "purl": address,
        "licenses": [{ "expression": package["license"] }],
    })
}
