//! An engine that does nothing but say when it ran.
//!
//! A `bash` script, because bash knows the time in microseconds without starting another process. Its own start (a few
//! milliseconds) is part of what is measured on both sides, so the figures are upper bounds.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// The version under which agents find it.
pub(crate) const VERSION: &str = "1.11.990";

/// Behaves like an engine as far as the runner looks. The time of the first process of a phase goes into the phase's
/// log, the time of the last one of a plan into the plan's JSON.
const SCRIPT: &str = r#"#!/bin/bash
now=$EPOCHREALTIME
case $1 in
init)
  [ -d .terraform ] || mkdir .terraform
  echo "$now" > .terraform/began
  echo '{"version":3,"backend":{"type":"local","config":{"path":"/terrapool/state/terraform.tfstate","workspace_dir":"/terrapool/state/d"}}}' > .terraform/terraform.tfstate ;;
plan)
  for word in "$@"; do case $word in -out=*) echo plan > "${word#-out=}" ;; esac; done
  read -r began < .terraform/began
  echo "began $began phase $now end"
  exit 2 ;;
show) echo "{\"format_version\":\"1.2\",\"terraform_version\":\"1.11.990\",\"bench_ended\":\"$EPOCHREALTIME\"}" ;;
providers) echo '{"format_version":"1.0"}' ;;
apply)
  read -r began < .terraform/began
  echo "began $began phase $now end"
  echo '{"version":4,"terraform_version":"1.11.990","serial":1,"lineage":"6d4c3b4e-94f9-4b43-8d3b-1f8f7a1f9a11","outputs":{},"resources":[]}' > "/terrapool/state/d/$TF_WORKSPACE/terraform.tfstate"
  echo "ended $EPOCHREALTIME end" ;;
esac
"#;

/// Writes it into a folder of engines.
pub(crate) fn write(engines: &Path) {
    let folder = engines.join(format!("terraform_{VERSION}"));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let file = folder.join("terraform");
    std::fs::write(&file, SCRIPT).expect("a file can be written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("a mode can be set");
}

/// A time that the probe wrote behind a word, in milliseconds since the epoch.
pub(crate) fn time(text: &str, word: &str) -> f64 {
    let found = text.split(word).nth(1).and_then(|rest| {
        rest.trim_start_matches([' ', '"', ':'])
            .split([' ', '"', '\n'])
            .next()
    });
    let seconds: Option<f64> = found.and_then(|seconds| seconds.parse().ok());
    seconds.unwrap_or_else(|| panic!("the probe's `{word}` is not in: {text}")) * 1000.0
}
