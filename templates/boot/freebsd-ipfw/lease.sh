#!/bin/sh
# lease.sh: tells the rules that are loaded the addresses of a lease, from dhclient-exit-hooks: at boot most leases come
# after the rules. Broadcast addresses are a table; a nat instance has what is this host's own address one by one.
PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
ifconfig -a | awk '$1 == "inet" { for (k = 2; k < NF; k++) if ($k == "broadcast") print $(k + 1) }' |
    while read -r address; do
        ipfw -q table portctl_broadcast add "$address" >/dev/null 2>&1
    done
own=$(ifconfig -a | awk '$1 == "inet" && $2 !~ /^127\./ { sub(/\/.*/, "", $2); print $2 }' | sort -u | tr '\n' ' ')
[ -n "$own" ] || exit 0
# An instance that has them all is left alone: to configure it again may cut what it holds.
loaded=$(ipfw nat show config 2>/dev/null)
sed -n 's/^#me nat //p' /etc/portctl/boot/current/ipfw/rules 2>/dev/null | while read -r number _ _ _ rest; do
    now=$(printf '%s\n' "$loaded" | sed -n "s/^ipfw nat $number config //p")
    [ -n "$now" ] || continue
    missing=
    for address in $own; do
        case $now in *" $address:"*) ;; *) missing=yes ;; esac
    done
    [ -n "$missing" ] || continue
    config=$(printf '%s\n' "$rest" | awk -v "own=$own" '{
        count = split(own, each, " ")
        line = "config ip " each[1]
        for (k = 1; k <= NF; k++) {
            if ($k != "redirect_port") { line = line " " $k; continue }
            for (n = 1; n <= count; n++) {
                target = $(k + 2)
                alias = $(k + 3)
                sub(/^me/, each[n], target)
                sub(/^me/, each[n], alias)
                line = line " " $k " " $(k + 1) " " target " " alias
            }
            k += 3
        }
        print line
    }')
    # shellcheck disable=SC2086 # words of one command
    ipfw -q nat "$number" $config
done
exit 0
