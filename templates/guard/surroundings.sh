#!/bin/sh
# surroundings.sh: who asks, and what on this host a change of rules could hurt. It changes nothing, and whatever it
# cannot learn it leaves out. A part of the answer begins with the character 1 and its name.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
exec 2>/dev/null
say() { printf '\001%s\n' "$1"; }
clocks() {
    say clocks
    chronyc -nc sources | cut -d, -f3
    timedatectl show-timesync --value -p ServerAddress
    ntpq -pn | sed -n 's/^[*+#o-]\([0-9a-fA-F.:]*\) .*/\1/p'
}

# A BSD or macOS: ps(1) tells of processes. Times are in seconds, and a start is said a second too early rather than too
# late, as its age is counted in whole ones. Terminals in front of the machine get the number of Linux's first (4, 1).
age_of() {
    ps -o etime= -p "$1" | awk -F '[-:]' 'NF > 1 {
        print $NF + 60 * $(NF - 1) + (NF > 2 ? 3600 * $(NF - 2) : 0) + (NF > 3 ? 86400 * $(NF - 3) : 0) }'
}
on_bsd() {
    say chain
    since=$(sysctl -n kern.boottime | sed -n 's/^{ sec = \([0-9]*\),.*/\1/p')
    case $(uname -s) in Darwin) shown=-Eww ;; *) shown=-eww ;; esac
    own=${SSH_CONNECTION-}
    pid=$$
    while [ "${pid:-0}" -gt 0 ]; do
        # shellcheck disable=SC2046 # two words
        set -- $(ps -o ppid= -o tty= -p "$pid")
        [ -n "${1-}" ] || break
        terminal=0
        case ${2-} in tty[vuC]* | [vuC][0-9]* | con*) terminal=1025 ;; esac
        if [ -n "$since" ]; then up=$(($(date +%s) - since)); else up=$(age_of 1); fi
        age=$(age_of "$pid")
        name=$(ps -o comm= -p "$pid")
        ssh=$own
        own=
        [ -n "$ssh" ] || ssh=$(ps $shown -o command= -p "$pid" |
            sed -n 's/.*SSH_CONNECTION=\([0-9A-Fa-f.:%a-z]* [0-9]* [0-9A-Fa-f.:%a-z]* [0-9]*\).*/\1/p' | head -n 1)
        printf '%s %s %s %s %s|%s\n' "$pid" "$1" "$terminal" "$((up - ${age:-0} - 1))" \
            "$(printf '%s' "${name##*/}" | tr -c 'A-Za-z0-9_.-' '?')" "$ssh"
        pid=$1
    done
    say ticks
    echo 1
    clocks
}
if [ "$(uname -s)" != Linux ]; then
    on_bsd
    exit 0
fi

# This shell and everybody above it: pid, parent, terminal device, start in ticks since boot, SSH_CONNECTION, name.
say chain
pid=$$
while [ "${pid:-0}" -gt 0 ]; do
    stat=$(cat "/proc/$pid/stat") || break
    # shellcheck disable=SC2046,SC2086 # the fields after the name, which may hold blanks: proc(5)
    set -- ${stat##*)}
    ssh=$(tr '\000' '\n' <"/proc/$pid/environ" | sed -n 's/^SSH_CONNECTION=\([0-9A-Fa-f.:%a-z ]*\)$/\1/p' | head -n 1)
    name=$(tr -c 'A-Za-z0-9_.-' '?' <"/proc/$pid/comm")
    printf '%s %s %s %s %s|%s\n' "$pid" "$2" "$5" "${20}" "$name" "$ssh"
    pid=$2
done
say ticks
getconf CLK_TCK

say flows
{ conntrack -L -o extended || cat /proc/net/nf_conntrack; } | head -n 20000

say boot
(others)

say multicast
ip maddr show

say vendor
cat /sys/class/dmi/id/sys_vendor

clocks

say links
ip -d -o link show | sed 's/\\/ /g'
say wireguard
wg show all endpoints
say wireguard-port
wg show all listen-port
say wireguard-keepalive
wg show all persistent-keepalive
say tunnels
for name in $(ip -o link show type tun | sed 's/^[0-9]*: \([^:@]*\).*/\1/'); do
    grep -lsE "^iff:[[:space:]]*$name\$" /proc/[0-9]*/fdinfo/* | sed "s|^/proc/\([0-9]*\)/.*|$name \1|"
done
:
