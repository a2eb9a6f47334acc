#!/bin/sh
# load.sh [check]: takes away what save.sh found, rule by rule: what came since then stays.
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
TZ=UTC
export PATH LC_ALL TZ
[ "${1-}" != check ] || exit 0
here=$(cd "$(dirname "$0")" && pwd) || exit 1
saved=$here/../../old/exclusive
[ ! -e "$here/rules.v4" ] || saved=$here
status=0
awk '
    $1 == "chain" { place = $2 " " $3 " " $4; if ($5 == "drop") print "chain " place " { policy accept; }" }
    $1 == "rule" { print "delete rule " place " handle " $2 }' "$saved/rules.nft" >"$here/take.nft"
if [ -s "$here/take.nft" ]; then nft -f "$here/take.nft" || status=1; fi
take() { # TOOL FILE
    [ -s "$2" ] || return 0
    {
        echo '*filter'
        sed -n 's/^:\([A-Z]*\) DROP .*/:\1 ACCEPT [0:0]/p' "$2"
        sed -n 's/^-A /-D /p' "$2"
        echo COMMIT
    } | "$1-restore" -w --noflush || status=1
}
take iptables "$saved/rules.v4"
take ip6tables "$saved/rules.v6"
exit $status
