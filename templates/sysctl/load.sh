#!/bin/sh
# load.sh [check]: sets the kernel settings of 60-portctl.conf beside it, reads each one back, and puts all of them
# back if one was refused or reads otherwise. "check" stops before the first write. A line that begins with "-" may fail.
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
here=$(cd "$(dirname "$0")" && pwd) || exit 1
conf=$here/60-portctl.conf
case $(uname -s) in Linux) proc=yes ;; *) proc=no ;; esac

# one NAME: sets $may_fail, $key and $file; the name of an interface may hold a dot, which is written as a slash
one() {
    case $1 in -*) may_fail=yes ;; *) may_fail=no ;; esac
    key=${1#-}
    case $key in
        '' | */ | /* | .* | *. | *..* | *//* | *[!A-Za-z0-9_./@:+-]*)
            echo "load.sh: not the name of a setting: $key" >&2
            exit 1
            ;;
    esac
    file=/proc/sys/$(printf %s "$key" | tr ./ /.)
    case $file in */../* | */./*) echo "load.sh: not the name of a setting: $key" >&2; exit 1 ;; esac
}

# exists, changeable: whether the kernel has the setting, whether we may write it
exists() {
    if [ $proc = yes ]; then [ -e "$file" ]; else sysctl -n "$key" >/dev/null 2>&1; fi
}
changeable() {
    if [ $proc = yes ]; then [ -w "$file" ]; else [ "$(id -u)" = 0 ]; fi
}

# put VALUE
put() {
    if [ $proc = yes ]; then printf '%s\n' "$1" 2>/dev/null >"$file"; else sysctl "$key=$1" >/dev/null 2>&1; fi
}

# units: $want in the kernel's own; "N s" is seconds, or ticks where OpenBSD's kernel counts those
units() {
    case $want in
        *' s')
            ticks=$(sysctl -n net.inet.tcp.slowhz 2>/dev/null) || ticks=1
            want=$((${want% s} * ${ticks:-1}))
            ;;
    esac
}

# current: the present value, its blanks as the file has them written
current() {
    if [ $proc = yes ]; then
        value=$(tr -s '[:space:]' ' ' <"$file") || return 1
    else
        value=$(sysctl -n "$key") || return 1
    fi
    value=${value# }
    value=${value% }
}

lines() {
    sed -e 's/^[[:space:]]*//' -e '/^[#;]/d' -e '/^$/d' -e 's/[[:space:]]*=[[:space:]]*/ /' -e 's/[[:space:]]\{1,\}/ /g' -e 's/ $//' "$1"
}

wanted=$(lines "$conf") || exit 1
failed=0
while read -r name want; do
    [ -n "$name" ] || continue
    one "$name"
    if ! exists; then
        [ "$may_fail" = yes ] && continue
        echo "load.sh: this kernel has no setting $key" >&2
        failed=1
    elif ! changeable; then
        [ "$may_fail" = yes ] && continue
        echo "load.sh: $key cannot be changed here (needs root, or is read-only in this container)" >&2
        failed=1
    elif ! current 2>/dev/null; then
        [ "$may_fail" = yes ] && continue
        echo "load.sh: $key cannot be read back, so nobody could tell whether it holds" >&2
        failed=1
    fi
done <<END
$wanted
END
[ $failed = 0 ] || exit 1
[ "${1-}" = check ] && exit 0
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
sh "$here/save.sh" "$scratch" || exit 1
before=$(lines "$scratch/60-portctl.conf") || exit 1

# widen LIST: the upper ends of port ranges that grow, so that no lower end is ever above its upper one
widen() {
    while read -r name want; do
        case $name in *last) ;; *) continue ;; esac
        one "$name"
        current 2>/dev/null || continue
        [ "$want" -le "$value" ] || put "$want"
    done <<END
$1
END
}

# write LIST: one pass over "name value" lines; what already reads as wanted is left alone. Lower ends come first.
write() {
    while read -r name want; do
        [ -n "$name" ] || continue
        one "$name"
        units
        current 2>/dev/null || continue
        [ "$value" = "$want" ] || put "$want"
    done <<END
$1
END
}

# differ LIST: what does not read as wanted
differ() {
    while read -r name want; do
        [ -n "$name" ] || continue
        one "$name"
        [ "$may_fail" = yes ] && continue
        units
        current 2>/dev/null || value='(unreadable)'
        [ "$value" = "$want" ] || echo "load.sh: $key: wanted $want, reads $value"
    done <<END
$1
END
}

# Twice: ip_local_port_range and ip_unprivileged_port_start each refuse what the other's old value forbids.
[ $proc = yes ] || widen "$wanted" 2>/dev/null
write "$wanted" 2>/dev/null
write "$wanted" 2>/dev/null
wrong=$(differ "$wanted")
[ -z "$wrong" ] && exit 0
printf '%s\n' "$wrong" >&2
[ $proc = yes ] || widen "$before" 2>/dev/null
write "$before" 2>/dev/null
write "$before" 2>/dev/null
wrong=$(differ "$before")
if [ -z "$wrong" ]; then
    echo "load.sh: every setting is as it was before" >&2
else
    echo "load.sh: these could not be put back:" >&2
    printf '%s\n' "$wrong" >&2
fi
exit 1
