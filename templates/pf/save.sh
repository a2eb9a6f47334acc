#!/bin/sh
# save.sh DIR: writes into DIR a bundle that brings back the main rule set that is loaded now: `sh DIR/load.sh`; beside
# rules for the anchor `portctl`, what is in that anchor. Contents of other anchors and of live groups, and open connections, are not part of it.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL

case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
[ $# -eq 1 ] || {
    echo "usage: $0 DIR" >&2
    exit 2
}
SCRUB='^\(no \)\{0,1\}scrub'
first=
anchor=
[ ! -r "$here/pf.conf" ] || IFS= read -r first <"$here/pf.conf" || :
case $first in '# '*': written by portctl for the anchor portctl.'*) anchor=portctl ;; esac
pf() {
    if [ "$anchor" ]; then pfctl -a "$anchor" "$@"; else pfctl "$@"; fi
}
mkdir -p -- "$1"
if [ "$(cd -- "$here" && pwd -P)" != "$(cd -- "$1" && pwd -P)" ]; then
    cp -- "$here/load.sh" "$here/save.sh" "$here/remove.sh" "$1/"
fi
cd -- "$1"
rm -f -- *.table

options() {
    pfctl -vs Interfaces 2>/dev/null | sed -n 's/^\([^ ]*\) (skip)$/set skip on \1/p'
    echo 'set block-policy drop'
    echo 'set ruleset-optimization none'
    for what in table-entries src-nodes; do
        pfctl -s memory 2>/dev/null | sed -n "s/^$what  *hard limit  *\\([0-9]*\\)\$/set limit $what \\1/p"
    done
    pfctl -s timeouts 2>/dev/null | sed -n 's/^\([a-z.]*\)  *\([0-9]*\)s$/set timeout \1 \2/p'
    if ! grep -q '^scrub ' rules.listed && echo 'set reassemble yes' | pfctl -nf - >/dev/null 2>&1; then
        echo 'set reassemble yes'
    fi
}

# The tables that are listed, and those into which pfctl's optimizer has put the addresses of rules, which it hides.
tables() {
    pf -s Tables 2>/dev/null || :
    tr '<>' '[\n*]' <rules.listed | grep '^__automatic_[0-9a-f]*_[0-9]*$' | sort -u || :
}

# What belongs to a main rule set beside its rules: OpenBSD's queues (a rule for one that is gone is refused by the
# kernel alone), what FreeBSD asks of frames.
beside() {
    pfctl -s ether 2>/dev/null | grep '^ether ' || :
    [ "$(uname -s)" != OpenBSD ] || pfctl -s queue 2>/dev/null | grep '^queue ' || :
}

# The rules that are listed, with users by their names, as they were written; a listing has their numbers.
named() {
    { getent passwd || cat /etc/passwd; } >users.listed 2>/dev/null || :
    awk '
        FILENAME == "users.listed" {
            split($0, part, ":")
            if (!(part[3] in name)) name[part[3]] = part[1]
            next
        }
        match($0, / user = [0-9]+ /) && (!index($0, " label ") || RSTART < index($0, " label ")) {
            number = substr($0, RSTART + 8, RLENGTH - 9)
            if (number in name) $0 = substr($0, 1, RSTART + 7) name[number] substr($0, RSTART + RLENGTH - 1)
        }
        { print }' users.listed rules.listed
    rm -f users.listed
}

saved() {
    echo "# what was loaded: written by portctl${anchor:+ for the anchor portctl}."
    [ -c /dev/pf ] || return 0
    pf -s rules >rules.listed 2>/dev/null || :
    [ "$anchor" ] || options
    tables | while read -r table; do
        case $table in
        portctl-live-*) echo "table <$table> persist" ;;
        *)
            pf -t "$table" -T show | sed 's/^ *//' >"$table.table"
            kind=persist
            case $table in portctl_*) kind=const ;; esac
            echo "table <$table> $kind file \"$table.table\""
            ;;
        esac
    done
    [ "$anchor" ] || beside
    grep "$SCRUB" rules.listed | sed '/^scrub-anchor /s/ fragment reassemble$//' || : # listed, but refused
    pf -s nat 2>/dev/null || :
    [ "$anchor" ] || pfctl -s dummynet 2>/dev/null || :
    named | grep -v "$SCRUB" || :
    rm -f rules.listed
}

saved >pf.conf.new
pf -nf pf.conf.new >/dev/null || {
    echo "what is loaded cannot be read back: it would not be restored" >&2
    exit 1
}
mv -f -- pf.conf.new pf.conf
