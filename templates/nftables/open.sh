#!/bin/sh
# open.sh add|delete: lets the connections on standard input through, "FAMILY PROTOCOL LOCAL PORT PEER PORT" each, which
# were open before there were rules; or no longer does. "add" may come before the rules are loaded: they keep the sets.
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
elements() {
    while read -r family protocol local port peer far; do
        echo "$1 element inet portctl open-$family { $protocol . $local . $port . $peer . $far }"
    done
}
case ${1-} in
    add)
        {
            echo "table inet portctl {"
            echo "set open-4 { type inet_proto . ipv4_addr . inet_service . ipv4_addr . inet_service; }"
            echo "set open-6 { type inet_proto . ipv6_addr . inet_service . ipv6_addr . inet_service; }"
            echo "}"
            elements add
        } | nft -f -
        ;;
    delete)
        # One by one: an element that is gone already must not keep the others.
        elements delete | while read -r line; do nft "$line" 2>/dev/null; done
        ;;
    *) echo "usage: open.sh add|delete" >&2; exit 64 ;;
esac
