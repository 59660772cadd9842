//! The Docker driver's tests on Podman without root's rights, which keeps limits on control groups of version 2 only:
//! service, driver and tests are an ordinary user's.

/// The tests' programs of this step.
pub(super) const PROGRAMS: [&str; 2] = ["sandbox", "sandbox_cases"];

/// How it is started.
pub(super) const BEGIN: &str = "as_engine ";

/// What the machine has for it.
pub(super) const SYSTEM: &str =
    "podman,crun,netavark,aardvark-dns,uidmap,catatonit,fuse-overlayfs,dbus-user-session";

/// Makes the user as an administrator would, lets systemd start Podman's service on its socket, and waits for it.
pub(super) const SETUP: &str = r#"
useradd --create-home --shell /bin/bash engine
mkdir -p /etc/systemd/system/user@.service.d
printf '[Service]\nDelegate=cpu cpuset io memory pids\n' > /etc/systemd/system/user@.service.d/engine.conf
systemctl daemon-reload
loginctl enable-linger engine
run=/run/user/$(id -u engine)
as_engine() {
  runuser -u engine -- env HOME=/home/engine XDG_RUNTIME_DIR=$run DBUS_SESSION_BUS_ADDRESS=unix:path=$run/bus \
    DOCKER_HOST=unix://$run/podman/podman.sock "$@"
}
for _ in $(seq 300); do [ -S $run/bus ] && break; sleep 1; done
as_engine systemctl --user start podman.socket
as_engine docker version
"#;
