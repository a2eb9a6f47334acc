#!/bin/sh
# remove.sh: takes portctl's table out of the kernel, and nothing else.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL

tables=$(nft list tables) || {
    echo "nft cannot list what is loaded" >&2
    exit 1
}
if printf '%s\n' "$tables" | grep -qx 'table inet portctl'; then
    nft delete table inet portctl
fi
