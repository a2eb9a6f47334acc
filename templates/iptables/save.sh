#!/bin/sh
# save.sh DIR: writes into DIR a bundle that brings back what portctl has loaded now: sh DIR/load.sh is the undo.
# What is in live groups, and connections that were open before, belong to the host and are not part of it.
# IPTABLES and IP6TABLES name the tools (iptables-legacy, …).
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
[ $# -eq 1 ] || {
  echo "usage: save.sh DIR" >&2
  exit 2
}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
to=$(cd "$1" && pwd)

# Our own chains as the rule files hold them: tables in the order of loading, chains by name.
own() {
  "$1-save" >"$to/.all"
  awk '
    /^\*/ { table = substr($1, 2) }
    /^:PORTCTL-/ && $1 != ":PORTCTL-OPEN" { chains[table] = chains[table] $1 " - [0:0]\n" }
    /^-A PORTCTL-/ && $2 != "PORTCTL-OPEN" { rules[table, ++count[table]] = $0 }
    END {
      n = split("mangle filter nat raw security", order, " ")
      for (t = 1; t <= n; t++) {
        table = order[t]
        if (chains[table] == "") continue
        printf "*%s\n%s", table, chains[table]
        for (i = 1; i <= count[table]; i++) print rules[table, i]
        print "COMMIT"
      }
    }
  ' "$to/.all"
  rm -f "$to/.all"
}

own "${IPTABLES:-iptables}" >"$to/rules.v4"
: >"$to/rules.v6"
[ ! -e /proc/net/if_inet6 ] || own "${IP6TABLES:-ip6tables}" >"$to/rules.v6"
: >"$to/sets.ipset"
if command -v ipset >/dev/null; then
  ipset save | awk '$2 ~ /^portctl-/ && ($1 == "create" || $2 !~ /^portctl-live-/)' >"$to/sets.ipset"
fi
for script in load.sh save.sh remove.sh; do
  [ "$here" = "$to" ] || cp "$here/$script" "$to/$script"
done
