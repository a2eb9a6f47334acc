#!/bin/sh
# save.sh DIR: writes into DIR a bundle that brings back what portctl has loaded now: `sh DIR/load.sh`. Run-time
# contents (live groups, counters of limits, open connections) are not part of it.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
TZ=UTC # nft reads and prints moments in the zone of its process
export PATH LC_ALL TZ

case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
[ $# -eq 1 ] || {
    echo "usage: $0 DIR" >&2
    exit 2
}
mkdir -p -- "$1"
tables=$(nft list tables) || {
    echo "nft cannot list what is loaded" >&2
    exit 1
}
if printf '%s\n' "$tables" | grep -qx 'table inet portctl'; then
    nft -u list table inet portctl >"$1/rules.listed" # users by name, as they were written
    awk '
        /^\tset (live|limit|open)-[^ ]+ \{$/ { kept = 1 }
        /^\t\}$/ { kept = 0 }
        kept && /^\t\telements = \{/ { skip = 1 }
        !skip { print }
        skip && /\}$/ { skip = 0 }
    ' "$1/rules.listed" >"$1/rules.new"
    rm -f -- "$1/rules.listed"
else
    echo '# nothing was loaded' >"$1/rules.new"
fi
mv -f -- "$1/rules.new" "$1/rules.nft"
if [ "$(cd -- "$here" && pwd -P)" != "$(cd -- "$1" && pwd -P)" ]; then
    cp -- "$here/load.sh" "$here/save.sh" "$here/remove.sh" "$1/"
fi
