#!/bin/sh
# deb: "remove", or "upgrade"; rpm: 0 on removal, 1 on upgrade.
set -e
case $1 in
    remove | 0)
        if [ -d /run/systemd/system ]; then
            # Jobs that run are not waited for, and go on until the engine's service ends.
            systemctl kill --kill-who=main --signal=SIGQUIT terrapool-agent.service 2>/dev/null || :
            systemctl --no-reload disable --now terrapool-agent.service terrapool-docker.service || :
        fi
        ;;
esac
