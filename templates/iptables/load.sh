#!/bin/sh
# Checks the rules and sets beside this file and loads them in place of whatever portctl had loaded before.
#   load.sh          check, then load; on any failure the old rules are still there, or there again
#   load.sh check    only check
# IPTABLES and IP6TABLES name the tools (iptables-legacy, …). PORTCTL_KEEP_SETS=1 leaves old address sets in the kernel.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
umask 077
here=$(cd "$(dirname "$0")" && pwd)
ipt4=${IPTABLES:-iptables}
ipt6=${IP6TABLES:-ip6tables}
work=$(mktemp -d)
# Sets that this run has made and no rule uses yet.
made=$work/made
: >"$made"

say() { echo "portctl: $*" >&2; }

fail() {
  say "$*"
  exit 1
}

forget() {
  while read -r name; do ipset destroy "$name" 2>/dev/null || :; done <"$made"
  rm -rf "$work"
}
trap forget EXIT
trap 'exit 1' HUP INT TERM

tables() {
  if [ "$1" = 4 ]; then echo "$ipt4"; else echo "$ipt6"; fi
}

# Loads a transaction into a family, waiting for the lock that the legacy variant takes.
restore() {
  family=$1
  shift
  "$(tables "$family")-restore" -w 30 --noflush "$@" <"$work/new.v$family"
}

# IPv6 is left out only where the kernel has none at all; a missing tool would leave it open.
families=4
[ ! -e /proc/net/if_inet6 ] || families='4 6'
for family in $families; do
  for tool in save restore; do
    command -v "$(tables "$family")-$tool" >/dev/null || fail "$(tables "$family")-$tool is missing; nothing is loaded"
  done
done

# --- sets: filled under another name and then renamed, so that no half-filled one ever bears a name that rules use ------

load_sets() {
  [ -s "$here/sets.ipset" ] || return 0
  command -v ipset >/dev/null || fail 'ipset is missing, and these rules need it; nothing is loaded'
  ipset list -n >"$work/have" || fail 'the address sets could not be read'
  # What an earlier run that was killed left behind.
  grep '^PORTCTL-' "$work/have" | while read -r name; do ipset destroy "$name" || :; done
  awk '$1 == "create" && $2 ~ /^portctl-live-/' "$here/sets.ipset" >"$work/live"
  awk -v new="$work/new" '
    FILENAME ~ /\/have$/ { have[$1] = 1; next }
    ($2 in have) || $2 ~ /^portctl-live-/ { next }
    $1 == "create" { print $2 > new }
    { sub(/portctl-/, "PORTCTL-"); print }
  ' "$work/have" "$here/sets.ipset" >"$work/fill"
  : >>"$work/new"
  sed 's/^portctl-/PORTCTL-/' "$work/new" >>"$made"
  ipset restore <"$work/fill" || fail 'the address sets do not load; nothing is changed'
  awk '{ print $2 }' "$work/live" | grep -vxF -f "$work/have" >>"$made" || :
  ipset -exist restore <"$work/live" || fail 'the sets of the live groups do not load; nothing is changed'
  while read -r name; do
    ipset rename "PORTCTL-${name#portctl-}" "$name"
    echo "$name" >>"$made"
  done <"$work/new"
}

# --- rules ----------------------------------------------------------------------------------------------------------------

