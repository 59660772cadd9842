//! OpenTofu for the tests, built from its source by Go: its binaries come from where a test machine may not reach, its
//! modules through any Go module proxy.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};

use anyhow::{Context as _, bail};

use crate::command::{check, find_program, output, program, target_dir};
use crate::packages;

const VERSION: &str = "1.11.14";
/// From here on Go fetches the toolchain that a module asks for.
const OLDEST_GO: (u32, u32) = (1, 21);

/// OpenTofu's own module cannot be installed by `go install`, because it replaces a dependency: a module that requires
/// it has to repeat the replacement.
const MODULE: &str = "\
module engines

go 1.25.0

require github.com/opentofu/opentofu vVERSION

replace github.com/hashicorp/hcl/v2 v2.20.1 => github.com/opentofu/hcl/v2 v2.20.2-0.20251021132045-587d123c2828
";

const IMPORT: &str = "\
//go:build tools

package engines

import _ \"github.com/opentofu/opentofu/cmd/tofu\"
";

/// Without `version.dev=no` the binary calls itself a development build.
const SCRIPT: &str = "\
set -e
\"$GO\" mod tidy -e
exec \"$GO\" build -trimpath -ldflags '-s -w -X github.com/opentofu/opentofu/version.dev=no' \\
  -o tofu github.com/opentofu/opentofu/cmd/tofu
";

/// The engines folder of the tests, perhaps still being filled.
pub(crate) struct Engines {
    folder: PathBuf,
    build: Option<Build>,
}

struct Build {
    child: Child,
    module: PathBuf,
    log: PathBuf,
}

/// Builds what is missing and prints the folder.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let folder = Engines::start()?.finish()?;
    println!("{}", folder.display());
    Ok(ExitCode::SUCCESS)
}

impl Engines {
    /// Starts to build what is missing, in the background and behind everything else.
    ///
    /// The folder is `TERRAPOOL_TEST_ENGINES` when that is set, so that a build machine can keep it between runs.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let folder = match std::env::var_os("TERRAPOOL_TEST_ENGINES") {
            Some(folder) if !folder.is_empty() => std::path::absolute(folder)?,
            _ => target_dir().join("tools/engines"),
        };
        let mut engines = Self { folder, build: None };
        if !engines.tofu().is_file() {
            engines.build = Some(Build::start(&engines.folder)?);
        }
        Ok(engines)
    }

    /// Waits until the folder is complete and returns it.
    pub(crate) fn finish(&mut self) -> anyhow::Result<PathBuf> {
        let tofu = self.tofu();
        if let Some(build) = self.build.take() {
            let built = build.finish()?;
            let says = output(program(&built.to_string_lossy()).arg("version"))?;
            let expected = format!("OpenTofu v{VERSION}");
            if says.lines().next() != Some(expected.as_str()) {
                bail!("the OpenTofu that was built calls itself `{says}`, not `{expected}`");
            }
            std::fs::create_dir_all(tofu.parent().context("a binary lies in a folder")?)?;
            std::fs::rename(&built, &tofu)
                .with_context(|| format!("{} cannot be written", tofu.display()))?;
        }
        Ok(self.folder.clone())
    }

    fn tofu(&self) -> PathBuf {
        self.folder.join(format!("tofu_{VERSION}/tofu"))
    }
}

impl Build {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        let go = go()?;
        // On the same file system as its destination: the binary is moved there.
        let module = folder.join(".build");
        std::fs::create_dir_all(&module).with_context(|| format!("{} cannot be made", module.display()))?;
        std::fs::write(module.join("go.mod"), MODULE.replace("VERSION", VERSION))?;
        std::fs::write(module.join("tools.go"), IMPORT)?;
        let log = module.join("build.log");
        let lines = std::fs::File::create(&log)?;
        eprintln!(
            "building OpenTofu {VERSION} in the background ({})",
            log.display()
        );
        let child = program("nice")
            .args(["-n", "15", "sh", "-c", SCRIPT])
            .current_dir(&module)
            .env("GO", go)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-buildvcs=false")
            .env("GOWORK", "off")
            .stdin(Stdio::null())
            .stdout(lines.try_clone()?)
            .stderr(lines)
            // A group of its own, so that the compilers end with it.
            .process_group(0)
            .spawn()
            .context("the build of OpenTofu could not be started")?;
        Ok(Self { child, module, log })
    }

    fn finish(mut self) -> anyhow::Result<PathBuf> {
        let status = self.child.wait().context("the build of OpenTofu went away")?;
        if !status.success() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(20)..].join("\n");
            bail!("OpenTofu {VERSION} could not be built ({status}):\n{tail}");
        }
        Ok(self.module.join("tofu"))
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let group = format!("-{}", self.child.id());
            // The build's failure is of no interest any more.
            let _ = check(program("kill").args(["--", &group]));
            let _ = self.child.wait();
        }
    }
}

/// A Go that is new enough, installed when there is none.
fn go() -> anyhow::Result<PathBuf> {
    let find = || {
        find_program("go").or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|go| go.is_file()))
    };
    let found = match find() {
        Some(go) => go,
        None => {
            packages::ensure(&[packages::GO])?;
            find().context("go was installed but is not on PATH")?
        }
    };
    let says = output(program(&found.to_string_lossy()).arg("version"))?;
    if go_version(&says).is_none_or(|version| version < OLDEST_GO) {
        bail!(
            "building OpenTofu needs Go {}.{} or newer, {} is `{}`. Get one from https://go.dev/dl, or point \
             TERRAPOOL_TEST_ENGINES to a folder that holds tofu_{VERSION}/tofu",
            OLDEST_GO.0,
            OLDEST_GO.1,
            found.display(),
            says.trim()
        );
    }
    Ok(found)
}

/// Major and minor from `go version go1.26.8 linux/amd64`.
fn go_version(says: &str) -> Option<(u32, u32)> {
    let version = says.split_whitespace().nth(2)?.strip_prefix("go")?;
    let mut numbers = version.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::go_version;

    #[test]
    fn a_go_version_is_read_from_what_go_says() {
        assert_eq!(go_version("go version go1.26.8 linux/amd64\n"), Some((1, 26)));
        assert_eq!(go_version("go version go1.27rc1 linux/arm64"), Some((1, 27)));
        assert_eq!(go_version("go version devel"), None);
    }
}
