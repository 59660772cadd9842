#!/bin/sh
# `cargo xtask package` puts this before postremove.sh and before purge.sh: when a deb is purged its files are gone already.
set -e

# Ends a container of the agent's own engine, which does not run any more: by containerd when that is the host's, else by
# its processes.
end_container() {
    id=$1
    if command -v ctr >/dev/null; then
        for namespace in terrapool moby; do
            ctr --namespace "$namespace" tasks rm --force "$id" >/dev/null 2>&1 || :
            ctr --namespace "$namespace" containers rm "$id" >/dev/null 2>&1 || :
        done
    fi
    find /sys/fs/cgroup -type d -name "*$id*" 2>/dev/null | while read -r group; do
        kill -KILL $(cat "$group/cgroup.procs" 2>/dev/null) 2>/dev/null || :
    done
    for process in /proc/[0-9]*; do
        case $(tr '\0' ' ' 2>/dev/null < "$process/cmdline") in
            *containerd-shim*"$id"*) kill -KILL "${process#/proc/}" 2>/dev/null || : ;;
        esac
    done
}

# Everything that is left of the agent's own engine, and its firewall rules.
remove_own_engine() {
    for folder in /var/lib/terrapool-docker/containers/* /var/lib/terrapool-docker/*/containers/*; do
        [ ! -d "$folder" ] || end_container "${folder##*/}"
    done
    for process in /proc/[0-9]*; do
        case $(tr '\0' ' ' 2>/dev/null < "$process/cmdline") in
            *containerd*/terrapool-docker/*) kill -KILL "${process#/proc/}" 2>/dev/null || : ;;
        esac
    done
    if command -v ctr >/dev/null; then
        ctr namespaces rm terrapool terrapool-plugins >/dev/null 2>&1 || :
    fi
    awk '$2 ~ "^/(var/lib|run)/terrapool-docker/" { print $2 }' /proc/mounts | sort -r | xargs -r umount -l || :
    rm -rf /var/lib/terrapool-docker/* /run/terrapool-docker
    # It may be a file system of its own.
    rmdir /var/lib/terrapool-docker 2>/dev/null || :
    if command -v iptables >/dev/null; then
        for place in mangle:PREROUTING nat:POSTROUTING filter:FORWARD; do
            table=${place%:*}
            while iptables -w -t "$table" -D "${place#*:}" -j TERRAPOOL 2>/dev/null; do :; done
            iptables -w -t "$table" -F TERRAPOOL 2>/dev/null || :
            iptables -w -t "$table" -X TERRAPOOL 2>/dev/null || :
        done
    fi
    ip link delete terrapool-none 2>/dev/null || :
    # The host's engine gives its bridge of that network the same name.
    docker --host unix:///var/run/docker.sock network inspect terrapool >/dev/null 2>&1 \
        || ip link delete terrapool0 2>/dev/null || :
}

# Sandboxes of the native driver, by their control groups, and their links.
remove_native_sandboxes() {
    key=/var/lib/terrapool-agent/instance.key
    [ -s "$key" ] && [ -d /var/lib/terrapool-agent/native ] || return 0
    identity=$(printf %s "$(cat "$key")" | sha256sum | cut -c 1-12)
    find /sys/fs/cgroup -type d -name "terrapool-$identity-*" 2>/dev/null | while read -r group; do
        kill -KILL $(cat "$group/cgroup.procs" 2>/dev/null) 2>/dev/null || :
    done
    # They are empty a moment later, on a busy machine a longer one.
    left=10
    while [ "$left" -gt 0 ]; do
        sleep 1
        left=$((left - 1))
        find /sys/fs/cgroup -type d -name "terrapool-$identity-*" -exec cat '{}/cgroup.procs' \; 2>/dev/null | grep -q . || break
    done
    find /sys/fs/cgroup -depth -type d -name "terrapool-$identity-*" -exec rmdir {} + 2>/dev/null || :
    for note in /var/lib/terrapool-agent/native/sandboxes/*/sandbox.json; do
        number=$(sed -n 's/.*"link":{"number":\([0-9]*\).*/\1/p' "$note" 2>/dev/null)
        if [ -n "$number" ]; then
            ip link delete "tpn$number" 2>/dev/null || :
            rm -f "/run/terrapool-native/$number"
        fi
    done
    if command -v iptables >/dev/null; then
        iptables -w -t nat -D POSTROUTING -s 198.18.0.0/15 ! -o tpn+ -j MASQUERADE 2>/dev/null || :
        iptables -w -D INPUT -i tpn+ -j DROP 2>/dev/null || :
        iptables -w -D FORWARD -o tpn+ -j DROP 2>/dev/null || :
        iptables -w -D FORWARD -o tpn+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT 2>/dev/null || :
        iptables -w -D FORWARD -i tpn+ -j TERRAPOOL-NATIVE 2>/dev/null || :
        iptables -w -D FORWARD -i tpn+ -o tpn+ -j DROP 2>/dev/null || :
        iptables -w -F TERRAPOOL-NATIVE 2>/dev/null || :
        iptables -w -X TERRAPOOL-NATIVE 2>/dev/null || :
    fi
}

# What the agent made on an engine that is not its own: by its label, and nothing else. The label is a digest of its key.
remove_from_other_engine() (
    key=/var/lib/terrapool-agent/instance.key
    host=$(sed -n 's/^docker_host *= *"\([^"]*\)".*/\1/p' /etc/terrapool-agent/agent.toml 2>/dev/null | tail -n 1)
    if [ ! -s "$key" ] || [ "$host" = unix:///run/terrapool-docker/docker.sock ] || ! command -v docker >/dev/null; then
        return
    fi
    label=label=io.terrapool.agent=$(printf %s "$(cat "$key")" | sha256sum | cut -c 1-12)
    DOCKER_HOST=${host:-unix:///var/run/docker.sock}
    export DOCKER_HOST
    timeout 60 docker ps --all --quiet --filter "$label" | xargs -r docker rm --force --volumes >/dev/null
    timeout 60 docker volume ls --quiet --filter "$label" | xargs -r docker volume rm --force >/dev/null
)

# Everything that this host's agent runs and keeps, its configuration too. Its services do not run any more.
remove_everything() {
    remove_native_sandboxes || :
    remove_from_other_engine || :
    remove_own_engine
    rm -rf /etc/terrapool-agent /var/lib/terrapool-agent
    rm -rf /etc/systemd/system/terrapool-agent.service.d /etc/systemd/system/terrapool-docker.service.d
    for file in /etc/subuid /etc/subgid; do
        [ ! -e "$file" ] || sed -i '/^terrapool-sandbox:/d' "$file"
    done
}

