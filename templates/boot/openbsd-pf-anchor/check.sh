#!/bin/sh
# check.sh: whether the next boot of this host would load the rules of portctl into their anchor: by /etc/pf.conf, which
# is not portctl's. Says what is wrong, a line each; exit status 0: nothing.
PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
boot=/etc/portctl/boot/current
main=/etc/pf.conf
wrong=0
say() {
    printf '%s\n' "$*"
    wrong=1
}
set_to=$(sed -n 's/^[[:space:]]*pf=["'"'"']\{0,1\}\([A-Za-z]*\).*/\1/p' /etc/rc.conf /etc/rc.conf.local 2>/dev/null | tail -n 1)
[ "$set_to" != NO ] || say "pf=NO in rc.conf(8): the boot would load nothing"
grep -q '^[[:space:]]*anchor "\{0,1\}portctl"\{0,1\}' "$main" 2>/dev/null ||
    say "$main does not call the anchor: write into it: anchor \"portctl\""
grep -q "^[[:space:]]*load anchor \"\{0,1\}portctl\"\{0,1\} from \"\{0,1\}$boot/boot.conf" "$main" 2>/dev/null ||
    say "$main does not fill the anchor: write into it: load anchor \"portctl\" from \"$boot/boot.conf\""
pfctl -a portctl -nf "$boot/boot.conf" >/dev/null 2>&1 || say "pfctl does not take $boot/boot.conf"
exit $wrong
