#!/bin/sh
# put.sh PATH MODE: writes standard input to a file, whole: a temporary file beside it, synced, then renamed.
set -eu
folder=${1%/*}
mkdir -p "${folder:-/}"
if [ -d "$1" ]; then
    echo "$1 is a folder" >&2
    exit 1
fi
new=$1.portctl-$$
trap 'rm -f "$new"' EXIT
umask 077
cat >"$new"
chmod "$2" "$new"
# `sync` with a file is of coreutils and busybox; elsewhere it means everything
sync "$new" 2>/dev/null || sync
mv -f "$new" "$1"
sync "${folder:-/}" 2>/dev/null || :
