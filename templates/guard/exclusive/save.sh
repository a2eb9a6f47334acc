#!/bin/sh
# save.sh DIR: writes into DIR what others have at the hooks of the filter that portctl manages ("hooks" beside this
# script: input, forward, output), and the script that gives it back: `sh DIR/load.sh`. It changes nothing.
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
TZ=UTC
export PATH LC_ALL TZ
here=$(cd "$(dirname "$0")" && pwd) || exit 1
mkdir -p "$1" && target=$(cd "$1" && pwd) || exit 1
: >"$target/rules.nft" && : >"$target/rules.v4" && : >"$target/rules.v6" || exit 1

# Tables of nft's own, but portctl's and those in which iptables-nft keeps its rules: "FAMILY TABLE CHAIN POLICY", and a
# line "HANDLE RULE" for each rule.
nft list tables 2>/dev/null | while read -r _ family table; do
    case "$family $table" in
        'inet portctl' | 'ip '[a-z]* | 'ip6 '[a-z]*)
            case $table in portctl | filter | nat | mangle | raw | security) continue ;; esac
            ;;
        inet*) ;;
        *) continue ;;
    esac
    nft -a list table "$family" "$table" | awk -v place="$family $table" -v hooks=" $(tr '\n' ' ' <"$here/hooks") " '
        $1 == "chain" { chain = $2; base = 0; next }
        $1 == "type" && $2 == "filter" && index(hooks, " " $4 " ") {
            base = 1
            policy = match($0, /policy drop/) ? "drop" : "accept"
            print "chain " place " " chain " " policy
            next
        }
        /^\t\}/ { base = 0 }
        base && match($0, / # handle [0-9]+$/) {
            handle = substr($0, RSTART + 10)
            rule = substr($0, 1, RSTART - 1)
            sub(/^[ \t]+/, "", rule)
            print "rule " handle " " rule
        }'
done >"$target/rules.nft"

builtin() { # the rules of the built-in chains, and policies other than accept
    command -v "$1-save" >/dev/null || return 0
    "$1-save" -t filter 2>/dev/null | while read -r line; do
        while read -r hook; do
            chain=$(echo "$hook" | tr "[:lower:]" "[:upper:]")
            case $line in
                "-A $chain "*"-j PORTCTL"*) ;; # comes and goes with portctl's own rules
                "-A $chain "* | ":$chain DROP "*) printf '%s\n' "$line" ;;
            esac
        done <"$here/hooks"
    done
}
builtin iptables >"$target/rules.v4"
builtin ip6tables >"$target/rules.v6"
cp "$here/back.sh" "$target/load.sh" && cp "$here/again.sh" "$target/save.sh" && cp "$here/load.sh" "$target/take.sh"
