//! What an agent may do on its host, and what the host lets one do that is not root.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::SandboxUser;
use crate::drivers::DriverError;

/// As whom an agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Privilege {
    /// Root of the host.
    Root,
    /// An ordinary user: sandboxes are made of a user namespace of its own.
    User,
}

impl Privilege {
    /// That of this process.
    pub(super) fn of_this_process() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::Root
        } else {
            Self::User
        }
    }

    /// Makes sure that what it takes can be had of this host.
    ///
    /// # Errors
    /// [`DriverError::NotNative`] names what is missing, and the cure.
    pub(super) fn check(self, user: SandboxUser) -> Result<(), DriverError> {
        if self == Self::Root {
            return Ok(());
        }
        if user == SandboxUser::Root {
            return Err(DriverError::NotNative(
                "the root profile is all users of the host, which only root can give a sandbox (run the agent as root, \
                 use the docker driver, or set user = \"default\")"
                    .to_owned(),
            ));
        }
        match UserNamespaces::of_this_host().refusal() {
            None => Ok(()),
            Some(refusal) => Err(DriverError::NotNative(refusal.to_owned())),
        }
    }
}

/// What decides whether ordinary users can make user namespaces, as the kernel shows it. `None`: it does not know it.
#[derive(Debug, Default, PartialEq, Eq)]
struct UserNamespaces {
    /// Debian's switch.
    clone: Option<String>,
    /// The kernel's own limit.
    most: Option<String>,
    /// Ubuntu's switch: AppArmor takes the power out of namespaces of programs without a profile.
    restricted: Option<String>,
    /// This process's profile.
    profile: Option<String>,
}

impl UserNamespaces {
    fn of_this_host() -> Self {
        let read = |path: &str| {
            let text = fs::read_to_string(Path::new("/proc").join(path)).ok()?;
            Some(text.trim_matches(['\n', '\0', ' ']).to_owned())
        };
        Self {
            clone: read("sys/kernel/unprivileged_userns_clone"),
            most: read("sys/user/max_user_namespaces"),
            restricted: read("sys/kernel/apparmor_restrict_unprivileged_userns"),
            profile: read("self/attr/apparmor/current").or_else(|| read("self/attr/current")),
        }
    }

    /// Why none can be made, and what helps.
    fn refusal(&self) -> Option<&'static str> {
        if self.clone.as_deref() == Some("0") {
            return Some(
                "ordinary users cannot make user namespaces here: sysctl -w kernel.unprivileged_userns_clone=1 (and a \
                 file in /etc/sysctl.d), or run the agent as root",
            );
        }
        if matches!(self.most.as_deref(), None | Some("0")) {
            return Some(
                "the kernel makes no user namespaces: sysctl -w user.max_user_namespaces=15000 (and a file in \
                 /etc/sysctl.d)",
            );
        }
        // Whatever profile it is, somebody wrote it for this program; the first sandbox shows whether it suffices.
        let has_profile = self.profile.as_deref().is_some_and(|name| name != "unconfined");
        if self.restricted.as_deref() == Some("1") && !has_profile {
            return Some(
                "AppArmor takes the power out of user namespaces of ordinary users' programs: give the agent a profile \
                 with the rule `userns,` (docs/native.md has one), or sysctl -w \
                 kernel.apparmor_restrict_unprivileged_userns=0, or run the agent as root",
            );
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> UserNamespaces {
        UserNamespaces {
            most: Some("96365".to_owned()),
            ..UserNamespaces::default()
        }
    }

    #[test]
    fn a_host_that_gives_ordinary_users_no_namespaces_is_refused_with_a_cure() {
        let set = |value: &str| Some(value.to_owned());
        assert_eq!(open().refusal(), None);
        let refused = [
            (
                UserNamespaces {
                    clone: set("0"),
                    ..open()
                },
                "kernel.unprivileged_userns_clone=1",
            ),
            (
                UserNamespaces {
                    most: set("0"),
                    ..open()
                },
                "user.max_user_namespaces",
            ),
            (
                UserNamespaces { most: None, ..open() },
                "user.max_user_namespaces",
            ),
            (
                UserNamespaces {
                    restricted: set("1"),
                    profile: set("unconfined"),
                    ..open()
                },
                "userns,",
            ),
        ];
        for (host, cure) in refused {
            let refusal = host.refusal();
            assert!(refusal.is_some_and(|text| text.contains(cure)), "{host:?}");
        }
    }

    #[test]
    fn a_program_with_a_profile_of_its_own_may_make_them_where_others_may_not() {
        let host = UserNamespaces {
            clone: Some("1".to_owned()),
            restricted: Some("1".to_owned()),
            profile: Some("terrapool-agent (unconfined)".to_owned()),
            ..open()
        };
        assert_eq!(host.refusal(), None);
    }

    #[test]
    fn the_root_profile_is_refused_without_root() {
        let refused = Privilege::User.check(SandboxUser::Root);
        assert!(refused.is_err_and(|error| error.to_string().contains("only root")));
        assert!(Privilege::Root.check(SandboxUser::Root).is_ok());
    }
}
