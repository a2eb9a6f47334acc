#!/bin/sh
# check.sh: whether the next boot of this Mac would load the rules of portctl into their anchor, by portctl's own job, and
# whether the main rule set would call it. Says what is wrong, a line each; exit status 0: nothing.
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
grep -q '^[[:space:]]*anchor "\{0,1\}portctl"\{0,1\}' /etc/pf.conf 2>/dev/null ||
    say "/etc/pf.conf does not call the anchor: write into it: anchor \"portctl\""
pfctl -a portctl -nf /etc/portctl/boot/current/boot.conf >/dev/null 2>&1 || say "pfctl does not take the rules"
exit $wrong
