#!/bin/sh
# Takes everything of portctl's out of the kernel: jumps, chains and sets of its name, and nothing else.
# IPTABLES and IP6TABLES name the tools (iptables-legacy, …).
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Translations first, so that at no moment something is translated that nothing judges.
removal() {
  "$1-save" >"$work/all"
  awk '
    /^\*/ { table = substr($1, 2) }
    /^:PORTCTL-/ { flush[table] = flush[table] "-F " substr($1, 2) "\n"; drop[table] = drop[table] "-X " substr($1, 2) "\n" }
    /^-A / && !/^-A PORTCTL-/ && $NF ~ /^PORTCTL-/ && $(NF - 1) ~ /^-[jg]$/ {
      sub(/^-A /, "-D "); jumps[table] = jumps[table] $0 "\n"
    }
    END {
      n = split("nat filter mangle raw security", order, " ")
      for (t = 1; t <= n; t++) {
        table = order[t]
        if (flush[table] != "") printf "*%s\n%s%s%sCOMMIT\n", table, jumps[table], flush[table], drop[table]
      }
    }
  ' "$work/all" >"$work/remove"
  [ ! -s "$work/remove" ] || "$1-restore" -w 30 --noflush <"$work/remove"
}

failed=0
removal "${IPTABLES:-iptables}" || failed=1
if [ -e /proc/net/if_inet6 ]; then removal "${IP6TABLES:-ip6tables}" || failed=1; fi
if command -v ipset >/dev/null; then
  ipset list -n | grep -i '^portctl-' >"$work/sets" || :
  while read -r name; do ipset destroy "$name" || failed=1; done <"$work/sets"
fi
exit $failed
