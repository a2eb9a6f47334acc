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

sockets() { # "LOCAL:PORT PEER:PORT" of each, IPv4 written as IPv4 and without brackets and interfaces
    ss -Htun state connected 2>/dev/null | sed -e 's/\[::ffff:\([0-9.]*\)\]/\1/g' -e 's/[][]//g' -e 's/%[^: ]*//g' | tr -s ' \t' ' '
}

flows() { # what the state tracker has seen both ways, IPv6 written in full or short as it likes
    { conntrack -L -o extended 2>/dev/null || cat /proc/net/nf_conntrack 2>/dev/null; } | grep -v UNREPLIED
}

while [ -s "$here/list" ]; do
    sleep "${SWEEP_SECONDS:-5}"
    [ -e "$here/list" ] || exit 0
    command -v ss >/dev/null && there=$(sockets) || there=
    known=$(flows)
    : >"$here/kept"
    : >"$here/gone"
    while read -r family protocol local port peer far; do
        keep=yes
        if command -v ss >/dev/null; then
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
