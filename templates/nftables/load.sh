#!/bin/sh
# load.sh [check]: loads the rules lying next to it in place of whatever portctl had loaded. One transaction of the kernel
# changes all rules; sets and maps are there before it and go after it. A failure changes nothing. With `check` the kernel
# checks the rules and throws them away. Safe to run twice. Members of live groups, counters of limits, and open
# connections are kept.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
TZ=UTC # nft reads and prints moments in the zone of its process
export PATH LC_ALL TZ

case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
rules=$here/rules.nft
nothing='# nothing was loaded'

case ${1-} in
'') check= ;;
check) check=-c ;;
*)
    echo "usage: $0 [check]" >&2
    exit 2
    ;;
esac
[ -r "$rules" ] || {
    echo "$rules cannot be read" >&2
    exit 1
}
command -v nft >/dev/null || {
    echo "nft is not installed" >&2
    exit 1
}

first=
IFS= read -r first <"$rules" || :
case $first in
'table inet portctl {' | "$nothing") ;;
*)
    echo "$rules does not begin with the table of portctl" >&2
    exit 1
    ;;
esac

tables=$(nft list tables) || {
    echo "nft cannot list what is loaded" >&2
    exit 1
}
if printf '%s\n' "$tables" | grep -qx 'table inet portctl'; then
    loaded=yes
else
    loaded=
fi

if [ "$first" = "$nothing" ]; then
    [ -n "$loaded" ] || exit 0
    printf 'delete table inet portctl\n' | nft $check -f -
    exit
fi
[ -n "$loaded" ] || {
    nft $check -f "$rules"
    exit
}

# Each transaction is written out before nft reads it: half of one would be half the rules.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
nft -s list table inet portctl >"$work/loaded"

# flat FILE: each set and map on a line.
flat() {
    awk '/^\t(set|map) / { inside = 1 } inside { printf "%s", $0 } inside && /^\t}$/ { inside = 0; print "" }' "$1"
}
flat "$work/loaded" >"$work/loaded-flat"
flat "$rules" | awk -v loaded="$work/loaded-flat" '
    BEGIN { while ((getline line <loaded) > 0) had[line] }
    $0 in had { print $2 }' >"$work/same"

# When a packet looks, the kernel asks which elements of a map are valid then, and sets and maps of ranges get theirs
# only a moment after the rules. So a packet that is on its way at that moment finds nothing in what comes or goes
# together with the rules that it meets: it would be denied, or pass a block. Therefore what changes comes before the
# rules that look into it and goes after them, and what keeps its name stands in between under another one: next-NAME.
#
# The plan has a line for each set, map and chain: WHAT KIND NAME.
#   ahead   is new
#   hook    is a new base chain
#   beside  has other elements now, or leads to another chain
#   anew    is replaced together with the rules: hooks, and sets whose elements the kernel finds by their hash
#   renew   is a chain with another comment, which it gets when it is made
#   stay    is as it was: chains get other rules, sets that hold run-time contents keep them
#   gone    is not wanted any more
#   unhook  is a base chain that is not wanted any more
awk -v same="$work/same" '
    BEGIN { while ((getline name <same) > 0) unchanged[name] }
    FILENAME != file {
        file = FILENAME
        part++
    }
    /^\t(set|map|chain) [^ ]+ \{$/ {
        place = $1 " " $2
        if (part == 1) had[place] = ""
        else wanted[place] = ""
        if (part == 1 || !(place in had)) places[++number] = place
        next
    }
    # How a set or a base chain is made; a change of that is not possible in place.
    /^\t\t(type|size|flags|timeout) / {
        if (part == 1) had[place] = had[place] $0 "\n"
        else wanted[place] = wanted[place] $0 "\n"
    }
    /^\t\tcomment / && place ~ /^chain / { comment[part, place] = $0 }
    part == 1 && place ~ /^map / && / : jump / {
        for (n = split($0, word, " : jump "); n > 1; n--) {
            sub(/[ ,}].*/, "", word[n])
            leads[place] = leads[place] " " word[n] " "
        }
    }
    function leads_anew(map, n) {
        for (n = 1; n <= renewed; n++) if (index(leads[map], " " renew[n] " ")) return 1
        return 0
    }
    END {
        for (n = 1; n <= number; n++) {
            place = places[n]
            if (place ~ /^chain / && place in had && place in wanted && comment[1, place] != comment[2, place])
                renew[++renewed] = substr(place, 7)
        }
        for (n = 1; n <= number; n++) {
            place = places[n]
            split(place, word, " ")
            chain = word[1] == "chain"
            if (!(place in had)) what = chain && wanted[place] != "" ? "hook" : "ahead"
            else if (!(place in wanted)) what = chain && had[place] != "" ? "unhook" : "gone"
            else if (chain && comment[1, place] != comment[2, place]) what = "renew"
            else if (chain || word[2] ~ /^(live|limit|open)-/) what = had[place] == wanted[place] ? "stay" : "anew"
            else if (word[2] in unchanged && !leads_anew(place)) what = "stay"
            else what = word[1] == "map" || had[place] wanted[place] ~ /\t\tflags/ ? "beside" : "anew"
            print what, place
        }
    }' "$work/loaded" "$rules" >"$work/plan"

