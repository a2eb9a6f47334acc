#!/bin/sh
# load.sh [check]: loads the file `rules` beside it in place of whatever portctl had loaded. Everything goes into a
# disabled set and into tables of its own first, and is counted; then the sets change places at once. A failure changes
# nothing. `check` takes it out again before that. Safe to run twice. Members of live groups and connections are kept.
set -u
PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL

case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
rules=$here/rules
live=20
next=21
guess='^add [0-9]* set 20 skipto [0-9]* ip4 from any to 0[.]0[.]0[.]255:0[.]0[.]0[.]255 in // portctl:by-hand$'

fail() {
    echo "load.sh: $*" >&2
    exit 1
}

case ${1-} in
'' | check) ;;
*)
    echo "usage: $0 [check]" >&2
    exit 2
    ;;
esac
[ -r "$rules" ] || fail "$rules cannot be read"
command -v ipfw >/dev/null || fail "ipfw is not installed"
one_pass=$(sysctl -n net.inet.ip.fw.one_pass 2>/dev/null) ||
    fail "ipfw is not in the kernel. As it begins it denies everything, unless: kenv net.inet.ip.fw.default_to_accept=1; then: kldload ipfw"
IFS= read -r first <"$rules" || :
case $first in
'# nothing was loaded')
    [ "${1-}" = check ] && exit 0
    exec sh "$here/remove.sh"
    ;;
'# Rules of portctl'[.,]*) ;;
*) fail "$rules does not begin as portctl writes it" ;;
esac

scratch=$(mktemp -d) || fail "no place for temporary files"
trap 'rm -rf "$scratch"' EXIT

# ipfw -n reads the rules and carries out nothing. Of tables that are not there yet it knows nothing.
grep '^add ' "$rules" >"$scratch/read"
ipfw -n "$scratch/read" >"$scratch/said" 2>&1 || {
    cat "$scratch/said" >&2
    fail "ipfw refuses the rules"
}
sed -n 's/^#file portctl0_//p' "$rules" >"$scratch/files"
while read -r name; do
    [ -r "$here/$name.table" ] || fail "$here/$name.table cannot be read"
done <"$scratch/files"

# listed: the rules of all sets, with their sets
listed() {
    ipfw -S list
}

# tables PREFIX: names of the tables that begin so
tables() {
    ipfw table all info 2>/dev/null | sed -n "s/^--- table(\\($1[^)]*\\)), set(.*/\\1/p"
}

# destroy PREFIX: the tables that begin so, which no rule names any more
destroy() {
    tables "$1" >"$scratch/tables"
    while read -r name; do
        ipfw -q table "$name" destroy || return 1
    done <"$scratch/tables"
}

# instances SET: the numbers of the nat instances that the rules of a set name
instances() {
    listed | awk -v set="$1" '{ sub(/^# DISABLED /, "") } $2 == "set" && $3 == set && $4 == "nat" { print $5 }' | sort -u
}

# clear_away: what an unfinished load left
clear_away() {
    ipfw -q set disable $next && ipfw -q delete set $next 2>/dev/null
    destroy "portctl${new}_" || return 1
    [ -e "$scratch/fresh" ] || return 0
    while read -r _ number _; do
        ipfw -q nat "$number" delete 2>/dev/null
    done <"$scratch/fresh"
    return 0
}

# configure FILE: makes the nat instances of a file, or changes them
configure() {
    while read -r line; do
        # shellcheck disable=SC2086 # words of one command, which may be longer than a line of a file
        ipfw -q $line || give_up "ipfw refuses: $line"
    done <"$1"
}

give_up() {
    clear_away
    fail "$*; the rules from before are still there"
}

listed >"$scratch/before" || fail "ipfw cannot list what is loaded (needs root)"
foreign=$(awk -v live=$live -v "next_set=$next" '{ sub(/^# DISABLED /, "") }
    $2 == "set" && ($3 == live || $3 == next_set) && ($1 < 20000 || $1 > 60000)' "$scratch/before")
[ -z "$foreign" ] || fail "sets $live and $next hold rules of somebody else's: $foreign"
case $(awk -v set=$live '$2 == "set" && $3 == set { sub(/ \/\/ .*/, ""); print }' "$scratch/before") in
*portctl0_*) old=0 new=1 ;;
*) old=1 new=0 ;;
esac
clear_away || fail "tables of an unfinished load cannot be taken away"

