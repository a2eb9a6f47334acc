#!/bin/sh
# save.sh DIR: writes into DIR a bundle that brings back the present values of the settings in 60-portctl.conf beside
# this script: sh DIR/load.sh is the undo.
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
[ $# -eq 1 ] || { echo "usage: save.sh DIR" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd) || exit 1
mkdir -p "$1" || exit 1
target=$(cd "$1" && pwd) || exit 1
out=$target/60-portctl.conf
case $(uname -s) in Linux) proc=yes ;; *) proc=no ;; esac

# keep PREFIX NAME: one line for the value that a setting has now; a setting that is not there has none
keep() {
    if [ $proc = yes ]; then
        file=/proc/sys/$(printf %s "$2" | tr ./ /.)
        value=$(tr -s '[:space:]' ' ' 2>/dev/null <"$file") || return 0
    else
        value=$(sysctl -n "$2" 2>/dev/null) || return 0
    fi
    value=${value# }
    printf '%s%s = %s\n' "$1" "$2" "${value% }"
}

# keep_each FAMILY: forwarding of every interface, which the setting for all of them overwrites; interfaces come and go
keep_each() {
    for each in "/proc/sys/net/$1/conf"/*; do
        name=${each##*/}
        case $name in all | default | *[!A-Za-z0-9_.@:+-]*) continue ;; esac
        keep - "net.$1.conf.$(printf %s "$name" | tr . /).forwarding"
    done
}

{
    echo "# The values from before, saved by portctl."
    sed -n 's/^[[:space:]]*-\{0,1\}\([A-Za-z0-9_][A-Za-z0-9_./@:+-]*\)[[:space:]]*=.*/\1/p' "$here/60-portctl.conf" |
        while read -r name; do
            keep '' "$name"
            case $name in
                # Linux also turns this one when it turns forwarding (Documentation/networking/ip-sysctl.rst, ip_forward)
                net.ipv4.ip_forward | net.ipv4.conf.all.forwarding)
                    keep '' net.ipv4.conf.all.accept_redirects
                    keep - net.ipv4.conf.default.forwarding
                    keep_each ipv4
                    ;;
                net.ipv6.conf.all.forwarding)
                    keep - net.ipv6.conf.default.forwarding
                    keep_each ipv6
                    ;;
            esac
        done
} >"$out.new" && mv "$out.new" "$out" || exit 1
for script in load.sh save.sh remove.sh; do
    [ "$here" = "$target" ] || cp "$here/$script" "$target/$script" || exit 1
done
