#!/bin/sh
# session.sh: runs on a host what portctl sends, one request after the other, until the connection ends.
#
# A request is a line "TEXT INPUT HOW", then TEXT bytes for the shell, then INPUT bytes for its standard input, `plain`
# or `gzip`. The answer is what it prints, then, on both streams, a line that begins with the character 1 and the word
# that portctl chose for this connection; on standard output with the exit status. Nothing follows a request before its
# answer has gone back, so that a tool may read ahead in the input without taking what is not its own.
# portctl sets the word: nonce=…
nonce=${nonce-}
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
PORTCTL_HOLDER=$$ # a lock that is taken over this connection is held as long as it lasts
export PATH LC_ALL PORTCTL_HOLDER
cd / || :

exactly() { dd bs=1 count="$1" 2>/dev/null; }
if [ "$(printf abc | head -c 2 2>/dev/null)" = ab ]; then
    input() { head -c "$1"; }
else
    input() { exactly "$1"; }
fi
if [ "$(printf abc | gzip -c 2>/dev/null | gzip -dc 2>/dev/null)" = abc ]; then gzip=gzip; else gzip=plain; fi

printf '\n\001%s hello %s %s %s\n' "$nonce" "$(id -u)" "$gzip" "${PORTCTL_NOT_ROOT-}"
unset PORTCTL_NOT_ROOT
while read -r text size how; do
    asked=$(exactly "$text" && echo .) || exit 1
    if [ "$size" = 0 ]; then
        (eval "${asked%.}") </dev/null
    elif [ "$how" = gzip ]; then
        input "$size" | gzip -dc | {
            (eval "${asked%.}")
            status=$?
            cat >/dev/null
            exit "$status"
        }
    else
        input "$size" | {
            (eval "${asked%.}")
            status=$?
            cat >/dev/null
            exit "$status"
        }
    fi
    status=$?
    for beat in "/run/portctl/beat.$$" "/var/run/portctl/beat.$$"; do
        [ ! -e "$beat" ] || touch "$beat" # whose lock this is, is still there: see held() of guard.sh
    done
    printf '\n\001%s\n' "$nonce" >&2
    printf '\n\001%s %s\n' "$nonce" "$status"
done