# The kernel's table of tables may be too small; it can grow at any time.
needed=$(($(tables '' | wc -l) + $(grep -c '^table [^ ]* create' "$rules") + 1))
most=$(sysctl -n net.inet.ip.fw.tables_max) || most=$needed
if [ "$needed" -ge "$most" ]; then
    sysctl net.inet.ip.fw.tables_max=$((needed + 64)) >/dev/null || fail "net.inet.ip.fw.tables_max cannot be raised"
fi

if grep -q '^add [0-9]* set [0-9]* nat ' "$rules" && ! kldstat -q -m ipfw_nat; then
    kldload ipfw_nat || fail "ipfw_nat is not in the kernel and cannot be loaded"
fi

# Instances that are the same are left alone: to configure one again may cut what it holds.
ipfw nat show config 2>/dev/null | sed -n 's/^ipfw nat /nat /p' >"$scratch/nat"
own=$(ifconfig -a | awk '$1 == "inet" && $2 !~ /^127\./ { sub(/\/.*/, "", $2); print $2 }' | sort -u | tr '\n' ' ')
awk -v live=$live -v "guess=$guess" -v "own=${own:-127.0.0.1}" -v "next_set=$next" -v "new=portctl${new}_" -v "here=$here" '
    # A configuration, its words in an order of our own: ipfw lists them in its own.
    function ordered(line, word, n, k, j, count, each, text) {
        n = split(line, word, " ")
        count = 0
        for (k = 4; k <= n; k++) {
            text = word[k]
            if (text == "redirect_port") { text = text " " word[k + 1] " " word[k + 2] " " word[k + 3]; k += 3 }
            for (j = count++; j > 0 && each[j] > text; j--) each[j + 1] = each[j]
            each[j + 1] = text
        }
        text = ""
        for (j = 1; j <= count; j++) text = text " " each[j]
        return text
    }
    function instance(line, word) {
        split(line, word, " ")
        if (!(word[2] in there)) print line >fresh
        else if (there[word[2]] != ordered(line)) print line >changed
    }
    # Entries of one table, several in a line: each line costs ipfw two calls of the kernel. A line may have 1,023 bytes.
    function flush() {
        if (held) print "table " table " add" entries
        held = 0
        entries = ""
    }
    FILENAME != rules { there[$2] = ordered($0); next }
    # What is translated for any address of this host: once for each that it has.
    $1 == "#me" {
        count = split(own, each, " ")
        line = "nat " $3 " config ip " each[1]
        for (k = 7; k <= NF; k++) {
            if ($k != "redirect_port") { line = line " " $k; continue }
            for (n = 1; n <= count; n++) {
                target = $(k + 2)
                alias = $(k + 3)
                sub(/^me/, each[n], target)
                sub(/^me/, each[n], alias)
                line = line " " $k " " $(k + 1) " " target " " alias
            }
            k += 3
        }
        instance(line)
        next
    }
    # A long table lies in a file of its own.
    $1 == "#file" {
        flush()
        name = substr($2, 10)
        table = new name
        while ((getline address <(here "/" name ".table")) > 0) {
            if (address == "") continue
            entries = entries " " address " 0"
            if (++held == 16) flush()
        }
        close(here "/" name ".table")
        next
    }
    /^#/ || $1 == "disable" || $1 == "enable" { next }
    # For ipfw alone: it must not load this file with long tables left empty, and cannot know broadcast addresses.
    $1 == "add" && ($2 == 65535 || $0 ~ guess) { next }
    $1 == "nat" { instance($0); next }
    $1 == "table" && $3 == "add" {
        sub(/^portctl0_/, new, $2)
        if (held == 16 || $2 != table) flush()
        table = $2
        entries = entries " " $4 " " (NF > 4 ? $5 : 0)
        held++
        next
    }
    {
        flush()
        text = $0
        comment = ""
        if (at = index(text, " // ")) {
            comment = substr(text, at)
            text = substr(text, 1, at - 1)
        }
        gsub(/portctl0_/, new, text)
        if ($1 == "add") sub(" set " live " ", " set " next_set " ", text)
        print text comment
    }
    END { flush() }' fresh="$scratch/fresh" changed="$scratch/changed" rules="$rules" "$scratch/nat" rules="$rules" "$rules" >"$scratch/rules" || fail "the rules cannot be prepared"
: >>"$scratch/fresh"
: >>"$scratch/changed"
configure "$scratch/fresh"
ipfw -q "$scratch/rules" || give_up "ipfw refuses the rules"

