# Is /usr/lib/terrapool-agent/purge: what `apt-get purge` does besides removing the package, for rpm, which knows no purge.
# Jobs that run are ended.
if [ "$(id -u)" != 0 ]; then
    echo "what the agent runs and keeps is root's to remove: sudo $0" >&2
    exit 1
fi
if [ -d /run/systemd/system ]; then
    systemctl kill --kill-who=main --signal=SIGQUIT terrapool-agent.service 2>/dev/null || :
    systemctl disable --now terrapool-agent.service terrapool-docker.service || :
fi
remove_everything
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
