#!/bin/sh
# sweep.sh: watches over the connections that were open before there were rules. Each is let through by a transitional
# rule until its socket closes or the state tracker knows it; then the rule goes, and after the last one this script.
# Beside it: open.sh, and "list" with a line "FAMILY PROTOCOL LOCAL PORT PEER PORT" for each.
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
trap '' HUP INT TERM
here=$(cd "$(dirname "$0")" && pwd) || exit 1
cd / || :

linux=$(command -v ss)
netstat=
[ -n "$linux" ] || [ "$(uname -s)" = Linux ] || netstat=$(command -v netstat)

sockets() { # "LOCAL:PORT PEER:PORT" of each, IPv4 written as IPv4 and without brackets and interfaces
    if [ -z "$linux" ]; then # "tcp4 0 0 192.0.2.10.22 203.0.113.9.4001 ESTABLISHED"; fe80::1%em0.22
        { netstat -anW 2>/dev/null || netstat -an 2>/dev/null; } | awk '/^(tcp|udp)/ && $6 != "LISTEN" && $6 != "TIME_WAIT" && $6 != "CLOSED" {
            for (k = 4; k <= 5; k++) if (match($k, /\.[0-9]+$/)) {
                address = substr($k, 1, RSTART - 1)
                port = substr($k, RSTART + 1)
                sub(/%.*/, "", address)
                $k = address ":" port
            }
            print "", $4, $5
        }'
        return
    fi
    ss -Htun state connected 2>/dev/null | sed -e 's/\[::ffff:\([0-9.]*\)\]/\1/g' -e 's/[][]//g' -e 's/%[^: ]*//g' | tr -s ' \t' ' '
}

flows() { # what the state tracker has seen both ways, IPv6 written in full or short as it likes
    { conntrack -L -o extended 2>/dev/null || cat /proc/net/nf_conntrack 2>/dev/null; } | grep -v UNREPLIED
}

while [ -s "$here/list" ]; do
    sleep "${SWEEP_SECONDS:-5}"
    [ -e "$here/list" ] || exit 0
    there=
    [ -z "$linux$netstat" ] || there=$(sockets)
    known=$(flows)
    : >"$here/kept"
    : >"$here/gone"
    while read -r family protocol local port peer far; do
        keep=yes
        if [ -n "$linux$netstat" ]; then
            case $there in *" $local:$port $peer:$far"*) ;; *) keep=no ;; esac
        fi
        case $known in
            *"src=$local dst=$peer sport=$port dport=$far "* | *"src=$peer dst=$local sport=$far dport=$port "*) keep=no ;;
        esac
        if [ $keep = yes ]; then file=kept; else file=gone; fi
        echo "$family $protocol $local $port $peer $far" >>"$here/$file"
    done <"$here/list"
    if [ -s "$here/gone" ]; then sh "$here/open.sh" delete <"$here/gone"; fi
    [ -e "$here/list" ] || exit 0
    mv "$here/kept" "$here/list"
done
rm -rf "$here"
