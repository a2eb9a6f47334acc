#!/bin/sh
# open.sh add|delete: lets the connections on standard input through, "FAMILY PROTOCOL LOCAL PORT PEER PORT" each, which
# were open before there were rules; or no longer does. "add" may come before the rules are loaded: they keep the table.
set -u
PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL

scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
lines() { # both ways; the zone of a link-local address is no part of a packet
    while read -r _ protocol local port peer far; do
        echo "table portctl_open $1 ${peer%%%*},$protocol,$far,${local%%%*},$port"
        echo "table portctl_open $1 ${local%%%*},$protocol,$port,${peer%%%*},$far"
    done
}
case ${1-} in
    add)
        ipfw -q table portctl_open create type flow:src-ip,proto,src-port,dst-ip,dst-port missing || exit 1
        lines add >"$scratch/lines" && ipfw -q "$scratch/lines"
        ;;
    delete)
        # One by one: an entry that is gone already must not keep the others.
        # shellcheck disable=SC2086 # words of one command
        lines delete | while read -r line; do ipfw -q $line 2>/dev/null; done
        ;;
    *) echo "usage: open.sh add|delete" >&2; exit 64 ;;
esac
