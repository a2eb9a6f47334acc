#!/bin/sh
# cut.sh: ends the connections on standard input, "FAMILY PROTOCOL LOCAL PORT PEER PORT" each, which `block` forbids:
# the state tracker forgets them and their sockets are closed. Says which ones are still there.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
while read -r family protocol local port peer far; do
    case $protocol in 6) name=tcp flag=-t ;; 17) name=udp flag=-u ;; *) continue ;; esac
    conntrack -D -f "ipv$family" -p "$name" -s "$peer" -d "$local" --sport "$far" --dport "$port" >/dev/null 2>&1
    conntrack -D -f "ipv$family" -p "$name" -s "$local" -d "$peer" --sport "$port" --dport "$far" >/dev/null 2>&1
    ss -K -n "$flag" src "$local" sport = ":$port" dst "$peer" dport = ":$far" >/dev/null 2>&1
    [ "$name" = udp ] || tcpdrop "$local" "$port" "$peer" "$far" >/dev/null 2>&1
    if [ -n "$(ss -H -n "$flag" state established src "$local" sport = ":$port" dst "$peer" dport = ":$far" 2>/dev/null)" ]; then
        echo "not closed, only starved: $name $local port $port with $peer port $far"
    fi
done
exit 0
