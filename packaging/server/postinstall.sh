#!/bin/sh
# deb: "configure" [old version]; rpm: 1 on installation, 2 on upgrade.
set -e

if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers /usr/lib/sysusers.d/terrapool.conf
else
    getent passwd terrapool >/dev/null || useradd --system --user-group --home-dir /var/lib/terrapool \
        --shell /sbin/nologin terrapool
fi
install -d -m 0750 -o root -g terrapool /etc/terrapool
install -d -m 0750 -o terrapool -g terrapool /var/lib/terrapool
# Not a file of the package: people change it, and no upgrade has to ask about that.
if [ ! -e /etc/terrapool/terrapool.toml ]; then
    install -m 0640 -o root -g terrapool /usr/share/terrapool/terrapool.toml /etc/terrapool/terrapool.toml
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    systemctl try-restart terrapool.service || :
fi
if [ "$1" = 1 ] || { [ "$1" = configure ] && [ -z "${2:-}" ]; }; then
    cat <<'TEXT'
To start this control plane, set public_url and listen in /etc/terrapool/terrapool.toml, then:
  sudo systemctl enable --now terrapool
  sudo -u terrapool TERRAPOOL_CONFIG=/etc/terrapool/terrapool.toml terrapool admin create-user NAME --email ADDRESS --site-admin
TEXT
fi
