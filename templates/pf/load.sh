#!/bin/sh
# load.sh [check]: loads the rule set lying next to it in place of the main rule set, in one transaction of the kernel;
# a failure changes nothing. With `check` it is only read. Calls of other programs' anchors are carried over, and their
# contents stay. Rules for the anchor `portctl` go there instead, and the main rule set stays, which has to call it.
# Members of live groups and open connections stay, but for connections that `block` names: those are
# cut. Never flushes, never disables. Safe to run twice.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL

case $0 in */*) here=${0%/*} ;; *) here=. ;; esac

case ${1-} in
'' | check) ;;
*)
    echo "usage: $0 [check]" >&2
    exit 2
    ;;
esac
cd -- "$here" # pfctl looks for the tables' files from where it runs
[ -r pf.conf ] || {
    echo "$here/pf.conf cannot be read" >&2
    exit 1
}
command -v pfctl >/dev/null || {
    echo "pfctl is not installed" >&2
    exit 1
}
first=
anchor=
IFS= read -r first <pf.conf || :
case $first in
'# '*': written by portctl.'*) ;;
'# '*': written by portctl for the anchor portctl.'*) anchor=portctl ;;
*)
    echo "$here/pf.conf was not written by portctl" >&2
    exit 1
    ;;
esac

# pfctl with the rule set that the file is for.
pf() {
    if [ "$anchor" ]; then pfctl -a "$anchor" "$@"; else pfctl "$@"; fi
}

# The anchors that the loaded rule set calls, by their kinds. Rules in braces are no anchors of others, nor is our own.
loaded=
[ ! -c /dev/pf ] || loaded=$(
    pfctl -s nat 2>/dev/null || :
    pfctl -s dummynet 2>/dev/null || :
    pfctl -s rules 2>/dev/null || :
)
memory=
[ ! -c /dev/pf ] || memory=$(pfctl -s memory 2>/dev/null || :)
anchors() {
    printf '%s\n' "$loaded" | grep "^$1 \"[^_\"]" | grep -v -e '{$' -e '^[a-z-]* "portctl" ' |
        sed 's/ fragment reassemble$//' || :
}

# Where there are rules for scrub, fragments are put together by them alone (pf_normalize_ip of FreeBSD 14 and 15).
together() {
    [ -z "$(anchors scrub-anchor)" ] || sed -n 's/^set reassemble yes$/scrub in all fragment reassemble/p' pf.conf
}

# Calls for one direction: those that name it, and those that name none.
directed() {
    anchors anchor | grep -v "^anchor \"[^\"]*\" $2 " | sed "/^anchor \"[^\"]*\" $1 /!s/^\(anchor \"[^\"]*\"\) /\1 $1 /" || :
}

# pfctl sets every limit that a file does not name to its default. No load does that to a limit of the host's, or lowers
# one: OpenBSD refuses what is below what is in use, and all of the load with it (EBUSY of DIOCSETLIMIT).
limits() {
    printf '%s\n' "$memory" | sed -n 's/^\([a-z-]*\)  *hard limit  *\([1-9][0-9]*\)$/\1 \2/p' | while read -r what now; do
        wanted=$(sed -n "s/^set limit $what \([0-9]*\)\$/\1/p" pf.conf)
        case $what in
        table-entries) usual=200000 ;;
        src-nodes) usual=10000 ;;
        *) usual=0 ;;
        esac
        [ "$now" -le "${wanted:-$usual}" ] || echo "set limit $what $now"
    done
}

rules() {
    head=yes
    while IFS= read -r line || [ -n "$line" ]; do
        case $head$line in
        yes'#'* | yes'set '*) ;;
        yes*)
            [ "$anchor" ] || limits
            head=
            ;;
        esac
        printf '%s\n' "$line"
        case $line in
        '# anchors of others: scrub')
            anchors scrub-anchor
            together
            ;;
        '# anchors of others: translation')
            anchors nat-anchor
            anchors binat-anchor
            anchors rdr-anchor
            ;;
        '# in') [ "$anchor" ] || anchors dummynet-anchor ;; # macOS wants them between translations and filter rules
        '# anchors of others: in') directed in out ;;
        '# anchors of others: out') directed out in ;;
        esac
    done <pf.conf
}

rules | pf -nf - >/dev/null
[ "${1-}" != check ] || exit 0

# Whether the main rule set calls the anchor, for each kind of rules that are in it.
called() {
    printf '%s\n' "$loaded" | grep -q '^anchor "portctl" all' || return 1
    for kind in nat rdr; do
        ! grep -q "^\(no \)\{0,1\}$kind " pf.conf ||
            printf '%s\n' "$loaded" | grep -q "^$kind-anchor \"portctl\" all" || return 1
    done
}
if [ "$anchor" ]; then
    called || {
        echo "the main rule set does not call the anchor: write into /etc/pf.conf what the head of $PWD/pf.conf says," >&2
        echo "and load that first" >&2
        exit 1
    }
    case $(printf '%s\n' "$loaded" | grep -E '^(anchor|pass|block|match|antispoof) ' | head -n 1) in
    'anchor "portctl" all'*) ;;
    *) echo "rules of the main rule set before the call of the anchor decide before it" >&2 ;;
    esac
fi

# FreeBSD takes so many networks of a table, and no more. Some versions ask for the number when the module is loaded.
largest=0
for file in *.table; do
    [ -r "$file" ] || continue
    count=$(($(wc -l <"$file")))
    [ "$count" -le "$largest" ] || largest=$count
done
[ -c /dev/pf ] || {
    [ "$largest" -le 65535 ] || kenv "net.pf.request_maxcount=$largest" >/dev/null 2>&1 || :
    kldload pf
}
if [ "$(sysctl -n net.pf.request_maxcount 2>/dev/null || echo "$largest")" -lt "$largest" ]; then
    sysctl "net.pf.request_maxcount=$largest" >/dev/null || {
        echo "write net.pf.request_maxcount=$largest into /boot/loader.conf and start anew" >&2
        exit 1
    }
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/portctl.XXXXXX")
trap 'rm -rf -- "$work"' EXIT
trap 'exit 1' HUP INT TERM

# A table is filled while the file is read, limits are set when it has been (pfctl_rules): a higher one has to come first,
# with the options alone, or, where pfctl has no -O, with the rules that are loaded.
higher() {
    wanted=$(sed -n 's/^set limit table-entries \([0-9]*\)$/\1/p' pf.conf)
    now=$(pfctl -s memory 2>/dev/null | sed -n 's/^table-entries  *hard limit  *\([0-9]*\)$/\1/p')
    [ "${now:-0}" -lt "${wanted:-0}" ] || return 0
    ! rules | grep '^set ' | pfctl -O -f - >/dev/null 2>&1 || return 0
    sh ./save.sh "$work/now" >/dev/null 2>&1 || return 0
    sed "s/^set limit table-entries .*/set limit table-entries $wanted/" "$work/now/pf.conf" >"$work/now/higher.conf"
    (cd -- "$work/now" && pfctl -f higher.conf >/dev/null 2>&1) || :
}
[ "$anchor" ] || higher
rules | pf ${anchor:+-o none} -f - >/dev/null # an anchor has no option that keeps the optimizer away
# What an earlier load put into the anchor is in the main rule set now.
if [ -z "$anchor" ] && pfctl -a portctl -s rules 2>/dev/null | grep -q -e 'label "portctl:' -e 'tag portctl_'; then
    : | pfctl -a portctl -f - >/dev/null 2>&1 || :
