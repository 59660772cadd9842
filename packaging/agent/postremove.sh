#!/bin/sh
# deb: "remove" keeps configuration and data, "purge" removes them; rpm keeps them.
set -e
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
if [ "$1" = purge ]; then
    rm -rf /etc/terrapool-agent /var/lib/terrapool-agent /var/lib/terrapool-docker /run/terrapool-docker
    rm -rf /etc/systemd/system/terrapool-agent.service.d /etc/systemd/system/terrapool-docker.service.d
    for file in /etc/subuid /etc/subgid; do
        [ ! -e "$file" ] || sed -i '/^terrapool-sandbox:/d' "$file"
    done
fi
