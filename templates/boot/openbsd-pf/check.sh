#!/bin/sh
# check.sh: whether the next boot of this host would load the rules of portctl, as rc(8) does: /etc/pf.conf, unless pf is
# switched off. Says what is wrong, a line each; exit status 0: nothing. A syntax error leaves the rules in force that
# rc(8) itself loads first: they admit ssh alone.
PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
wrong=0
say() {
    printf '%s\n' "$*"
    wrong=1
}
set_to=$(sed -n 's/^[[:space:]]*pf=["'"'"']\{0,1\}\([A-Za-z]*\).*/\1/p' /etc/rc.conf /etc/rc.conf.local 2>/dev/null | tail -n 1)
[ "$set_to" != NO ] || say "pf=NO in rc.conf(8): the boot would load nothing"
cmp -s /etc/pf.conf /etc/portctl/boot/current/boot.conf || say "/etc/pf.conf is not what was confirmed"
pfctl -nf /etc/pf.conf >/dev/null 2>&1 || say "pfctl does not take /etc/pf.conf"
total=$(find /etc/portctl/boot/current/ -name '*.table' ! -path '*/minimal/*' -exec cat {} + 2>/dev/null | wc -l)
[ "$((total))" -le 200000 ] ||
    say "$((total)) networks in tables: pf has room for 200000 until its rules are loaded once; load them by /etc/portctl/boot/boot.sh"
exit $wrong
