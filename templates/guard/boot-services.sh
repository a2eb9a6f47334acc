# Which services of others load or flush rules at boot, a line each: "NAME EVIDENCE FLAG…", nothing for those that are
# off. Functions for the scripts that ask a host; `others` prints. The flags:
#
#   flushes    it empties everything that nft holds             denies    something in its files drops or rejects
#   iptables   it empties or replaces all that iptables holds   by-hand   an administrator's own script
if [ -d /run/systemd/system ]; then init=systemd
elif [ -e /run/openrc/softlevel ]; then init=openrc
elif [ -e /etc/inittab ]; then init=sysv
else init=other; fi

there() { # PATH…: the first that exists
    for each in "$@"; do
        if [ -e "$each" ]; then
            printf '%s\n' "$each"
            return 0
        fi
    done
    return 1
}

by_systemd() { # NAME: the link by which systemd starts it. A link to nothing starts nothing
    for dir in /etc /run; do
        [ "$(readlink "$dir/systemd/system/$1.service")" != /dev/null ] || return 1
    done
    there /etc/systemd/system/*.wants/"$1.service" /etc/systemd/system/*.requires/"$1.service" \
        /usr/lib/systemd/system/*.wants/"$1.service" /lib/systemd/system/*.wants/"$1.service"
}

by_sysv() { # NAME PROGRAM: the link of init.d, where the package was not removed from under it
    command -v "$2" >/dev/null || return 1
    # systemd takes a script of init.d only where there is no unit of the same name: systemd-sysv-generator(8)
    if [ $init = systemd ] && there /etc/systemd/system/"$1.service" /usr/lib/systemd/system/"$1.service" \
        /lib/systemd/system/"$1.service" >/dev/null; then
        return 1
    fi
    there /etc/rc[S2-5].d/S[0-9][0-9]"$1" /etc/rc.d/rc[2-5].d/S[0-9][0-9]"$1"
}

enabled() { # NAME PROGRAM: what starts it at boot
    case $init in
        systemd) by_systemd "$1" || by_sysv "$1" "$2" ;;
        openrc) there /etc/runlevels/sysinit/"$1" /etc/runlevels/boot/"$1" /etc/runlevels/default/"$1" ;;
        sysv) by_sysv "$1" "$2" ;;
        *) by_systemd "$1" || by_sysv "$1" "$2" || there /etc/runlevels/[!sn]*/"$1" /etc/runlevels/sysinit/"$1" ;;
    esac
}

says() { # FILE NAME VALUE: the last assignment of a variable in a file that a shell reads; no file says nothing
    [ -e "$1" ] && sed -n "s/^[[:space:]]*$2=[\"']\{0,1\}\([^\"' #]*\).*/\1/p" "$1" | tail -n 1 | grep -qix "$3"
}

words() { # FILE…: without comments
    sed -e 's/^[[:space:]]*#.*//' -e 's/[[:space:]]#.*//' "$@"
}

saved() { # FILE…, as iptables-save writes them: the flags; portctl's own chains deny nothing that others do
    found=
    for file in "$@"; do
        [ -s "$file" ] || continue
        found="$file iptables"
        if words "$file" | grep -v '^-A PORTCTL-' | grep -qE '^:[A-Z]+ DROP|[[:space:]]-j (DROP|REJECT)'; then
            found="$file iptables denies"
            break
        fi
    done
    [ -z "$found" ] || printf ' %s' "$found"
}

lists() { # FILE: the flags of a file for nft
    [ -r "$1" ] || return 0
    if words "$1" | grep -q 'flush ruleset'; then printf ' flushes'; fi
    if words "$1" | grep -qwE 'drop|reject'; then printf ' denies'; fi
}