fi
pfctl -s info 2>/dev/null | grep -q '^Status: Enabled' || pfctl -e

# Connections that a rule of `block` names pass by their states until those are gone.
# direction protocol source destination ports family, "-" for any, and whether only what passes through is meant. States
# do not tell their interface, so an entry that names one cuts nothing.
awk '
    /^block .* label "portctl:block:/ && !/ quick on / {
        way = $3; proto = from = to = ports = family = "-"
        for (i = 1; i <= NF && $i != "label"; i++) {
            if ($i == "inet" || $i == "inet6") family = $i
            if ($i == "proto") proto = $(i + 1)
            if ($i == "from" && $(i + 1) != "any") from = $(i + 1)
            if ($i == "to") {
                if ($(i + 1) != "any") to = $(i + 1)
                if ($(i + 2) == "port") {
                    ports = ""
                    for (j = i + 3; $j != "label" && $j != "tagged" && j <= NF; j++)
                        if ($j != "{" && $j != "}") ports = ports "," $j
                }
            }
        }
        gsub(/[<>]/, "", from); gsub(/[<>]/, "", to)
        print way, proto, from, to, ports, family, / ! tagged portctl_here/ ? "through" : "-"
    }' pf.conf >"$work/blocks"
[ -s "$work/blocks" ] || exit 0
pfctl -s states 2>/dev/null >"$work/listed" || exit 0

