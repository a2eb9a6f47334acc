#!/bin/sh
# save.sh DIR: writes into DIR the rules of others in the list of ipfw, the free sets that they can be moved to, and the
# script that gives them back: `sh DIR/load.sh`. It changes nothing.
set -u
PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
here=$(cd "$(dirname "$0")" && pwd) || exit 1
mkdir -p "$1" && target=$(cd "$1" && pwd) || exit 1
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
if sysctl -n net.inet.ip.fw.one_pass >/dev/null 2>&1; then
    ipfw -S list >"$scratch/list" || exit 1
else
    : >"$scratch/list"
fi
# Sets 20 and 21 are portctl's; 31 cannot be moved. A line "SET FREE" for each set that holds something.
awk -v target="$target" '
    { text = $0 }
    { off = sub(/^# DISABLED /, "") }
    $2 != "set" { next }
    { taken[$3] = 1 }
    off || $3 == 20 || $3 == 21 || $3 == 31 { next }
    { print text > (target "/rules.ipfw"); holds[$3] = 1 }
    END {
        free = 22
        for (one = 0; one < 31; one++) {
            if (!(one in holds)) continue
            while (free in taken) free++
            if (free > 30) exit 1
            print one, free++ > (target "/sets")
        }
    }' "$scratch/list" || {
    echo "save.sh: no set of ipfw is free for the rules of others" >&2
    exit 1
}
: >>"$target/rules.ipfw"
: >>"$target/sets"
cp "$here/back.sh" "$target/load.sh" && cp "$here/again.sh" "$target/save.sh" && cp "$here/load.sh" "$target/take.sh"