# What turns the rules of file $1 (iptables-save) into those of file $2: chains of ours that differ, our jumps first in
# the built-in chains, nothing of anybody else's. A chain that is as it should be is left alone with its counters.
transaction() {
  awk '
    function add(line) { out[++lines] = line }
    # A rule for comparison: listings write protocols by name and users by number, as this host calls them.
    function plain(line, part) {
      if (match(line, / -p [^ ]+/)) {
        part = substr(line, RSTART + 4, RLENGTH - 4)
        if (part in protocol) line = substr(line, 1, RSTART + 3) protocol[part] substr(line, RSTART + RLENGTH)
      }
      if (match(line, / --uid-owner [^ ]+/)) {
        part = substr(line, RSTART + 13, RLENGTH - 13)
        if (part in user) line = substr(line, 1, RSTART + 12) user[part] substr(line, RSTART + RLENGTH)
      }
      return line
    }
    BEGIN {
      tables = split("mangle filter nat", order, " ")
      for (i = 1; i <= tables; i++) known[order[i]] = 1
      entry["filter", "PORTCTL-IN"] = "INPUT"; entry["filter", "PORTCTL-OUT"] = "OUTPUT"
      entry["filter", "PORTCTL-FWD"] = "FORWARD"; entry["mangle", "PORTCTL-PUBLISHED"] = "PREROUTING"
      entry["mangle", "PORTCTL-MSS"] = "FORWARD"; entry["nat", "PORTCTL-DNAT"] = "PREROUTING"
      entry["nat", "PORTCTL-SNAT"] = "POSTROUTING"
    }
    side == "protocols" { if ($1 !~ /^#/ && $2 ~ /^[0-9]+$/) protocol[$1] = $2; next }
    side == "users" { split($0, part, ":"); user[part[1]] = part[3]; next }
    /^\*/ { table = substr($1, 2); if (!(table in known)) { known[table] = 1; order[++tables] = table } next }
    /^:PORTCTL-/ {
      chain = substr($1, 2)
      if (side == "old") { old[table, chain] = 1; olds[table] = olds[table] " " chain }
      else { new[table, chain] = 1; news[table] = news[table] " " chain }
      next
    }
    /^-A PORTCTL-/ {
      key = table SUBSEP $2
      if (side == "old") oldtext[key] = oldtext[key] plain($0) "\n"
      else { newtext[key] = newtext[key] $0 "\n"; wanted[key] = wanted[key] plain($0) "\n" }
      next
    }
    side == "old" && /^-A / {
      rank[table, $2]++
      if ($NF !~ /^PORTCTL-/ || $(NF - 1) !~ /^-[jg]$/) next
      jump[table, ++jumps[table]] = $0
      placed[table, jumps[table]] = (rank[table, $2] == 1 && NF == 4 && $3 == "-j" && entry[table, $NF] == $2)
    }
    END {
      for (t = 1; t <= tables; t++) {
        table = order[t]; lines = 0
        if (news[table] != "" && table == "filter" && !((table, "PORTCTL-OPEN") in old)) add(":PORTCTL-OPEN - [0:0]")
        n = split(news[table], names, " ")
        for (i = 1; i <= n; i++) {
          key = table SUBSEP names[i]
          differs[key] = !(key in old) || oldtext[key] != wanted[key]
          if (differs[key]) add(":" names[i] " - [0:0]")
        }
        for (i = 1; i <= n; i++) {
          key = table SUBSEP names[i]
          if (differs[key] && newtext[key] != "") add(substr(newtext[key], 1, length(newtext[key]) - 1))
        }
        split("", done)
        for (i = 1; i <= jumps[table]; i++) {
          line = jump[table, i]; target = line; sub(/.* /, "", target)
          if (placed[table, i] && (table, target) in new) { done[target] = 1; continue }
          sub(/^-A /, "-D ", line); add(line)
        }
        for (key in entry) {
          split(key, part, SUBSEP)
          if (part[1] == table && key in new && !(part[2] in done)) add("-I " entry[key] " -j " part[2])
        }
        n = split(olds[table], names, " ")
        for (pass = 1; pass <= 2; pass++)
          for (i = 1; i <= n; i++) {
            if ((table, names[i]) in new || (names[i] == "PORTCTL-OPEN" && news[table] != "")) continue
            add((pass == 1 ? "-F " : "-X ") names[i])
          }
        if (!lines) continue
        print "*" table
        for (i = 1; i <= lines; i++) print out[i]
        print "COMMIT"
      }
    }
  ' side=protocols "$work/protocols" side=users "$work/users" side=old "$1" side=new "$2"
}

# Chains that are jumped to and are nowhere: iptables-restore --test does not see them.
missing_chains() {
  awk '
    /^\*/ { table = $1 }
    /^:PORTCTL-/ { have[table, substr($1, 2)] = 1 }
    /^-A / && $(NF - 1) ~ /^-[jg]$/ && $NF ~ /^PORTCTL-/ && $NF != "PORTCTL-OPEN" { want[table, $NF] = $NF }
    END { for (key in want) if (!(key in have)) print want[key] }
  ' "$1"
}

prepare() {
  cat /etc/protocols >"$work/protocols" 2>/dev/null || :
  { getent passwd || cat /etc/passwd; } >"$work/users" 2>/dev/null || :
  for family in $families; do
    rules=$here/rules.v$family
    [ -e "$rules" ] || fail "$rules is missing; nothing is loaded"
    missing=$(missing_chains "$rules")
    [ -z "$missing" ] || fail "rules.v$family jumps to chains that it does not have: $missing"
    "$(tables "$family")-save" >"$work/old.v$family" || fail 'the loaded rules could not be read; nothing is changed'
    transaction "$work/old.v$family" "$rules" >"$work/new.v$family"
    [ -s "$work/new.v$family" ] || continue
    restore "$family" --test ||
      fail "$(tables "$family")-restore does not take rules.v$family; nothing is changed"
  done
}

undo() {
  [ -z "${PORTCTL_RESTORING:-}" ] || fail "$1, and this was the way back"
  say "$1; the old rules are put back"
  PORTCTL_RESTORING=1 IPTABLES=$ipt4 IP6TABLES=$ipt6 sh "$work/before/load.sh" || say 'the old rules could not be put back'
  exit 1
}

load_sets
prepare
[ "${1:-}" != check ] || exit 0
[ -n "${PORTCTL_RESTORING:-}" ] || IPTABLES=$ipt4 IP6TABLES=$ipt6 sh "$here/save.sh" "$work/before"

trap '' HUP INT TERM
for family in $families; do
  [ -s "$work/new.v$family" ] || continue
  restore "$family" || undo "rules.v$family did not load"
done
: >"$made"

# --- sets that no rule of ours uses any more: a live group's only once it is empty ------------------------------------------

[ -z "${PORTCTL_KEEP_SETS:-}" ] && command -v ipset >/dev/null || exit 0
[ ! -e "$here/sets.ipset" ] || awk '$1 == "create" { print $2 }' "$here/sets.ipset" >"$work/wanted"
: >>"$work/wanted"
ipset list -t 2>/dev/null | awk '
  $1 == "Name:" { name = $2 }
  $1 " " $2 " " $3 == "Number of entries:" && name ~ /^portctl-/ && !(name ~ /^portctl-live-/ && $4 > 0) { print name }
' | grep -vxF -f "$work/wanted" | while read -r name; do ipset destroy "$name" 2>/dev/null || :; done
