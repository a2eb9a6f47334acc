#!/bin/sh
# check.sh: whether the next boot of this host would load the rules of portctl, asked as rc(8) itself would. Says what is
# wrong, a line each; exit status 0: nothing.
PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
boot=/etc/portctl/boot/current
wrong=0
say() {
    printf '%s\n' "$*"
    wrong=1
}
name=pf
# shellcheck source=/dev/null
. /etc/rc.subr
load_rc_config $name
[ "${pf_rules-}" = "$boot/boot.conf" ] || say "rc.d/pf would load ${pf_rules-nothing}: a later file overrides /etc/rc.conf"
checkyesno pf_enable 2>/dev/null || say "pf_enable is not YES: rc.d/pf would load nothing"
checkyesno pf_fallback_rules_enable 2>/dev/null ||
    say "pf_fallback_rules_enable is not YES: a syntax error would leave this host open"
for file in "$boot/boot.conf" "$boot/minimal.conf"; do
    pfctl -nf "$file" >/dev/null 2>&1 || say "pfctl does not take $file"
done
largest=$(find "$boot/" -name '*.table' -exec wc -l {} \; 2>/dev/null | awk '$1 > most { most = $1 } END { print most + 0 }')
most=$(cat /boot/loader.conf /boot/loader.conf.local 2>/dev/null |
    sed -n 's/^[[:space:]]*net\.pf\.request_maxcount="\{0,1\}\([0-9]*\).*/\1/p' | tail -n 1)
[ "$largest" -le "${most:-65535}" ] ||
    say "a table of $largest networks: pf takes ${most:-65535}, as long as net.pf.request_maxcount in /boot/loader.conf says no more"
total=$(find "$boot/" -name '*.table' ! -path '*/minimal/*' -exec cat {} + 2>/dev/null | wc -l)
[ "$((total))" -le 200000 ] ||
    say "$((total)) networks in tables: pf has room for 200000 until its rules are loaded once; load them by /etc/portctl/boot/boot.sh"
exit $wrong
