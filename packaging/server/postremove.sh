#!/bin/sh
# deb: "remove" keeps configuration and data, "purge" removes them; rpm keeps them.
set -e
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
if [ "$1" = purge ]; then
    rm -rf /etc/terrapool /var/lib/terrapool /etc/systemd/system/terrapool.service.d
fi
