#!/bin/sh
# check.sh: whether the next boot of this host would load the rules of portctl, asked as rc(8) itself would. Says what is
# wrong, a line each; exit status 0: nothing.
PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
wrong=0
say() {
    printf '%s\n' "$*"
    wrong=1
}
name=ipfw
# shellcheck source=/dev/null
. /etc/rc.subr
load_rc_config $name
[ "${firewall_script-}" = /etc/portctl/boot/boot.sh ] ||
    say "rc.d/ipfw would run ${firewall_script:-nothing}: a later file overrides /etc/rc.conf"
checkyesno firewall_enable 2>/dev/null || say "firewall_enable is not YES: rc.d/ipfw would load nothing"
[ -r /etc/portctl/boot/boot.sh ] || say "/etc/portctl/boot/boot.sh is not there"
[ -r /etc/portctl/boot/current/ipfw/load.sh ] || say "/etc/portctl/boot/current/ipfw is not there"
exit $wrong