# Nothing may be missing: ipfw stops reading at the first line that it does not take.
wanted=$(grep '^add ' "$rules" | grep -v '^add 65535 ' | grep -vc "$guess")
got=$(listed | grep -c "^# DISABLED [0-9]* set $next ")
[ "$wanted" = "$got" ] || give_up "of $wanted rules only $got were loaded"
{
    awk '$1 == "table" && $3 == "create" { n[$2] += 0 }
        $1 == "table" && $3 == "add" { n[$2] += NF == 4 ? 1 : int((NF - 3) / 2) }
        END { for (name in n) if (name ~ /^portctl[01]_/) print name, n[name] }' "$scratch/rules" | sort
} >"$scratch/wanted"
ipfw table all info | awk -v "new=portctl${new}_" '
    /^--- table\(/ { name = $2; sub(/^table\(/, "", name); sub(/\),$/, "", name) }
    / items: / && index(name, new) == 1 { for (k = 1; k < NF; k++) if ($k == "items:") print name, $(k + 1) + 0 }
' | sort >"$scratch/got"
cmp -s "$scratch/wanted" "$scratch/got" || give_up "the tables do not hold what the file says"
instances $next >"$scratch/asked"
ipfw nat show config 2>/dev/null | sed -n 's/^ipfw nat \([0-9]*\) config .*/\1/p' | sort -u >"$scratch/nat"
[ -z "$(comm -23 "$scratch/asked" "$scratch/nat")" ] || give_up "an instance of nat is missing"

if [ "${1-}" = check ]; then
    clear_away || fail "the rules are good, but cannot be taken away again"
    exit 0
fi

# set_to NAME VALUE: changes a setting and reads it back
set_to() {
    sysctl "$1=$2" >/dev/null && [ "$(sysctl -n "$1")" = "$2" ]
}
# at_least NAME VALUE: raises a setting that this system has
at_least() {
    now=$(sysctl -n "$1" 2>/dev/null) || return 0
    [ "$now" -ge "$2" ] || { sysctl "$1=$2" >/dev/null && [ "$(sysctl -n "$1")" -ge "$2" ]; }
}
# Without this a connection ends with the rule that let it in.
set_to net.inet.ip.fw.dyn_keep_states 1 || give_up "net.inet.ip.fw.dyn_keep_states cannot be 1: connections would be cut"
# With 1 ipfw drops every IPv6 packet of a protocol that it has no notion of, whatever the rules say.
[ "$(sysctl -n net.inet6.ip6.fw.deny_unknown_exthdrs 2>/dev/null)" != 1 ] ||
    set_to net.inet6.ip6.fw.deny_unknown_exthdrs 0 || give_up "net.inet6.ip6.fw.deny_unknown_exthdrs cannot be 0"
# With 1 whatever nat has looked at is accepted.
if [ -s "$scratch/asked" ] && [ "$one_pass" != 0 ]; then
    set_to net.inet.ip.fw.one_pass 0 || give_up "net.inet.ip.fw.one_pass cannot be 0"
fi
if grep -q ' src-addr [0-9][0-9]* :portctl_' "$rules"; then
    for name in net.inet.ip.fw.dyn_parent_max net.inet.ip.fw.dyn_max; do
        at_least $name 65536 || give_up "$name cannot be 65536: so many sources are to be counted"
    done
fi
if grep -q '^add [^/]* log ' "$rules"; then
    set_to net.inet.ip.fw.verbose 1 || give_up "net.inet.ip.fw.verbose cannot be 1: nothing would be logged"
fi

# `me` is no broadcast address. Those of today are added, others taken away, so that there is no moment without.
ifconfig -a | awk '$1 == "inet" { for (k = 2; k < NF; k++) if ($k == "broadcast") print $(k + 1) }' | sort -u >"$scratch/cast"
while read -r address; do
    ipfw -q table portctl_broadcast add "$address" || give_up "the table of broadcast addresses cannot be filled"
done <"$scratch/cast"
ipfw table portctl_broadcast list | awk '/^[0-9]/ { sub(/\/32$/, "", $1); print $1 }' | sort -u >"$scratch/known"
comm -13 "$scratch/cast" "$scratch/known" | while read -r address; do
    ipfw -q table portctl_broadcast delete "$address"
done

configure "$scratch/changed"
instances $live >"$scratch/used"
ipfw -q set enable $live || give_up "the set of the rules cannot be enabled"
ipfw -q set swap $live $next || give_up "the sets cannot change places"
ipfw -q delete set $next
destroy "portctl${old}_" || echo "load.sh: tables of the rules from before are still there" >&2
comm -23 "$scratch/used" "$scratch/asked" | while read -r number; do
    ipfw -q nat "$number" delete
done
for name in net.inet.ip.fw.enable net.inet6.ip6.fw.enable; do
    [ "$(sysctl -n $name)" = 1 ] || set_to $name 1 || fail "the rules are loaded, but $name is not 1: they judge nothing"
done
