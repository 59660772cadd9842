//! The ordinary user as whom agents run where `TERRAPOOL_TEST_AGENT_USER` names one: tests are root, and give them what they
//! need. Each agent gets a control group that the user's own systemd delegates, as on a terminal of that user.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use tokio::process::Command;

/// The user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AgentUser {
    number: u32,
}

/// Whether agents run as an ordinary user.
pub fn is_set() -> bool {
    AgentUser::named().is_some()
}

impl AgentUser {
    /// The user that the environment names.
    pub(crate) fn named() -> Option<Self> {
        let name = std::env::var("TERRAPOOL_TEST_AGENT_USER").ok()?;
        let accounts = std::fs::read_to_string("/etc/passwd").expect("a machine has users");
        let account = accounts
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}:")));
        let number = account.and_then(|rest| rest.split(':').nth(1)?.parse().ok());
        let number = number.unwrap_or_else(|| panic!("this machine has no user {name}"));
        Some(Self { number })
    }

    /// A command that starts a program as this user, and becomes it.
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &self.number.to_string()])
            .args(["--regid", &self.number.to_string(), "--init-groups"])
            .args([
                "systemd-run",
                "--user",
                "--scope",
                "--quiet",
                "--property=Delegate=yes",
                "--",
            ])
            .arg(program);
        command
    }

    /// Where the user's own systemd is found.
    pub(crate) fn runtime_folder(self) -> String {
        format!("/run/user/{}", self.number)
    }

    /// Lets this user have a folder of an installation, and see its certificate, whose copy is answered.
    pub(crate) fn give(self, installation: &Path, folder: &Path, certificate: &Path) -> PathBuf {
        let open = |path: &Path, mode: u32| {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode can be set");
        };
        open(installation, 0o711);
        std::fs::create_dir_all(folder).expect("a folder can be made");
        let owner = std::fs::metadata(folder).expect("it was made").uid();
        if owner != self.number {
            chown(folder, Some(self.number), Some(self.number)).expect("root gives folders away");
        }
        let copy = installation.join("ca.pem");
        std::fs::copy(certificate, &copy).expect("a certificate can be copied");
        open(&copy, 0o644);
        copy
    }
}
