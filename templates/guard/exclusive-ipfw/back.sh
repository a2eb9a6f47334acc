#!/bin/sh
# load.sh [check]: gives back the rules of others that were moved away. What is not there any more has gone with a reboot.
set -u
PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
[ "${1-}" != check ] || exit 0
here=$(cd "$(dirname "$0")" && pwd) || exit 1
while read -r from to; do
    if ipfw -S list | grep -q "^# DISABLED [0-9]* set $to "; then
        ipfw -q set move "$to" to "$from" || exit 1
    fi
    ipfw -q set enable "$to" || exit 1
done <"$here/sets"
