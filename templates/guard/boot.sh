#!/bin/sh
# boot.sh: loads the rules that were confirmed last, before the network is up. If they fail to load, those confirmed
# before them; if these fail too, the minimal rule set that lies beside each: known connections, what a host needs to
# live on a network, and ssh from wherever the policy admits it. No name is resolved and no other file is read.
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
boot=$(cd "$(dirname "$0")" && pwd) || exit 1

say() {
    printf 'portctl-boot: %s\n' "$*" >&2
    logger -t portctl-boot -- "$*" 2>/dev/null || :
}

load() { # FOLDER: the rules, then the settings
    rules=
    for part in "$1"/*/; do
        part=${part%/}
        case ${part##*/} in
            minimal | sysctl | '*') continue ;;
        esac
        rules=yes
        sh "$part/load.sh" || return 1
    done
    [ -n "$rules" ] || return 1
    if [ -e "$1/sysctl/load.sh" ] && ! sh "$1/sysctl/load.sh"; then say "a setting could not be written"; fi
}

for which in current previous; do
    [ -d "$boot/$which/." ] || continue
    if load "$boot/$which"; then
        [ "$which" = current ] || say "the $which rules are loaded: those confirmed last were refused"
        exit 0
    fi
    say "the $which rules could not be loaded"
done
for which in current previous; do
    [ -d "$boot/$which/minimal" ] || continue
    for part in "$boot/$which/minimal"/*/; do
        if sh "${part}load.sh"; then
            say "only known connections and ssh are admitted: run portctl apply"
            exit 1
        fi
    done
done
say "no rules could be loaded: this host is not protected by portctl"
exit 1
