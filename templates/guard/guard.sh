#!/bin/sh
# guard.sh VERB …: the transaction of portctl on a host, and what undoes it. It needs a POSIX shell and the packet
# filter's own tools; nothing of portctl has to be alive. Everything of a transaction lies in /run/portctl/pending (on a
# BSD and macOS /var/run/portctl/pending):
#
#   lock        number of the lock that it holds        number      number of its record
#   new/        the wanted bundles                      old/        the bundles that bring the old state back
#   order       names of those to load, in this order   boot/       what is to be written for the next boot
#   decision.pending → decision.confirmed | decision.undone: one rename, for which guard and confirmer contend
#   guard       who guards: "process PID START", or "timer UNIT"
#   deadline    in hundredths of a second since the boot: when the guard acts
# shellcheck disable=SC2317 # the functions are called by the name of the verb, at the end
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
umask 077
system=$(uname -s)
case $system in
    Linux) run=/run/portctl state=/var/lib/portctl ;;
    *) run=/var/run/portctl state=/var/db/portctl ;; # hier(7); rc(8) empties /var/run at boot
esac
pending=$run/pending
history=$state/history
boot=/etc/portctl/boot

real() { # PATH: where it is on this system; portctl names all paths as on Linux
    case $1 in
        /run/portctl | /run/portctl/*) printf '%s\n' "$run${1#/run/portctl}" ;;
        /var/lib/portctl | /var/lib/portctl/*) printf '%s\n' "$state${1#/var/lib/portctl}" ;;
        *) printf '%s\n' "$1" ;;
    esac
}

say() { printf '%s\n' "$*"; }
complain() { printf '%s\n' "$*" >&2; }

uptime() { # in whole seconds; it does not stand still and nobody sets it
    if [ "$system" = Linux ]; then
        read -r up _ </proc/uptime && printf '%s\n' "${up%%.*}"
        return
    fi
    # kern.boottime moves when somebody sets the clock, so that the difference does not.
    since=$(sysctl -n kern.boottime 2>/dev/null | sed -n 's/^{ sec = \([0-9]*\),.*/\1/p')
    if [ -n "$since" ]; then printf '%s\n' "$(($(date +%s) - since))"; else age_of 1; fi
}

age_of() { # PID: for how many seconds the process has run; its time is [[days-]hours:]minutes:seconds (ps(1))
    ps -o etime= -p "$1" 2>/dev/null | awk -F '[-:]' 'NF > 1 {
        print $NF + 60 * $(NF - 1) + (NF > 2 ? 3600 * $(NF - 2) : 0) + (NF > 3 ? 86400 * $(NF - 3) : 0) }'
}

hundredths() { # the same, in hundredths
    if [ "$system" = Linux ]; then
        read -r up _ </proc/uptime && printf '%s\n' "$((${up%%.*} * 100 + 1${up#*.} - 100))"
    else
        printf '%s\n' "$(($(uptime) * 100))"
    fi
}

stop_at() { # a test kills this script here, as a power cut would
    if [ "${PORTCTL_TESTING-}" = 1 ] && [ "${PORTCTL_STOP_AT-}" = "$1" ]; then kill -9 $$; fi
}

start_of() { # PID: when the process started, in clock ticks (BSD: seconds) since boot; fails where it is gone or a zombie
    if [ "$system" != Linux ]; then
        case $(ps -o state= -p "$1" 2>/dev/null) in '' | Z*) return 1 ;; esac
        age=$(age_of "$1")
        [ -n "$age" ] && printf '%s\n' "$(($(uptime) - age))"
        return
    fi
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # shellcheck disable=SC2086 # the fields after the name, which may hold blanks: proc(5)
    set -- ${stat##*)}
    case $1 in Z | X) return 1 ;; esac
    printf '%s\n' "${20}"
}

same_process() { # PID START
    now=$(start_of "$1") || return 1
    [ "$system" != Linux ] || { [ "$now" = "$2" ]; return; }
    # Both are differences of times in whole seconds.
    [ "$now" -ge "$(($2 - 2))" ] && [ "$now" -le "$(($2 + 2))" ]
}

