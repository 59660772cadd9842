#!/bin/sh
# deb: "remove", or "upgrade"; rpm: 0 on removal, 1 on upgrade.
set -e
case $1 in
    remove | 0)
        if [ -d /run/systemd/system ]; then
            systemctl --no-reload disable --now terrapool.socket terrapool.service || :
        fi
        ;;
esac
