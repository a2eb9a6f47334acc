#!/bin/sh
# save.sh DIR: writes into DIR a bundle that brings back what portctl has loaded now: `sh DIR/load.sh`. Run-time
# contents (live groups, broadcast addresses, connections) are not part of it.
set -u
PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL

case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
[ $# -eq 1 ] || {
    echo "usage: $0 DIR" >&2
    exit 2
}
mkdir -p "$1" || exit 1
rm -f "$1"/*.table
target=$1/rules
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

if sysctl -n net.inet.ip.fw.one_pass >/dev/null 2>&1; then
    ipfw -S list >"$scratch/list" || {
        echo "ipfw cannot list what is loaded" >&2
        exit 1
    }
else
    : >"$scratch/list"
fi
awk '$2 == "set" && $3 == 20' "$scratch/list" >"$scratch/rules"
if [ -s "$scratch/rules" ]; then
    ipfw table all info >"$scratch/info" || exit 1
    ipfw table all list >"$scratch/tables" || exit 1
    ipfw nat show config >"$scratch/nat" 2>/dev/null
    # Only tables and instances that the rules name.
    {
        echo '# Rules of portctl. Saved.'
        awk -v "target=$1" '
            FILENAME ~ /\/rules$/ {
                text = $0
                if (at = index(text, " // ")) text = substr(text, 1, at - 1)
                named = named " " text " "
                if ($4 == "nat") instance[$5] = 1
                next
            }
            FILENAME ~ /\/info$/ {
                if (/^--- table\(/) { name = $2; sub(/^table\(/, "", name); sub(/\),$/, "", name) }
                if (/ type: /) for (k = 1; k < NF; k++) if ($k == "type:") { kind = $(k + 1) }
                if (/ valtype: /) for (k = 1; k < NF; k++) if ($k == "valtype:") value = $(k + 1)
                if (!/ items: /) next
                for (k = 1; k < NF; k++) if ($k == "items:") items = $(k + 1) + 0
                if (!index(named, "table(" name ")") && !index(named, " " name " ")) next
                if (name !~ /^portctl[01]_/) { print "table " name " create type " kind " missing"; next }
                print "table " name " create type " kind (value == "legacy" ? "" : " valtype " value)
                plain[name] = value == "legacy"
                file[name] = ""
                if (!plain[name] || items <= 10000) next
                print "#file " name
                long = 1
                file[name] = target "/" substr(name, 10) ".table"
                printf "" >file[name]
                next
            }
            FILENAME ~ /\/tables$/ {
                if (/^--- table\(/) {
                    if (file[name] != "") close(file[name])
                    name = $2; sub(/^table\(/, "", name); sub(/\),$/, "", name); next
                }
                if (!(name in file)) next
                if (file[name] != "") print $1 >file[name]
                else print "table " name " add " $1 (plain[name] ? "" : " " $2)
                next
            }
            $1 == "ipfw" && $2 == "nat" && ($3 in instance) { sub(/^ipfw /, ""); print }
            END { if (long) print "add 65535 set 20 deny ip from any to any // only load.sh fills the long tables" }
        ' "$scratch/rules" "$scratch/info" "$scratch/tables" "$scratch/nat"
        sed 's/^/add /' "$scratch/rules"
    } | awk '{
        text = $0
        comment = ""
        if (at = index(text, " // ")) { comment = substr(text, at); text = substr(text, 1, at - 1) }
        gsub(/portctl1_/, "portctl0_", text)
        # The name of protocol 41 is in a file another word for `ip6`, every packet of IPv6.
        sub(/ ipv6 from /, " 41 from ", text)
        sub(/ extension header: authentication header/, " ext6hdr ah", text)
        print text comment
    }' >"$target.new" || exit 1
else
    echo '# nothing was loaded' >"$target.new"
fi
mv -f "$target.new" "$target" || exit 1
if [ "$(cd "$here" && pwd -P)" != "$(cd "$1" && pwd -P)" ]; then
    cp "$here/load.sh" "$here/save.sh" "$here/remove.sh" "$1/"
fi