boot_id() { # one for each boot. Without one it says nothing: the lock is gone with /var/run
    if [ "$system" = Linux ]; then
        cat /proc/sys/kernel/random/boot_id
    else
        sysctl -n kern.bootsessionuuid 2>/dev/null || printf 'since-boot\n'
    fi
}

# ---- the lock: run/lock.1, run/lock.2, …: the highest counts. A symbolic link is made whole or not at all, and never
# twice; its target says who holds it. A free or forgotten lock is passed on by making the next number, so that two who
# find the same lock forgotten cannot both get it.

highest() {
    top=0
    for link in "$run"/lock.*; do
        [ -L "$link" ] || continue
        n=${link##*.}
        case $n in '' | *[!0-9]*) continue ;; esac
        [ "$n" -gt "$top" ] && top=$n
    done
    printf '%s\n' "$top"
}

guard_alive() {
    read -r kind a b 2>/dev/null <"$pending/guard" || return 1
    case $kind in
        process) same_process "$a" "$b" ;;
        timer) systemctl is-active -q "$a.timer" 2>/dev/null || systemctl is-active -q "$a.service" 2>/dev/null ;;
        *) return 1 ;;
    esac
}

armed() { # LOCK: this lock's transaction has a guard
    [ -e "$pending/guard" ] && [ "$(cat "$pending/lock" 2>/dev/null)" = "$1" ]
}

held() { # NUMBER HOLDER: whether somebody holds it: the process that took it, or the guard of what it left pending
    if armed "$1" && guard_alive; then return 0; fi
    IFS=: read -r pid start born _ <<HOLDER
$2
HOLDER
    [ "$born" = "$(boot_id)" ] || return 1
    if [ "$pid" = 0 ]; then # seen from another process namespace: a lease
        [ "$(uptime)" -lt $((start + 600)) ]
    else
        # A lock that is held over a connection from afar is forgotten once nothing has come over that for a quarter of an
        # hour: sshd would keep a dead one for days.
        same_process "$pid" "$start" && [ -z "$(find "$run/beat.$pid" -mmin +15 2>/dev/null)" ]
    fi
}

mine() { # LOCK: fails where it was forgotten and somebody else has taken over
    [ "$(highest)" = "$1" ] || { complain "this apply was idle for too long, and another one has taken its place"; return 1; }
}

try_lock() { # WHO: 0 and the number; 1 and the holder; 2: somebody was faster
    mkdir -p "$run" || return 3
    top=$(highest)
    if [ "$top" -gt 0 ]; then
        holder=$(readlink "$run/lock.$top") || return 2
        if [ "$holder" != free ]; then
            if held "$top" "$holder"; then
                say "${holder#*:*:*:}"
                return 1
            fi
            # It left something behind and its guard is dead too: what the guard would have done comes first.
            armed "$top" && settle_forgotten >&2
        fi
    fi
    next=$((top + 1))
    pid=${PORTCTL_HOLDER:-$PPID}
    start=$(start_of "$pid") || { pid=0 start=$(uptime); }
    ln -s "$pid:$start:$(boot_id):$1" "$run/lock.$next" 2>/dev/null || return 2
    [ "$(highest)" = "$next" ] || { rm -f "$run/lock.$next"; return 2; }
    for link in "$run"/lock.*; do
        [ "$link" = "$run/lock.$next" ] || rm -f "$link"
    done
    rm -f "$run"/beat.*
    [ -z "${PORTCTL_HOLDER-}" ] || : >"$run/beat.$pid"
    say "$next"
}

take() { # WHO SECONDS: waits so long for the lock
    until_then=$(($(uptime) + $2))
    while :; do
        said=$(try_lock "$1")
        case $? in
            0) # the number; where this system has another place for the transaction, that too
                [ "$run" = /run/portctl ] || said="$said $pending"
                say "$said"
                return 0
                ;;
            1) [ "$(uptime)" -lt "$until_then" ] || { say "$said"; return 75; } ;;
            3) return 1 ;;
        esac
        nap
    done
}

