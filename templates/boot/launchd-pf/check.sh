#!/bin/sh
# check.sh: whether the next boot of this Mac would load the rules of portctl. Says what is wrong, a line each; exit
# status 0: nothing.
PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
wrong=0
say() {
    printf '%s\n' "$*"
    wrong=1
}
job=/Library/LaunchDaemons/org.portctl.boot.plist
[ -r "$job" ] || say "$job is not there"
! launchctl print-disabled system 2>/dev/null | grep -q -e '"org.portctl.boot" => true' -e '"org.portctl.boot" => disabled' ||
    say "the job org.portctl.boot is disabled"
[ -r /etc/portctl/boot/boot.sh ] || say "/etc/portctl/boot/boot.sh is not there"
pfctl -nf /etc/portctl/boot/current/boot.conf >/dev/null 2>&1 || say "pfctl does not take the rules"
exit $wrong
