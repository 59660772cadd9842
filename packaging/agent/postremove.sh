# deb: "remove" keeps configuration and data, "purge" removes them; rpm keeps them, and has purge.sh for it.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
if [ "$1" = purge ]; then
    remove_everything
fi
