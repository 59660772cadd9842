//! The root file system of a sandbox: programs and libraries of the host, and nothing else of it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use terrapool_protocol::runner::{BIN, CHANGES};

use super::mounts;
use super::privilege::Privilege;
use super::setup::Specification;
use crate::config::SandboxUser;

/// Folders and files of the host that a sandbox sees: programs, libraries, and what these read.
const SEEN: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/crypto-policies",
    "/etc/debian_version",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/needrestart",
    "/etc/perl",
    "/etc/os-release",
    "/etc/pki",
    "/etc/protocols",
    "/etc/redhat-release",
    "/etc/services",
    "/etc/ssl",
];

/// Settings of languages, whose folders have versions in their names: what these begin with, below `/etc`.
const SEEN_OF_LANGUAGES: [&str; 2] = ["java-", "python3"];

/// What package managers need besides; only root has a use for it.
const SEEN_BY_ROOT: &[&str] = &[
    "/etc/apt",
    "/etc/debconf.conf",
    "/etc/default",
    "/etc/dnf",
    "/etc/dpkg",
    "/etc/pam.d",
    "/etc/profile.d",
    "/etc/rpm",
    "/etc/skel",
    "/etc/yum",
    "/etc/yum.conf",
    "/etc/yum.repos.d",
    "/var/cache/apt",
    "/var/cache/debconf",
    "/var/lib/apt",
    "/var/lib/dnf",
    "/var/lib/dpkg",
    "/var/lib/rpm",
    "/var/lib/systemd/deb-systemd-helper-enabled",
    "/var/lib/ucf",
];

/// Keys of the host that lie among these.
const HIDDEN: &[&str] = &[
    "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d",
    "/etc/pki/consumer",
    "/etc/pki/entitlement",
    "/etc/pki/nssdb",
    "/etc/pki/tls/private",
    "/etc/ssl/private",
];

/// Parts of `/proc` that tell about the host, or change it.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
];
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// The mounts that follow are made in this mount namespace only.
pub(super) fn keep_apart() -> io::Result<()> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", flags)?)
}

