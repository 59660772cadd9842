#!/bin/sh
# deb: "remove" keeps configuration and data, "purge" removes them; rpm keeps them.
set -e
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
if [ "$1" = purge ]; then
    # Containers that still run are left without their files; their runners end them.
    awk '$2 ~ "^/(var/lib|run)/terrapool-docker/" { print $2 }' /proc/mounts | sort -r | xargs -r umount -l || :
    rm -rf /etc/terrapool-agent /var/lib/terrapool-agent /var/lib/terrapool-docker/* /run/terrapool-docker
    # It may be a file system of its own.
    rmdir /var/lib/terrapool-docker 2>/dev/null || :
    rm -rf /etc/systemd/system/terrapool-agent.service.d /etc/systemd/system/terrapool-docker.service.d
    for file in /etc/subuid /etc/subgid; do
        [ ! -e "$file" ] || sed -i '/^terrapool-sandbox:/d' "$file"
    done
fi
