#!/bin/sh
# load.sh [check]: gives back the rules of others that were taken away, before what came meanwhile. Those that are there
# are left alone: the first of them tells whether they were taken at all.
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
TZ=UTC
export PATH LC_ALL TZ
[ "${1-}" != check ] || exit 0
here=$(cd "$(dirname "$0")" && pwd) || exit 1
status=0
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

# One transaction a chain; the rules are put in front, the last first.
awk -v out="$scratch" '
    $1 == "chain" { place = $2 " " $3 " " $4; n++; count = 0; print place > (out "/place." n); close(out "/place." n)
                    if ($5 == "drop") policy[n] = "chain " place " { policy drop; }"; where[n] = place; next }
    $1 == "rule" { sub(/^rule [0-9]+ /, ""); rules[n, ++counts[n]] = $0 }
    END { for (k = 1; k <= n; k++) {
        file = out "/back." k
        for (r = counts[k]; r >= 1; r--) print "insert rule " where[k] " " rules[k, r] > file
        if (k in policy) print policy[k] > file
        printf "" > file
        close(file)
    } }' "$here/rules.nft"
for file in "$scratch"/back.*; do
    [ -s "$file" ] || continue
    place=$(cat "$scratch/place.${file##*.}")
    # shellcheck disable=SC2086 # family, table and chain are three words
    nft list chain $place >"$scratch/now" 2>/dev/null || continue
    first=$(sed -n '$!d; s/^insert rule [^ ]* [^ ]* [^ ]* //p' "$file" | sed 's/packets [0-9]* bytes [0-9]*//')
    last=$(sed -n 's/^insert rule [^ ]* [^ ]* [^ ]* //p' "$file" | tail -n 1 | sed 's/packets [0-9]* bytes [0-9]*//')
    if [ -n "$last" ] && sed 's/packets [0-9]* bytes [0-9]*//' "$scratch/now" | grep -qF -- "${first:-$last}"; then
        grep '^chain' "$file" >"$scratch/policy" || continue
        nft -f "$scratch/policy" || status=1
    else
        nft -f "$file" || status=1
    fi
done

back() { # TOOL FILE
    [ -s "$2" ] || return 0
    {
        echo '*filter'
        sed -n 's/^:\([A-Z]*\) DROP .*/:\1 DROP [0:0]/p' "$2"
        # The last first, each in front.
        sed -n 's/^-A \([A-Z]*\) /\1 /p' "$2" | sed '1!G;h;$!d' | while read -r chain rule; do
            # shellcheck disable=SC2086 # a rule is several words
            printf '%s\n' "$("$1-save" -t filter)" | grep -qxF -- "-A $chain $rule" || echo "-I $chain 1 $rule"
        done
        echo COMMIT
    } >"$scratch/restore"
    "$1-restore" -w --noflush <"$scratch/restore" || status=1
}
back iptables "$here/rules.v4"
back ip6tables "$here/rules.v6"
exit $status