script() { # FILE, a script or interfaces(5): the flags of what it runs
    words "$1" | grep -wE 'nft|iptables|ip6tables' | while read -r line; do
        given=$(printf '%s\n' "$line" | sed -En 's/.*(restore|-f|--file)[^/]*(\/[^ ;|&]*).*/\2/p')
        case $line in
            *nft*flush\ ruleset*) printf ' flushes' ;;
            *nft\ -f* | *nft\ --file*) lists "$given" ;;
            *nft*\ drop* | *nft*\ reject*) printf ' denies' ;;
            *tables-restore*\ -n* | *tables-restore*\ --noflush*) saved "$given" | sed 's/^ [^ ]* iptables//' ;;
            *tables-restore*)
                printf ' iptables'
                saved "$given" | sed 's/^ [^ ]* iptables//'
                ;;
            *tables*\ -F* | *tables*\ --flush*) printf ' iptables' ;;
            *tables*\ -P\ *DROP* | *tables*-j\ DROP* | *tables*-j\ REJECT*) printf ' denies' ;;
        esac
    done
}

one() { # NAME PROGRAM [FLAG…]: a line, if it is on
    if link=$(enabled "$1" "$2"); then
        service=$1
        shift 2
        echo "$service $link${*:+ $*}"
    fi
}

others() {
    one nftables nft flushes
    set -- /etc/iptables/rules.v4 /etc/iptables/rules.v6
    if says /etc/default/netfilter-persistent IPTABLES_RESTORE_NOFLUSH yes; then
        flags=$(saved "$@" | sed 's/ iptables//')
    else
        flags=$(saved "$@")
    fi
    [ -z "$flags" ] || one netfilter-persistent netfilter-persistent "${flags# }"
    flags=$(saved /etc/sysconfig/iptables /etc/iptables/rules-save /var/lib/iptables/rules-save /etc/iptables/iptables.rules)
    [ -z "$flags" ] || one iptables iptables "${flags# }"
    flags=$(saved /etc/sysconfig/ip6tables /etc/iptables/rules6-save /var/lib/ip6tables/rules-save /etc/iptables/ip6tables.rules)
    [ -z "$flags" ] || one ip6tables ip6tables "${flags# }"
    if says /etc/ufw/ufw.conf ENABLED yes; then
        if says /etc/default/ufw MANAGE_BUILTINS yes; then one ufw ufw iptables denies; else one ufw ufw denies; fi
    fi
    one firewalld firewalld iptables denies
    one foomuuri foomuuri denies
    for name in shorewall shorewall6 shorewall-lite shorewall6-lite; do
        says /etc/$name/$name.conf STARTUP_ENABLED no || one $name $name iptables denies
    done
    if [ ! -e /etc/init.d/ferm ] || says /etc/default/ferm ENABLED yes; then one ferm ferm iptables denies; fi
    says /etc/default/firehol START_FIREHOL no || one firehol firehol iptables denies
    one arno-iptables-firewall arno-iptables-firewall iptables denies
    if says /etc/default/apf-firewall RUN yes; then one apf-firewall apf iptables denies; fi
    one apf apf iptables denies
    [ -e /etc/csf/csf.disable ] || one csf csf iptables denies
    scripts
}

scripts() { # what administrators write rules into by hand
    hooks=
    [ $init = openrc ] || hooks="/etc/rc.local /etc/rc.d/rc.local"
    if [ $init = openrc ] && there /etc/runlevels/*/local >/dev/null; then hooks=$(echo /etc/local.d/*.start); fi
    if command -v ifup >/dev/null; then
        for file in /etc/network/interfaces /etc/network/interfaces.d/*; do
            [ -f "$file" ] || continue
            flags=$(script "$file")
            [ -z "$flags" ] || echo "${file##*/} $file by-hand$flags"
        done
        hooks="$hooks $(echo /etc/network/if-pre-up.d/* /etc/network/if-up.d/*)"
    fi
    for file in $hooks /etc/NetworkManager/dispatcher.d/* /etc/networkd-dispatcher/routable.d/*; do
        if [ ! -f "$file" ] || [ ! -x "$file" ]; then continue; fi
        flags=$(script "$file")
        [ -z "$flags" ] || echo "${file##*/} $file by-hand$flags"
    done
}
