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
  "$(tables "$family")-restore" -w 30 --noflush "$@"
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
# It is written to file $3; with a fourth word in four steps, to $3.1 to $3.4.
#
# The kernel changes one table at a time. One straight after the other, they would for a moment judge by new rules what
# old ones have translated (or have not): packets that both admit would be lost, or leave under a wrong address. So:
#   1  Admit the union: filter and nat get the new chains beside the old ones, under names in small letters, for packets
#      with a mark bit that none has yet. A chain that is the same in both, with all that it leads to, serves both.
#   2  Change over: mangle gets its new chains, and one that gives the bit to whatever starts a connection. Before this
#      transaction every such packet is translated and judged by the old rules, and after it by the new ones.
#   3  Narrow: in filter and nat the old chains become the new ones. Packets without the bit, which are of known
#      connections or not tracked, are not translated by a rule; for them this is the moment of the change.
#   4  mangle ceases to give the bit, which no longer makes a difference; then the chains in small letters go.
# Rules of what leaves this host itself (PORTCTL-OUT) depend on no other table, and change in step 3 alone.
# After a loader that was killed, what is in force is whole too: the chains in small letters while the bit is given, else
# the others. In the first case steps 1 and 2 are left out.
transaction() {
  awk -v into="$3" -v staged="${4:-}" '
    function add(line) { out[++lines] = line }
    function flush(table, i, file) {
      if (!lines) return
      file = staged ? into "." step : into
      print "*" table >file
      for (i = 1; i <= lines; i++) print out[i] >file
      print "COMMIT" >file
      lines = 0
    }
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
    function target(line) { sub(/.* /, "", line); return line }
    # Of PORTCTL-IN-ssh: PORTCTL-in-ssh.
    function beside(chain) {
      match(chain, /^PORTCTL-[A-Z]+/)
      return "PORTCTL-" tolower(substr(chain, 9, RLENGTH - 8)) substr(chain, RLENGTH + 1)
    }
    function declare(table, chain) {
      add(":" chain " - [0:0]")
      if (!((table, chain) in old)) { old[table, chain] = 1; olds[table] = olds[table] " " chain }
    }
    function differs(table, chain) { return !((table, chain) in old) || oldtext[table, chain] != wanted[table, chain] }
    function hook(table, words) {
      add("-I " words)
      jump[table, ++jumps[table]] = "-A " words
    }
    function unhook(table, i, line) {
      line = jump[table, i]
      sub(/^-A /, "-D ", line)
      add(line)
      jump[table, i] = ""
    }
    function hooked(table, chain, i) {
      for (i = 1; i <= jumps[table]; i++) if (target(jump[table, i]) == chain) return 1
      return 0
    }
    function open_chain(table) {
      if (table == "filter" && news[table] != "" && !((table, "PORTCTL-OPEN") in old)) declare(table, "PORTCTL-OPEN")
    }
    # The chains of ours that differ become the new ones.
    function fill(table, n, i, names, todo, text) {
      open_chain(table)
      n = split(news[table], names, " ")
      for (i = 1; i <= n; i++) {
        todo[i] = differs(table, names[i])
        if (todo[i]) declare(table, names[i])
      }
      for (i = 1; i <= n; i++) {
        if (!todo[i]) continue
        text = newtext[table, names[i]]
        if (text != "") add(substr(text, 1, length(text) - 1))
        oldtext[table, names[i]] = wanted[table, names[i]]
      }
    }
    # All of a table as it shall be.
    function settle(table, i, n, key, part, pass, names, done) {
      fill(table)
      for (i = 1; i <= jumps[table]; i++) {
        if (jump[table, i] == "") continue
        if (placed[table, i] && (table, target(jump[table, i])) in new) done[target(jump[table, i])] = 1
        else unhook(table, i)
      }
      for (key in entry) {
        split(key, part, SUBSEP)
        if (part[1] != table || !(key in new) || part[2] in done) continue
        hook(table, entry[key] " -j " part[2])
        placed[table, jumps[table]] = 1
      }
      n = split(olds[table], names, " ")
      olds[table] = ""
      for (pass = 1; pass <= 2; pass++)
        for (i = 1; i <= n; i++)
          if (!((table, names[i]) in new) && !(names[i] == "PORTCTL-OPEN" && news[table] != ""))
            add((pass == 1 ? "-F " : "-X ") names[i])
          else if (pass == 1) olds[table] = olds[table] " " names[i]
      flush(table)
    }
    # Step 1: what differs, and what leads to it, once more in small letters; each entry by the bit.
    function add_beside(table, n, i, k, m, names, text, more, key, part, chain, both, had) {
      n = split(news[table], names, " ")
      for (i = 1; i <= n; i++)
        if (names[i] !~ /^PORTCTL-OUT/ && differs(table, names[i])) again[table, names[i]] = 1
      do {
        more = 0
        for (i = 1; i <= leads[table]; i++)
          if ((table, onward[table, i]) in again && !((table, from[table, i]) in again)) {
            again[table, from[table, i]] = 1
            more = 1
          }
      } while (more)
      for (i = 1; i <= n; i++) if ((table, names[i]) in again) declare(table, beside(names[i]))
      if (lines) open_chain(table)
      for (i = 1; i <= n; i++) {
        if (!((table, names[i]) in again)) continue
        m = split(newtext[table, names[i]], text, "\n")
        for (k = 1; k < m; k++) {
          chain = target(text[k])
          if ((table, chain) in again) text[k] = substr(text[k], 1, length(text[k]) - length(chain)) beside(chain)
          add("-A " beside(names[i]) substr(text[k], length(names[i]) + 4))
        }
      }
      for (key in entry) {
        split(key, part, SUBSEP)
        chain = part[2]
        if (part[1] != table || chain == "PORTCTL-OUT") continue
        both = !(key in new) || key in again
        if (!both && !hooked(table, beside(chain))) continue
        had = hooked(table, chain)
        for (i = 1; i <= jumps[table]; i++)
          if (target(jump[table, i]) == chain || target(jump[table, i]) == beside(chain)) unhook(table, i)
        if (had) hook(table, entry[key] (both ? unmarked : "") " -j " chain)
        if (both && key in new) hook(table, entry[key] marked " -j " beside(chain))
      }
      flush(table)
    }
    function switch_over() {
      entry["mangle", "PORTCTL-SWITCH"] = "PREROUTING"
      new["mangle", "PORTCTL-SWITCH"] = 1
      held = news["mangle"]
      news["mangle"] = held " PORTCTL-SWITCH"
      newtext["mangle", "PORTCTL-SWITCH"] = "-A PORTCTL-SWITCH -m conntrack --ctstate NEW -j MARK --set-xmark " bit "\n"
      settle("mangle")
      delete entry["mangle", "PORTCTL-SWITCH"]
      delete new["mangle", "PORTCTL-SWITCH"]
      news["mangle"] = held
    }
    # Step 3.
    function overwrite(table, key, part) {
      fill(table)
      for (key in entry) {
        split(key, part, SUBSEP)
        if (part[1] == table && key in new && !hooked(table, part[2])) hook(table, entry[key] unmarked " -j " part[2])
      }
      flush(table)
    }
    BEGIN {
      bit = "0x40000000/0x40000000"
      marked = " -m mark --mark " bit; unmarked = " -m mark ! --mark " bit
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
      if (side == "old") { oldtext[key] = oldtext[key] plain($0) "\n"; next }
      newtext[key] = newtext[key] $0 "\n"; wanted[key] = wanted[key] plain($0) "\n"
      if ($NF ~ /^PORTCTL-/) { from[table, ++leads[table]] = $2; onward[table, leads[table]] = $NF }
      next
    }
    side == "old" && /^-A / {
      rank[table, $2]++
      if ($NF !~ /^PORTCTL-/ || $(NF - 1) !~ /^-[jg]$/) next
      jump[table, ++jumps[table]] = $0
      placed[table, jumps[table]] = (rank[table, $2] == 1 && NF == 4 && $3 == "-j" && entry[table, $NF] == $2)
      if ($NF == "PORTCTL-SWITCH") switched = 1
    }
    END {
      if (staged) {
        if (!switched) {
          step = 1; add_beside("filter"); add_beside("nat")
          step = 2; switch_over()
        }
        step = 3; overwrite("filter"); overwrite("nat")
        step = 4
      }
      for (t = 1; t <= tables; t++) settle(order[t])
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
    new=$work/new.v$family
    : >"$new"
    transaction "$work/old.v$family" "$rules" "$new"
    [ -s "$new" ] || continue
    restore "$family" --test <"$new" ||
      fail "$(tables "$family")-restore does not take rules.v$family; nothing is changed"
    # One table is one transaction; and what a killed loader left behind is more than that.
    if [ "$(grep -c '^COMMIT' "$new")" -gt 1 ] || grep -q -e '-j PORTCTL-SWITCH$' "$work/old.v$family"; then
      transaction "$work/old.v$family" "$rules" "$new" staged
    else
      mv "$new" "$new.1"
    fi
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
  for step in "$work/new.v$family".[1-4]; do
    [ -e "$step" ] || continue
    restore "$family" <"$step" || undo "rules.v$family did not load"
  done
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
