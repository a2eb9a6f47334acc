#!/bin/sh
# open.sh add|delete: lets the connections on standard input through, "FAMILY PROTOCOL LOCAL PORT PEER PORT" each, which
# were open before there were rules; or no longer does. "add" may come before the rules are loaded: they keep the chain.
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
mark='-j MARK --set-xmark 0x4000000/0x4000000'
rules() { # VERB LINES FAMILY: the two rules of each connection of a family, one a direction
    printf '%s\n' "$2" | while read -r family protocol local port peer far; do
        [ "$family" = "$3" ] || continue
        case $protocol in 6) name=tcp ;; 17) name=udp ;; *) continue ;; esac
        echo "$1 PORTCTL-OPEN -s $peer -d $local -p $name -m $name --sport $far --dport $port $mark"
        echo "$1 PORTCTL-OPEN -s $local -d $peer -p $name -m $name --sport $port --dport $far $mark"
    done
}
tool() { case $1 in 4) echo iptables ;; 6) echo ip6tables ;; esac }
lines=$(cat)
status=0
case ${1-} in
    add)
        for family in 4 6; do
            { echo '*filter'; echo ':PORTCTL-OPEN - [0:0]'; rules -A "$lines" $family; echo COMMIT; } |
                "$(tool $family)-restore" -w --noflush || status=1
        done
        ;;
    delete)
        # One by one: a rule that is gone already must not keep the others.
        for family in 4 6; do
            # shellcheck disable=SC2086 # a rule is several words
            rules -D "$lines" $family | while read -r rule; do "$(tool $family)" -w $rule 2>/dev/null; done
        done
        ;;
    *) echo "usage: open.sh add|delete" >&2; exit 64 ;;
esac
exit $status
