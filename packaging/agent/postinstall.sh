#!/bin/sh
# deb: "configure" [old version]; rpm: 1 on installation, 2 on upgrade.
set -e

if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers /usr/lib/sysusers.d/terrapool-agent.conf
else
    getent group terrapool-docker >/dev/null || groupadd --system terrapool-docker
    getent passwd terrapool-agent >/dev/null || useradd --system --user-group --groups terrapool-docker \
        --home-dir /var/lib/terrapool-agent --shell /sbin/nologin terrapool-agent
    getent passwd terrapool-sandbox >/dev/null || useradd --system --user-group --home-dir / --shell /sbin/nologin terrapool-sandbox
fi
# What root in a sandbox is on the host: ids that nobody else has.
for file in /etc/subuid /etc/subgid; do
    grep -qs '^terrapool-sandbox:' "$file" || echo 'terrapool-sandbox:2000000000:65536' >> "$file"
done

install -d -m 0750 -o root -g terrapool-agent /etc/terrapool-agent
install -d -m 0700 -o terrapool-agent -g terrapool-agent /var/lib/terrapool-agent
# Not a file of the package: people and `terrapool-agent configure` change it, and no upgrade has to ask about that.
if [ ! -e /etc/terrapool-agent/agent.toml ]; then
    install -m 0640 -o root -g terrapool-agent /usr/share/terrapool-agent/agent.toml /etc/terrapool-agent/agent.toml
fi

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if systemctl is-active --quiet terrapool-agent.service; then
        # It leaves at once, systemd starts the new version, and that takes up the running jobs.
        systemctl kill --kill-who=main --signal=SIGQUIT terrapool-agent.service || :
    fi
fi
if [ "$1" = 1 ] || { [ "$1" = configure ] && [ -z "${2:-}" ]; }; then
    cat <<'TEXT'
To connect this agent:
  sudo terrapool-agent configure
  sudo systemctl enable --now terrapool-agent
TEXT
fi