nap() { sleep 0.2 2>/dev/null || sleep 1; }

release() { # NUMBER
    [ -L "$run/lock.$1" ] || return 0
    rm -f "$run"/beat.*
    ln -s free "$run/.free.$$" && replace "$run/.free.$$" "$run/lock.$1"
}

replace() { # NEW OLD: a rename that never moves into a folder; mv without -T (BSD: -h) would, where OLD is a link to one
    mv -Tf "$1" "$2" 2>/dev/null || mv -hf "$1" "$2" 2>/dev/null || { ln -sfn "$(readlink "$1")" "$2" && rm -f "$1"; }
}

# ---- the steps

begin() { # LOCK: an empty transaction; what an unguarded one left behind goes
    rm -rf "$pending" && mkdir -p "$pending/new" "$pending/old" "$pending/boot" && say "$1" >"$pending/lock"
}

wanted() { ls "$pending/new"; }

parts() { cat "$pending/order" 2>/dev/null; }

backwards() { parts | sed -n '1!G;h;$p'; }

check() { # the host's own parsers read the new rules
    for part in $(wanted); do
        sh "$pending/new/$part/load.sh" check || { complain "the host's parser refuses $part"; return 1; }
    done
}

save() {
    for part in $(wanted); do
        sh "$pending/new/$part/save.sh" "$pending/old/$part" || { complain "the state of $part could not be saved"; return 1; }
    done
}

number() { # the record gets its number and lies there before anything changes
    mkdir -p "$history" || return 1
    n=0
    for each in "$history"/*; do
        each=${each##*/}
        case $each in '' | *[!0-9]*) continue ;; esac
        [ "$each" -gt "$n" ] && n=$each
    done
    say $((n + 1))
}

record() { # NUMBER: the record as prepared, with both states
    say "$1" >"$pending/number" && mkdir -p "$history" && rm -rf "$history/.new" &&
        cp -R "$pending/record" "$history/.new" && cp -R "$pending/old" "$history/.new/before" &&
        cp -R "$pending/new" "$history/.new/after" && cp -R "$pending/boot" "$history/.new/boot" &&
        say pending >"$history/.new/outcome" && mv "$history/.new" "$history/$1"
}