# direction protocol, who began (address port), who answered (address port), the words of `pfctl -k key`: the addresses
# as they are on the wire. What is listed first is what this host or the next sees of what came in, is on the wire of
# what went out; the other is in parentheses.
awk '
    function part(text) {
        if (match(text, /\[[0-9]+\]$/)) {
            address = substr(text, 1, RSTART - 1)
            port = substr(text, RSTART + 1, RLENGTH - 2)
        } else if (match(text, /:[0-9]+$/)) {
            address = substr(text, 1, RSTART - 1)
            port = substr(text, RSTART + 1)
        } else {
            address = text
            port = 0
        }
    }
    function wire(i) {
        if ($arrow == "<-" && substr($(i + 1), 1, 1) == "(") return substr($(i + 1), 2, length($(i + 1)) - 2)
        return $i
    }
    {
        arrow = 0
        for (i = 3; i <= NF; i++) if ($i == "->" || $i == "<-") arrow = i
        if (!arrow) next
        part($3); left = address " " port
        part($(arrow + 1)); right = address " " port
        key = $2 " " wire(3) " " $arrow " " wire(arrow + 1)
        print ($arrow == "->") ? "out" : "in", $2, ($arrow == "->") ? left " " right : right " " left, key
    }' "$work/listed" >"$work/states"
awk '{ print $3; print $5 }' "$work/states" | sort -u >"$work/addresses"
grep -v '^#' /etc/protocols >"$work/protocols" 2>/dev/null || :
ifconfig 2>/dev/null | awk '$1 ~ /^inet6*$/ { sub(/[%\/].*/, "", $2); print $2 }' >"$work/own" || :
[ -s "$work/addresses" ] || exit 0

awk '$3 != "-" { print $3 } $4 != "-" { print $4 }' "$work/blocks" | sort -u | while read -r table; do
    pf -v -t "$table" -T test -f "$work/addresses" 2>/dev/null | awk -v table="$table" '{ print table, $NF }' || :
done >"$work/members"

awk '
    FILENAME ~ /protocols$/ { name[$2] = $1; next }
    FILENAME ~ /own$/ { own[$1] = 1; next }
    FILENAME ~ /members$/ { member[$1, $2] = 1; next }
    FILENAME ~ /blocks$/ {
        n++
        way[n] = $1; family[n] = $6; through[n] = ($7 == "through")
        proto[n] = $2; from[n] = $3; to[n] = $4; ports[n] = $5
        if (proto[n] == "icmp6") proto[n] = "ipv6-icmp"
        if (proto[n] in name) proto[n] = name[proto[n]]
        next
    }
    function inside(table, address) {
        return table == "-" || (table, address) in member
    }
    function listed(text, port,    parts, count, i, ends) {
        if (text == "-") return 1
        count = split(text, parts, ",")
        for (i = 2; i <= count; i++) {
            if (split(parts[i], ends, ":") == 2) {
                if (port + 0 >= ends[1] + 0 && port + 0 <= ends[2] + 0) return 1
            } else if (port + 0 == parts[i] + 0) return 1
        }
        return 0
    }
    {
        for (i = 1; i <= n; i++) {
            cut = 0
            if (family[i] != "-" && (family[i] == "inet6") != ($3 ~ /:/)) continue
            if (through[i] && ($5 in own || $5 ~ /^2(2[4-9]|3[0-9])\./ || $5 ~ /^(ff|255\.255\.255\.255)/)) continue
            if (proto[i] == "-")
                cut = (inside(from[i], $3) && inside(to[i], $5)) || (inside(from[i], $5) && inside(to[i], $3))
            else if (proto[i] == $2 && way[i] == $1)
                cut = inside(from[i], $3) && inside(to[i], $5) && listed(ports[i], $6)
            if (cut) {
                print
                next
            }
        }
    }' "$work/protocols" "$work/own" "$work/members" "$work/blocks" "$work/states" | while read -r _ _ source _ target _ key; do
    pfctl -k key -k "$key" >/dev/null 2>&1 || pfctl -k "$source" -k "$target" >/dev/null 2>&1 || :
done
