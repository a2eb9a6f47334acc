#!/bin/sh
# load.sh [check]: moves the sets that save.sh found into others, which are disabled: what comes later stays in force.
set -u
PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
[ "${1-}" != check ] || exit 0
here=$(cd "$(dirname "$0")" && pwd) || exit 1
saved=$here/../../old/exclusive
[ ! -e "$here/sets" ] || saved=$here
while read -r from to; do
    ipfw -q set disable "$to" && ipfw -q set move "$from" to "$to" || exit 1
done <"$saved/sets"