try_persist() { # whether what must be written after the confirmation can be written, all of it, where it must go
    try=$boot/.try.$$
    made=
    [ -d /etc/portctl ] || made=/etc/portctl
    mkdir -p "$try" && cp -R "$pending/boot" "$try/boot"
    status=$?
    rm -rf "$try"
    rmdir "$boot" 2>/dev/null
    [ -z "$made" ] || rmdir "$made" 2>/dev/null
    [ "$status" = 0 ] || { complain "$boot cannot be written"; return 1; }
    while read -r kind _ path; do
        case $kind in file | link | block | replace) ;; *) continue ;; esac
        above=${path%/*}
        while [ ! -d "$above" ]; do above=${above%/*}; [ -n "$above" ] || above=/; done
        (: >"$above/.portctl-try") 2>/dev/null || { complain "${path%/*} cannot be written"; return 1; }
        rm -f "$above/.portctl-try"
    done <"$pending/boot/manifest"
}

arm() { # SECONDS: from here on somebody undoes it
    say $(($(hundredths) + $1 * 100)) >"$pending/deadline"
    : >"$pending/decision.pending"
}

guarded_by() { # UNIT: a timer of systemd's
    say "timer $1" >"$pending/guard"
}

watch() { # starts a process of its own session that ignores what ends sessions
    detached sh "$pending/guard.sh" guard
    tries=0
    while [ ! -s "$pending/guard" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 50 ] || { complain "the guard did not start"; return 1; }
        nap
    done
    guard_alive || { complain "the guard did not stay"; return 1; }
}

detached() { # COMMAND…: in a session of its own, with what the system has for that
    case $system in
        FreeBSD) command -v daemon >/dev/null && { daemon -f "$@"; return; } ;;
        Linux) ;;
        *)
            perl -MPOSIX -e 1 2>/dev/null && {
                perl -MPOSIX -e 'exit if fork; POSIX::setsid(); exec @ARGV' "$@" </dev/null >/dev/null 2>&1
                return
            }
            ;;
    esac
    setsid=$(command -v setsid)
    $setsid "$@" </dev/null >/dev/null 2>&1 &
}

guard() { # until the deadline
    trap '' HUP INT TERM
    unset PORTCTL_TESTING
    cd / || :
    lock=$(cat "$pending/lock")
    say "process $$ $(start_of $$)" >"$pending/.guard" && mv "$pending/.guard" "$pending/guard"
    end=$(cat "$pending/deadline")
    decided=0
    while left=$((end - $(hundredths))) && [ "$left" -gt 0 ] && [ "$decided" -lt 3 ]; do
        if [ "$left" -gt 200 ]; then sleep 1; else nap; fi
        [ "$(cat "$pending/lock" 2>/dev/null)" = "$lock" ] || return 0
        # Somebody has decided and should have finished: if not within three seconds, that falls to the guard.
        [ -e "$pending/decision.pending" ] || decided=$((decided + 1))
    done
    expire "$lock"
}

expire() { # LOCK: the time is over. Another transaction than the one that was guarded is none of its business
    [ "$(cat "$pending/lock" 2>/dev/null)" = "$1" ] || return 0
    in_guard=yes
    if decide undone "not confirmed in time"; then
        undo
    elif [ -e "$pending/decision.confirmed" ]; then
        finish
    elif [ -e "$pending/decision.undone" ]; then
        undo
    fi
}

settle_forgotten() {
    complain "an earlier apply was left behind by its guard; it is brought to its end first"
    expire "$(cat "$pending/lock")"
}

decide() { # confirmed|undone WHY: 0 for exactly one caller
    mv "$pending/decision.pending" "$pending/decision.$1" 2>/dev/null || return 1
    say "$2" >"$pending/why"
}

load() { # loads the new bundles; stops between two where the guard has decided already, and undoes again what it loaded
    say "$$ $(start_of $$)" >"$pending/loading"
    status=0
    for part in $(parts); do
        [ -e "$pending/decision.pending" ] || { complain "the guard was faster"; status=1; break; }
        sh "$pending/new/$part/load.sh" || { complain "$part could not be loaded"; status=1; break; }
        stop_at "loaded-$part"
    done
    sockets >"$pending/sockets"
    if [ "$system" = Linux ]; then cut -d' ' -f1 /proc/uptime; else uptime; fi >"$pending/loaded"
    rm -f "$pending/loading"
    return "$status"
}

sockets() { # every connection there is, also half-open ones (state 03): a confirmation must come over none of them
    if [ "$system" != Linux ]; then
        printf '\001netstat\n'
        netstat -an
        return
    fi
    printf '\001order\n'
    printf '\001\000\000\000' | od -An -tu4
    for table in tcp tcp6; do
        printf '\001%s\n' "$table"
        sed 's/^\( *[0-9]*: [0-9A-F]*:[0-9A-F]* [0-9A-F]*:[0-9A-F]*\) 03 /\1 01 /' "/proc/net/$table" 2>/dev/null
    done
}

loader_ended() { # waits for a load that is under way, half a minute at most
    left=150
    while [ "$left" -gt 0 ] && read -r pid start 2>/dev/null <"$pending/loading" && same_process "$pid" "$start"; do
        left=$((left - 1))
        nap
    done
}

my_turn() { # waits for whoever else is bringing this transaction to its end; 1: it has come to its end
    mine=$(cat "$pending/lock" 2>/dev/null)
    while read -r pid start 2>/dev/null <"$pending/settling" && [ "$pid" != $$ ] && same_process "$pid" "$start"; do
        nap
    done
    [ -n "$mine" ] && [ "$(cat "$pending/lock" 2>/dev/null)" = "$mine" ] || return 1
    say "$$ $(start_of $$)" >"$pending/settling"
}

undo() { # the old state, the last part first; then the record, the lock
    my_turn || return 0
    loader_ended
    trouble=
    [ ! -e "$pending/opened" ] || rm -rf "$run/open" # ends the sweep of connections that only these rules let through
    for part in $(backwards); do
        [ ! -e "$pending/old/$part/load.sh" ] || sh "$pending/old/$part/load.sh" ||
            trouble="$trouble $part"
        stop_at "undone-$part"
    done
    if [ -n "$trouble" ]; then
        outcome "rollback failed:$trouble"
        complain "could not bring back:$trouble"
    else
        outcome "rolled back"
    fi
    close
    [ -z "$trouble" ]
}

outcome() { # WORDS: written whole
    at=$history/$(cat "$pending/number" 2>/dev/null)
    [ -d "$at" ] || return 0
    [ ! -e "$pending/why" ] || cp "$pending/why" "$at/why"
    date -u +%Y-%m-%dT%H:%M:%SZ >"$at/.ended" && mv "$at/.ended" "$at/ended"
    say "$1" >"$at/.outcome" && mv "$at/.outcome" "$at/outcome"
}

place() { # MODE FROM TO
    mkdir -p "${3%/*}" && cp "$2" "$3.portctl-new" && chmod "$1" "$3.portctl-new" && mv -f "$3.portctl-new" "$3"
}

persist() { # boot/manifest: "bundle NUMBER", "previous NUMBER", "file MODE PATH", "link TARGET PATH", "remove - PATH",
    # "block - PATH" (marked lines in a file of others), "replace MODE PATH" (a file of others, which is kept),
    # "restore - PATH", "check - SCRIPT" (says what is wrong, if anything).
    # Every line may be done twice, by two at once, or by the second after the first died.
    status=0
    nth=0
    while read -r kind a path; do
        nth=$((nth + 1))
        case $kind in
            bundle)
                [ -d "$boot/$a" ] || {
                    mkdir -p "$boot" && rm -rf "$boot/.$a.$$" && cp -R "$pending/boot/bundle" "$boot/.$a.$$" &&
                        mv "$boot/.$a.$$" "$boot/$a"
                } || status=1
                pointer "$a" "$boot/current" || status=1
                keep=$a
                ;;
            previous)
                if [ -d "$boot/$a" ]; then pointer "$a" "$boot/previous" || status=1; else rm -f "$boot/previous"; fi
                for each in "$boot"/[0-9]*; do
                    case ${each##*/} in "$a" | "${keep-}") ;; *) rm -rf "$each" ;; esac
                done
                ;;
            file) place "$a" "$pending/boot/files/$nth" "$path" || status=1 ;;
            link) mkdir -p "${path%/*}" && pointer "$a" "$path" || status=1 ;;
            remove) rm -rf "$path" || status=1 ;;
            block) block "$pending/boot/files/$nth" "$path" || status=1 ;;
            replace) keep "$path" && place "$a" "$pending/boot/files/$nth" "$path" || status=1 ;;
            restore) restore "$path" || status=1 ;;
            check) sh "$path" >&2 || status=1 ;;
        esac
        stop_at "persisted-$nth"
    done <"$pending/boot/manifest"
    return "$status"
}

