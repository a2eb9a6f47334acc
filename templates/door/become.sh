#!/bin/sh
# become.sh: the first that a host is sent. As root it goes on as it is; else by sudo or doas where they ask nothing;
# else without, and says why. What goes on is a shell that reads the next script, byte for byte, from standard input.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
# shellcheck disable=SC2016 # for the next shell
next='read -r n && eval "$(dd bs=1 count="$n" 2>/dev/null)"'
why=
if [ "$(id -u)" != 0 ]; then
    for become in sudo doas; do
        command -v "$become" >/dev/null 2>&1 || continue
        if said=$("$become" -n /bin/sh -c : 2>&1 </dev/null); then
            exec "$become" -n /bin/sh -c "$next"
        fi
        why="$why$(printf '%s' "${said:-$become said nothing}" | head -n 1); "
    done
    PORTCTL_NOT_ROOT=${why:-neither sudo nor doas is there; }
    export PORTCTL_NOT_ROOT
fi
exec /bin/sh -c "$next"