# take WHAT[:next-]…: deletes these, first those that refer to others.
take() {
    for kind in map chain set; do
        for each; do
            case $each in *:*) sign=${each#*:} ;; *) sign= ;; esac
            sed -n "s/^${each%:*} $kind /delete $kind inet portctl $sign/p" "$work/plan"
        done
    done
}

# give CHAINS BEFORE [WHAT…]: the rules with only the sets and maps of these kinds, and with `all` chains, with those
# `looking` into something that is `beside`, emptied before, or with `new` ones, empty. What is `beside` has BEFORE
# before its name. What is no such rules, or not all of them, comes out as something that nft refuses.
give() {
    awk -v plan="$work/plan" -v chains="$1" -v before="$2" -v kinds=" ${3-} ${4-} ${5-} " '
        BEGIN {
            print "table inet portctl {"
            while ((getline line <plan) > 0) {
                split(line, word, " ")
                what[word[2] " " word[3]] = word[1]
                if (word[1] == "beside") beside[word[3]]
            }
        }
        # The line with the other names of what it looks into.
        function renamed(line, part, count, name, n) {
            count = split(line, part, " @")
            line = part[1]
            for (n = 2; n <= count; n++) {
                name = substr(part[n], 1, index(part[n] " ", " ") - 1)
                looks = looks || name in beside
                line = line " @" (name in beside ? before : "") part[n]
            }
            return line
        }
        NR == 1 { next }
        /^}$/ && !closed && !inside { closed = 1; next }
        closed || !inside && !/^\t(set|map|chain) [^ ]+ \{$/ { print; next } # no such thing is in a whole file
        !inside {
            inside = 1
            place = $1 " " $2
            name = $2
            chain = $1 == "chain"
            object = !chain && index(kinds, " " what[place] " ")
            if (object) print "\t" $1, (name in beside ? before : "") name, "{"
            block = $0
            comment = ""
            looks = 0
            next
        }
        object { print }
        chain && /^\t\tcomment / { comment = $0 "\n" }
        chain { block = block "\n" (/ @/ ? renamed($0) : $0) }
        /^\t}$/ {
            if (chain && chains == "looking" && looks)
                print "}\nflush chain inet portctl " name "\ntable inet portctl {\n" block
            if (chain && chains == "all") print block
            if (chain && chains == "new" && what[place] ~ /^(ahead|renew)$/) print "\tchain " name " {\n" comment "\t}"
            chain = object = inside = 0
        }
        END { if (closed) print "}" }' "$rules"
}

commands=$work/commands
if [ -n "$check" ] || grep -q '^	[a-z]* next-' "$work/loaded"; then # a load before this one was killed
    sed -i -e 's/^beside /anew /' -e 's/^renew /anew /' "$work/plan"
    {
        echo 'flush table inet portctl'
        take anew unhook gone
        give all '' ahead anew
    } >"$commands"
    nft $check -f "$commands"
    exit
fi

# call FROM TO: gives chains that get another comment another name, without these first letters and with those.
call() {
    sed -n "s/^renew chain \(.*\)/rename chain inet portctl $1\1 $2\1/p" "$work/plan" >"$commands"
    [ ! -s "$commands" ] || nft -f "$commands"
}

call '' next- # maps still lead there
give new next- ahead beside >"$commands"
nft -f "$commands" || {
    call next- ''
    exit 1
}

{
    echo 'flush table inet portctl'
    take unhook anew
    give all next- anew
} >"$commands"
nft -f "$commands" || {
    take beside:next- ahead renew >"$commands"
    nft -f "$commands"
    call next- ''
    exit 1
}

if grep -q '^beside' "$work/plan"; then
    {
        take beside
        give none '' beside
    } >"$commands"
    nft -f "$commands"
    give looking '' >"$commands"
    nft -f "$commands"
fi
take beside:next- renew:next- gone >"$commands"
nft -f "$commands"