block() { # TEXT PATH: the marked lines of portctl's in a file of others; without a text there are none. The rest stays
    [ -e "$2" ] || [ -s "$1" ] || return 0
    mkdir -p "${2%/*}" || return 1
    if [ -e "$2" ]; then cp -p "$2" "$2.portctl-new"; else (umask 022 && : >"$2.portctl-new"); fi || return 1
    others "$2" >"$2.portctl-new" || {
        complain "the marked lines in $2 have no beginning or no end"
        rm -f "$2.portctl-new"
        return 1
    }
    if [ -s "$1" ]; then
        {
            say '# portctl: begin'
            cat "$1"
            say '# portctl: end'
        } >>"$2.portctl-new" || return 1
    fi
    if [ -s "$2.portctl-new" ]; then mv -f "$2.portctl-new" "$2"; else rm -f "$2.portctl-new" "$2"; fi
}

others() { # PATH: the lines of a file but those that portctl marked
    [ -e "$1" ] || return 0
    awk '{ line[NR] = $0 }
        /^# portctl: begin$/ { begin = NR }
        /^# portctl: end$/ { end = NR }
        END {
            if ((begin || end) && begin >= end) exit 1
            for (k = 1; k <= NR; k++) if (!end || k < begin || k > end) print line[k]
        }' "$1"
}

