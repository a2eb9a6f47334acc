#!/bin/sh
# netns.sh NAME COMMAND: runs a shell command in a network namespace, with portctl's own folders covered: it gets a state,
# records and an /etc of its own below /run, which end with the namespace at the next boot. The init system is hidden:
# a timer of systemd's would run in the machine's own network.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
if [ ! -e "/run/netns/$1" ]; then
    echo "there is no network namespace called $1" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "only root can enter a network namespace" >&2
    exit 1
fi
own=/run/portctl-netns/$1
(
    umask 077
    mkdir -p "$own/run" "$own/lib" "$own/written" "$own/work" "$own/etc"
)
mkdir -p /run/portctl /var/lib/portctl
(
    flock 9
    [ -e "$own/etc/passwd" ] ||
        mount -t overlay -o "lowerdir=/etc,upperdir=$own/written,workdir=$own/work" portctl "$own/etc" 2>/dev/null ||
        cp -a /etc/. "$own/etc" # where overlays cannot be stacked any higher
) 9>"$own/lock"
chmod 755 "$own/etc"
# shellcheck disable=SC2016 # for the shell inside
exec nsenter --net="/run/netns/$1" unshare --mount --propagation private sh -c '
    mount --bind "$1/run" /run/portctl && mount --bind "$1/lib" /var/lib/portctl && mount --bind "$1/etc" /etc || exit 1
    for init in /run/systemd /run/openrc; do
        [ ! -d "$init" ] || mount -t tmpfs -o mode=755 portctl "$init" || exit 1
    done
    mount -t sysfs sysfs /sys 2>/dev/null || :
    eval "$2"
' netns "$own" "$2"
