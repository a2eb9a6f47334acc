#!/bin/sh
# remove.sh: takes portctl's rules, tables and nat instances out of the kernel, and nothing else. What the kernel does
# without rules (it denies, unless it was built or booted otherwise) is then in force.
set -u
PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL

sysctl -n net.inet.ip.fw.one_pass >/dev/null 2>&1 || exit 0
rules=$(ipfw -S list) || {
    echo "ipfw cannot list what is loaded" >&2
    exit 1
}
instances=$(printf '%s\n' "$rules" |
    awk '{ sub(/^# DISABLED /, "") } $2 == "set" && ($3 == 20 || $3 == 21) && $4 == "nat" { print $5 }' | sort -u)
foreign=$(printf '%s\n' "$rules" | awk '{ sub(/^# DISABLED /, "") }
    $2 == "set" && ($3 == 20 || $3 == 21) && ($1 < 20000 || $1 > 60000)')
[ -z "$foreign" ] || {
    echo "sets 20 and 21 hold rules of somebody else's: $foreign" >&2
    exit 1
}
for set in 20 21; do
    if printf '%s\n' "$rules" | grep -q "^\(# DISABLED \)\{0,1\}[0-9]* set $set "; then
        ipfw -q delete set $set || exit 1
    fi
done
ipfw -q set enable 21
for number in $instances; do
    ipfw -q nat "$number" delete
done
ipfw table all info 2>/dev/null | sed -n 's/^--- table(\(portctl[01]*_[^)]*\)), set(.*/\1/p' | while read -r name; do
    ipfw -q table "$name" destroy || exit 1
done