keep() { # PATH: a file of others as it was before portctl first wrote it
    [ ! -e "$state/kept$1" ] && [ ! -e "$state/kept$1.none" ] || return 0
    above=$state/kept$1
    mkdir -p "${above%/*}" || return 1
    if [ -e "$1" ]; then cp -p "$1" "$above.new" && mv "$above.new" "$above"; else : >"$above.none"; fi
}

restore() { # PATH
    if [ -e "$state/kept$1" ]; then
        cp -p "$state/kept$1" "$1.portctl-new" && mv -f "$1.portctl-new" "$1" && rm -f "$state/kept$1"
    elif [ -e "$state/kept$1.none" ]; then
        rm -f "$1" "$state/kept$1.none"
    fi
}

pointer() { # TARGET PATH: a symbolic link, replaced in one step
    [ "$(readlink "$2" 2>/dev/null)" = "$1" ] && return 0
    rm -f "$2.portctl-new" && ln -s "$1" "$2.portctl-new" && replace "$2.portctl-new" "$2"
}

finish() { # after the confirmation: written for the next boot, recorded, unlocked. Whoever is alive does it
    my_turn || return 0
    if persist; then
        outcome confirmed
    else
        outcome "confirmed, but not written for the next boot"
    fi
    stop_at recorded
    n=$(cat "$pending/number")
    if [ -d "$history/$n" ]; then pointer "history/$n/after" "$state/current"; fi
    close
    thin "$n"
}

thin() { # NUMBER: takes the rules out of the oldest records, while all of them take more room than they may. The last ten,
    # the one in force, every description and the settings stay.
    most=262144 # KiB
    [ "${PORTCTL_TESTING-}" != 1 ] || most=${PORTCTL_HISTORY_KIB:-$most}
    each=0
    while [ "$each" -lt "$(($1 - 10))" ]; do
        # shellcheck disable=SC2046 # "SIZE PATH"
        set -- "$1" $(du -sk "$history" 2>/dev/null)
        [ "${2:-0}" -gt "$most" ] || return 0
        while each=$((each + 1)) && [ "$each" -le "$(($1 - 10))" ]; do
            record=$history/$each
            if [ ! -d "$record/after" ] || [ -e "$record/thinned" ]; then continue; fi
            [ "$(readlink "${history%/*}/current")" != "history/$each/after" ] || continue
            : >"$record/thinned" || return 0
            rm -rf "${record:?}/boot"
            for folder in before after; do
                for part in "$record/$folder"/*; do
                    case ${part##*/} in sysctl | sysctl-returned | exclusive) ;; *) rm -rf "$part" ;; esac
                done
            done
            break
        done
    done
}

remains() { # what of portctl's own lies on this host's disk
    for each in /etc/portctl /etc/sysctl.d/60-portctl.conf /etc/systemd/system/portctl-boot.service \
        /etc/systemd/system/sysinit.target.wants/portctl-boot.service /etc/init.d/portctl-boot \
        /etc/runlevels/boot/portctl-boot /Library/LaunchDaemons/org.portctl.boot.plist "$run/open"; do
        if [ -e "$each" ] || [ -L "$each" ]; then say "$each"; fi
    done
    [ -z "$(ls -A "$state" 2>/dev/null)" ] || say "$state"
}