/// Builds the root file system and makes it this process's.
///
/// # Errors
/// What could not be made.
pub(super) fn enter(specification: &Specification) -> io::Result<()> {
    let root = Root {
        specification,
        at: specification.folder.join("root"),
        overlays: specification.folder.join("overlays"),
    };
    root.build()?;
    rustix::process::chdir(&root.at)?;
    // The old root lies on top of the new one until it is let go.
    rustix::process::pivot_root(".", ".").map_err(about("/"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(about("the host's root"))?;
    Ok(rustix::process::chdir("/")?)
}

struct Root<'a> {
    specification: &'a Specification,
    at: PathBuf,
    overlays: PathBuf,
}

fn about(path: impl AsRef<Path>) -> impl FnOnce(rustix::io::Errno) -> io::Error {
    let path = path.as_ref().display().to_string();
    move |error| {
        io::Error::new(
            io::Error::from(error).kind(),
            format!("{path} cannot be mounted: {error}"),
        )
    }
}

impl Root<'_> {
    /// The place of a path of the sandbox, as it is now.
    fn place(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.at.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn is_root(&self) -> bool {
        self.specification.user == SandboxUser::Root
    }

    /// Whether an agent that is not root makes it.
    fn is_users(&self) -> bool {
        self.specification.privilege == Privilege::User
    }

    fn build(&self) -> io::Result<()> {
        fs::create_dir_all(&self.at)?;
        self.memory("/", PLAIN, "mode=755,size=16m")?;
        for folder in [
            "etc", "proc", "sys", "dev", "tmp", "run", "var/tmp", "var/log", "root", "home",
        ] {
            fs::create_dir_all(self.place(folder))?;
        }
        let further = if self.is_root() { SEEN_BY_ROOT } else { &[] };
        for path in SEEN.iter().chain(further) {
            self.show(Path::new(path))?;
        }
        for entry in fs::read_dir("/etc")?.flatten() {
            let name = entry.file_name();
            if SEEN_OF_LANGUAGES
                .iter()
                .any(|begin| name.to_string_lossy().starts_with(begin))
            {
                self.show(&entry.path())?;
            }
        }
        for path in HIDDEN.iter().filter(|path| self.place(path).exists()) {
            self.hide(path)?;
        }
        self.write_configuration()?;
        self.memory("/tmp", PLAIN | MountFlags::NOEXEC, "mode=1777,size=64m")?;
        self.memory("/var/tmp", PLAIN | MountFlags::NOEXEC, "mode=1777,size=64m")?;
        self.make_devices()?;
        self.make_proc()?;
        self.show_groups()?;
        self.bind(&self.specification.bin, Path::new(BIN), MountFlags::RDONLY)?;
        for (name, target) in super::VOLUMES {
            let volume = self.specification.folder.join(name);
            self.bind(&volume, Path::new(target), MountFlags::empty())?;
        }
        if self.is_users() {
            // Its user is the owner of all that was made here.
            self.close("/dev", MountFlags::NOSUID | MountFlags::NOEXEC)?;
        }
        if self.is_root() {
            // They take room of the data folder, where only the runner's count sees them.
            let flags = MountFlags::RDONLY | MountFlags::NOEXEC;
            return self.bind(&self.overlays, Path::new(CHANGES), flags);
        }
        self.close("/", PLAIN)
    }

    /// Lets nobody change a file system any more that was made here.
    fn close(&self, path: &str, flags: MountFlags) -> io::Result<()> {
        let flags = MountFlags::BIND | MountFlags::RDONLY | flags;
        rustix::mount::mount_remount(self.place(path), flags, "").map_err(about(path))
    }

    fn memory(&self, path: &str, flags: MountFlags, options: &str) -> io::Result<()> {
        let options = CString::new(options).map_err(io::Error::other)?;
        let place = self.place(path);
        fs::create_dir_all(&place)?;
        rustix::mount::mount("tmpfs", &place, "tmpfs", flags, options.as_c_str()).map_err(about(path))
    }

    /// Shows something of the host: as it is, or, for root, so that it can be changed in the sandbox only.
    fn show(&self, path: &Path) -> io::Result<()> {
        let Ok(found) = fs::symlink_metadata(path) else {
            return Ok(());
        };
        let place = self.place(path);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        if found.is_symlink() {
            return symlink(fs::read_link(path)?, place);
        }
        if !self.is_root() {
            return self.bind(path, path, MountFlags::RDONLY);
        }
        if found.is_dir() {
            return self.overlay(path, &place);
        }
        fs::copy(path, place).map(|_| ())
    }

    fn overlay(&self, path: &Path, place: &Path) -> io::Result<()> {
        let name = path.to_string_lossy().trim_matches('/').replace('/', "-");
        let (upper, work) = (
            self.overlays.join(&name).join("upper"),
            self.overlays.join(&name).join("work"),
        );
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        fs::create_dir_all(place)?;
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            path.display(),
            upper.display(),
            work.display()
        );
        let options = CString::new(options).map_err(io::Error::other)?;
        rustix::mount::mount("overlay", place, "overlay", PLAIN, options.as_c_str()).map_err(about(format!(
            "an overlay of {} (the root profile needs a kernel and a file system of the data folder that can do it)",
            path.display()
        )))
    }

    /// Binds a folder or file of the host.
    fn bind(&self, from: &Path, path: &Path, further: MountFlags) -> io::Result<()> {
        let place = self.place(path);
        if from.is_dir() {
            fs::create_dir_all(&place)?;
        } else {
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::File::create(&place)?;
        }
        if self.is_users() {
            return self.bind_foreign(from, path, further);
        }
        rustix::mount::mount_bind(from, &place).map_err(about(path))?;
        let flags = MountFlags::BIND | PLAIN | further;
        rustix::mount::mount_remount(&place, flags, "").map_err(about(path))
    }

    /// The same, where the host's mounts are not this process's to take apart: what is mounted below comes along, and is
    /// covered.
    fn bind_foreign(&self, from: &Path, path: &Path, further: MountFlags) -> io::Result<()> {
        let place = self.place(path);
        rustix::mount::mount_bind_recursive(from, &place).map_err(about(path))?;
        let flags = MountFlags::BIND | PLAIN | further | mounts::locked_flags(&place)?;
        rustix::mount::mount_remount(&place, flags, "").map_err(about(path))?;
        for point in mounts::below(&place)? {
            let inside = Path::new("/").join(point.strip_prefix(&self.at).unwrap_or(&point));
            if point.is_dir() {
                let flags = PLAIN | MountFlags::NOEXEC | MountFlags::RDONLY;
                self.memory(&inside.to_string_lossy(), flags, "mode=555,size=4k")?;
            } else {
                rustix::mount::mount_bind("/dev/null", &point).map_err(about(&inside))?;
            }
        }
        Ok(())
    }

    fn hide(&self, path: &str) -> io::Result<()> {
        let place = self.place(path);
        if fs::symlink_metadata(&place)?.is_dir() {
            self.memory(path, PLAIN | MountFlags::RDONLY, "mode=000,size=4k")
        } else {
            rustix::mount::mount_bind("/dev/null", &place).map_err(about(path))
        }
    }

    fn write_configuration(&self) -> io::Result<()> {
        let accounts = |name: &str, own: &str| {
            // Package managers look for users of their own.
            if self.is_root() {
                fs::read_to_string(format!("/etc/{name}")).unwrap_or_else(|_| own.to_owned())
            } else {
                own.to_owned()
            }
        };
        let passwd = "root:x:0:0:root:/root:/bin/sh\nterrapool:x:1000:1000::/terrapool/job/home:/bin/sh\n\
                      nobody:x:65534:65534::/nonexistent:/bin/false\n";
        let group = "root:x:0:\nterrapool:x:1000:\nnogroup:x:65534:\n";
        let files = [
            ("passwd", accounts("passwd", passwd)),
            ("group", accounts("group", group)),
            ("hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n".to_owned()),
            ("hostname", "sandbox\n".to_owned()),
            (
                "nsswitch.conf",
                "passwd: files\ngroup: files\nhosts: files dns\n".to_owned(),
            ),
            ("resolv.conf", self.specification.resolvers.clone()),
        ];
        for (name, text) in files {
            fs::write(self.place("/etc").join(name), text)?;
        }
        Ok(())
    }

    fn make_devices(&self) -> io::Result<()> {
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        self.memory("/dev", flags, "mode=755,size=64k")?;
        for name in DEVICES {
            let (host, place) = (Path::new("/dev").join(name), self.place("/dev").join(name));
            fs::File::create(&place)?;
            rustix::mount::mount_bind(&host, &place).map_err(about(&host))?;
        }
        self.memory("/dev/shm", PLAIN | MountFlags::NOEXEC, "mode=1777,size=64m")?;
        let place = self.place("/dev/pts");
        fs::create_dir(&place)?;
        rustix::mount::mount(
            "devpts",
            &place,
            "devpts",
            flags,
            c"newinstance,ptmxmode=0666,mode=0620",
        )
        .map_err(about("/dev/pts"))?;
        for (name, target) in [
            ("ptmx", "pts/ptmx"),
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ] {
            symlink(target, self.place("/dev").join(name))?;
        }
        Ok(())
    }

    fn make_proc(&self) -> io::Result<()> {
        let flags = PLAIN | MountFlags::NOEXEC;
        let place = self.place("/proc");
        rustix::mount::mount("proc", &place, "proc", flags, None).map_err(about("/proc"))?;
        for path in MASKED.iter().filter(|path| self.place(path).exists()) {
            if self.place(path).is_dir() {
                self.memory(path, flags | MountFlags::RDONLY, "mode=000,size=4k")?;
            } else {
                rustix::mount::mount_bind("/dev/null", self.place(path)).map_err(about(path))?;
            }
        }
        for path in READ_ONLY.iter().filter(|path| self.place(path).exists()) {
            let place = self.place(path);
            rustix::mount::mount_bind(&place, &place).map_err(about(path))?;
            let flags = MountFlags::BIND | MountFlags::RDONLY | flags;
            rustix::mount::mount_remount(&place, flags, "").map_err(about(path))?;
        }
        Ok(())
    }

    fn show_groups(&self) -> io::Result<()> {
        self.memory("/sys", PLAIN | MountFlags::NOEXEC, "mode=755,size=64k")?;
        let groups = Path::new("/sys/fs/cgroup");
        for (name, group) in &self.specification.groups {
            self.bind(group, &groups.join(name), MountFlags::RDONLY | MountFlags::NOEXEC)?;
        }
        self.close("/sys", PLAIN | MountFlags::NOEXEC)
    }
}
