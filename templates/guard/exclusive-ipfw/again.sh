#!/bin/sh
# save.sh DIR, beside rules that were given back: writes into DIR what takes them away again.
here=$(cd "$(dirname "$0")" && pwd) || exit 1
mkdir -p "$1" && cp "$here/sets" "$here/rules.ipfw" "$1/" && cp "$here/take.sh" "$1/load.sh"