forget() { # LOCK: once nothing of portctl's is in force: what it has written here goes, and the lock itself
    if [ "$(highest)" != "$1" ] || [ -e "$pending" ]; then
        complain "somebody else is at work"
        return 1
    fi
    if [ -d /run/systemd/system ]; then # else the unit would be listed as active, and not found, until the next boot
        systemctl stop -q portctl-boot.service 2>/dev/null
        systemctl reset-failed -q portctl-boot.service 2>/dev/null
    fi
    remains | while read -r each; do
        # a person may keep policies in /etc/portctl: only what is portctl's goes from there
        if [ "$each" = /etc/portctl ]; then rm -rf "$boot"; else rm -rf "$each" 2>/dev/null; fi
    done
    for each in /etc/portctl /etc/systemd/system/sysinit.target.wants "$state"; do rmdir "$each" 2>/dev/null; done
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
    left=$(remains)
    case $left in '' | /etc/portctl) ;; *) complain "could not be removed: $left"; return 1 ;; esac
    rm -rf "$run" 2>/dev/null || [ -z "$(ls -A "$run")" ] # in a container it may be a mount, and stays as it is
}

close() { # disarms the guard, lets the lock go, and takes the transaction away
    lock=$(cat "$pending/lock")
    if read -r kind a b 2>/dev/null <"$pending/guard"; then
        case $kind in
            process) [ "$a" = $$ ] || { same_process "$a" "$b" && { kill -9 "-$a" || kill -9 "$a"; } 2>/dev/null; } ;;
            timer) [ -n "${in_guard-}" ] || systemctl stop -q "$a.timer" 2>/dev/null ;;
        esac
    fi
    away=$run/.done.$$
    rm -rf "$away"
    mv "$pending" "$away" 2>/dev/null && rm -rf "$away"
    release "$lock"
}

abandon() { # LOCK: ends a transaction before its guard was armed; its record, if it has one, says so
    if [ "$(cat "$pending/lock" 2>/dev/null)" = "$1" ]; then
        outcome "given up before anything was changed"
        close
    fi
    release "$1"
}

wait_for() { # NUMBER SECONDS: until the record says how it ended; prints that. 1: not within this time
    until_then=$(($(uptime) + $2))
    while :; do
        read -r ended 2>/dev/null <"$history/$1/outcome" && [ "$ended" != pending ] && { say "$ended"; return 0; }
        [ "$(uptime)" -lt "$until_then" ] || return 1
        nap
    done
}

state() { # of the transaction, for people: "pending NUMBER SECONDS-LEFT HOLDER", or nothing
    [ -e "$pending/decision.pending" ] || return 0
    top=$(highest)
    holder=$(readlink "$run/lock.$top" 2>/dev/null)
    say "pending $(cat "$pending/number" 2>/dev/null || say 0) $((($(cat "$pending/deadline") - $(hundredths)) / 100)) ${holder#*:*:*:}"
}

tables() { # how many sources the table of each limit holds: "NAME NUMBER"
    for file in /proc/net/ipt_hashlimit/portctl-* /proc/net/ip6t_hashlimit/portctl-*; do
        [ ! -e "$file" ] || say "${file##*/} $(grep -c . "$file")"
    done
    nft -t list table inet portctl 2>/dev/null | awk '$1 == "set" { name = $2 } /flags.*dynamic/ { print name }' |
        while read -r name; do
            commas=$(nft list set inet portctl "$name" | sed -n '/elements = {/,$p' | tr -cd ',' | wc -c)
            say "$name $((commas + 1))"
        done
}

dump() { # FOLDER…: every file below, each after a line that begins with the character 1 and its path; read by portctl
    for folder in "$@"; do
        there=$(real "$folder")
        [ -e "$there" ] || continue
        find -L "$there" -type f 2>/dev/null | sort | while read -r file; do
            printf '\001%s\n' "$folder${file#"$there"}"
            cat "$file"
        done
    done
}

look() { # the old state, saved into a folder that is no transaction: for a plan that is only shown
    save
    dump "$pending/old"
}

verb=$1
shift
if [ "$verb" = in ]; then # FOLDER VERB …
    pending=$1
    verb=$2
    shift 2
fi
case $verb in
    take | mine | release | begin | check | save | number | record | try_persist | arm | guarded_by | watch | guard | expire | \
        decide | load | undo | outcome | finish | close | abandon | wait_for | state | dump | look | tables | remains | forget) "$verb" "$@" ;;
    *) complain "guard.sh: no such verb: $verb"; exit 64 ;;
esac
exit $?
