//! Who is who inside a sandbox, and on the host (user_namespaces(7)).

use std::fs;
use std::io;
use std::path::Path;

use super::privilege::Privilege;
use crate::config::SandboxUser;

/// User and group of the default profile, inside.
pub(super) const UNPRIVILEGED: u32 = 1000;
/// The same on the host, where root makes the sandbox: nobody there has numbers as high as these.
const FIRST_USER: u32 = 0x7000_0000;
const USERS: u32 = 0x1_0000;

/// Who owns the volumes of a sandbox, on the host. `None`: whoever makes them.
pub(super) fn owner(privilege: Privilege, user: SandboxUser) -> Option<u32> {
    match (privilege, user) {
        (Privilege::Root, SandboxUser::Unprivileged) => Some(FIRST_USER + UNPRIVILEGED),
        (Privilege::Root, SandboxUser::Root) => Some(0),
        (Privilege::User, _) => None,
    }
}

/// The map of users of a sandbox that root makes. Root is the host's in both profiles, so that the host's files look as
/// they do there; the default profile has no way to become it. The root profile is all users of the host, as package
/// managers expect, without any capability outside.
fn map_of(user: SandboxUser) -> String {
    match user {
        SandboxUser::Unprivileged => format!("0 0 1\n1 {} {}\n", FIRST_USER + 1, USERS - 1),
        SandboxUser::Root => format!("0 0 {USERS}\n"),
    }
}

/// Maps the users of a process's user namespace. One that an ordinary user made has its map already.
pub(super) fn map(privilege: Privilege, process: u32, user: SandboxUser) -> io::Result<()> {
    if privilege == Privilege::User {
        return Ok(());
    }
    let folder = Path::new("/proc").join(process.to_string());
    for map in ["uid_map", "gid_map"] {
        fs::write(folder.join(map), map_of(user))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_is_nobody_of_the_host() {
        assert_eq!(map_of(SandboxUser::Unprivileged), "0 0 1\n1 1879048193 65535\n");
        let owner = |user| owner(Privilege::Root, user);
        assert_eq!(owner(SandboxUser::Unprivileged), Some(FIRST_USER + 1000));
        assert_eq!(map_of(SandboxUser::Root), "0 0 65536\n");
        assert_eq!(owner(SandboxUser::Root), Some(0));
    }
}
