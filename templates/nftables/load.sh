#!/bin/sh
# load.sh [check]: loads the rules lying next to it in place of whatever portctl had loaded, in one transaction of the
# kernel; a failure changes nothing. With `check` the kernel checks the transaction and throws it away. Safe to run
# twice. Members of live groups, counters of limits, and open connections are kept.
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
    loaded=$(nft -t -s list table inet portctl)
else
    loaded=
fi

if [ "$first" = "$nothing" ]; then
    [ -n "$loaded" ] || exit 0
    printf 'delete table inet portctl\n' | nft $check -f -
    exit
fi

# What has to go first. Sets that hold run-time contents, and base chains (they hold the hooks), stay where the new
# rules define them as they are.
clear_away() {
    {
        printf '%s\n' "$loaded"
        echo '# new'
        cat "$rules"
    } | awk '
        function kept(kind, name) {
            return kind == "set" && name ~ /^(live|limit|open)-/
        }
        /^# new$/ { new = 1 }
        /^\t(set|map|chain) [^ ]+ \{$/ {
            kind = $1
            name = $2
            place = kind " " name
            if (new) wanted[place] = ""
            else {
                number++
                kinds[number] = kind
                names[number] = name
                had[place] = ""
            }
            next
        }
        # How a set or a base chain is made; a change of that is not possible in place.
        /^\t\t(type|size|flags|timeout) / {
            if (new) wanted[place] = wanted[place] $0 "\n"
            else had[place] = had[place] $0 "\n"
        }
        END {
            for (n = 1; n <= number; n++) if (kinds[n] == "map") print "delete map inet portctl " names[n]
            for (n = 1; n <= number; n++) if (kinds[n] == "chain") {
                place = "chain " names[n]
                if (had[place] == "" || !(place in wanted) || wanted[place] != had[place])
                    print "delete chain inet portctl " names[n]
            }
            for (n = 1; n <= number; n++) if (kinds[n] == "set") {
                place = "set " names[n]
                if (!kept("set", names[n]) || !(place in wanted) || wanted[place] != had[place])
                    print "delete set inet portctl " names[n]
            }
        }'
}

{
    if [ -n "$loaded" ]; then
        echo 'flush table inet portctl'
        clear_away
    fi
    cat "$rules"
} | nft $check -f -
