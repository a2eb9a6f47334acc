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

# Our own chains as the rule files hold them: tables in the order of loading, chains by name. After a loader that was
# killed (load.sh, `transaction`) some stand there twice: then those that are in force, under their own names.
own() {
  "$1-save" >"$to/.all"
  { getent passwd || cat /etc/passwd; } >"$to/.users" 2>/dev/null || :
  awk '
    # A rule with its user by the name that its comment tells, as it was written; a listing has the number.
    function named(line, start, number, name) {
      if (!match(line, / --uid-owner [0-9]+/)) return line
      start = RSTART + 13
      number = substr(line, start, RLENGTH - 13)
      if (!match(line, /(-- |; )user [^;"]+/)) return line
      name = substr(line, RSTART, RLENGTH)
      sub(/^(-- |; )user /, "", name)
      if (!(name in user) || user[name] != number) return line
      return substr(line, 1, start - 1) name substr(line, start + length(number))
    }
    function target(line) { sub(/.* /, "", line); return line }
    # Of PORTCTL-in-ssh: PORTCTL-IN-ssh.
    function large(chain) {
      if (!match(chain, /^PORTCTL-[a-z]+/)) return chain
      return "PORTCTL-" toupper(substr(chain, 9, RLENGTH - 8)) substr(chain, RLENGTH + 1)
    }
    # Marks what is in force, from the jumps in the built-in chains on.
    function follow(table, i, key, more) {
      for (i = 1; i <= jumps[table]; i++) {
        key = switched ? " ! --mark 0x40000000/" : " -m mark --mark 0x40000000/"
        if (!index(jump[table, i], key)) force[table, target(jump[table, i])] = 1
      }
      do {
        more = 0
        for (i = 1; i <= rules[table]; i++) {
          key = table SUBSEP target(rule[table, i])
          if ((table, of[table, i]) in force && !(key in force)) { force[key] = 1; more = 1 }
        }
      } while (more)
    }
    FILENAME ~ /\/\.users$/ { split($0, part, ":"); user[part[1]] = part[3]; next }
    /^\*/ { table = substr($1, 2) }
    /^:PORTCTL-/ && $1 !~ /^:PORTCTL-(OPEN|SWITCH)$/ {
      chain[table, ++chains[table]] = substr($1, 2)
      if ($1 ~ /^:PORTCTL-[a-z]/) halfway = 1
    }
    /^-A PORTCTL-/ {
      if ($2 !~ /^PORTCTL-(OPEN|SWITCH)$/) { rule[table, ++rules[table]] = $0; of[table, rules[table]] = $2 }
      next
    }
    /^-A / && $NF ~ /^PORTCTL-/ {
      if ($NF == "PORTCTL-SWITCH") switched = 1
      if ($NF == "PORTCTL-SWITCH" || / --mark 0x40000000\//) halfway = 1
      jump[table, ++jumps[table]] = $0
    }
    END {
      n = split("mangle filter nat raw security", order, " ")
      for (t = 1; t <= n; t++) {
        table = order[t]
        if (halfway) follow(table)
        found = 0
        for (i = 1; i <= chains[table]; i++) {
          if (halfway && !((table, chain[table, i]) in force)) continue
          if (!found++) print "*" table
          print ":" large(chain[table, i]) " - [0:0]"
        }
        for (i = 1; i <= rules[table]; i++) {
          if (!halfway) { print named(rule[table, i]); continue }
          if (!((table, of[table, i]) in force)) continue
          line = substr(named(rule[table, i]), length(of[table, i]) + 4)
          end = target(line)
          print "-A " large(of[table, i]) substr(line, 1, length(line) - length(end)) large(end)
        }
        if (found) print "COMMIT"
      }
    }
  ' "$to/.users" "$to/.all"
  rm -f "$to/.users" "$to/.all"
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
