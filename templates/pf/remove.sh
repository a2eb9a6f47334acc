#!/bin/sh
# remove.sh: takes portctl's rule set and tables out of the kernel, and what is in the anchor `portctl`. In its place comes the host's own /etc/pf.conf, if
# there is one that portctl did not write; else no rules but the calls of others' anchors. Open connections stay.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL

[ -c /dev/pf ] || exit 0
if pfctl -a portctl -s rules 2>/dev/null | grep -q -e 'label "portctl:' -e 'tag portctl_'; then
    : | pfctl -a portctl -f - >/dev/null
    pfctl -a portctl -s Tables 2>/dev/null | while read -r table; do
        pfctl -a portctl -t "$table" -T kill >/dev/null 2>&1 || :
    done
fi
rules=$(pfctl -s rules 2>/dev/null)
printf '%s\n' "$rules" | grep -q -e 'label "portctl:' -e 'tag portctl_' || exit 0

others() {
    pfctl -vs Interfaces 2>/dev/null | sed -n 's/^\([^ ]*\) (skip)$/set skip on \1/p'
    # pfctl would set them to its defaults, or be refused one below what is in use
    pfctl -s memory 2>/dev/null | sed -n 's/^\([a-z-]*\)  *hard limit  *\([1-9][0-9]*\)$/set limit \1 \2/p'
    printf '%s\n' "$rules" | grep '^scrub-anchor "[^_"]' | sed 's/ fragment reassemble$//' || :
    { pfctl -s nat 2>/dev/null || :; } | grep '^[a-z]*-anchor "[^_"]' || :
    { pfctl -s dummynet 2>/dev/null || :; } | grep '^dummynet-anchor "[^_"]' || :
    printf '%s\n' "$rules" | grep '^anchor "[^_"]' | grep -v '{$' || :
}

first=
[ ! -r /etc/pf.conf ] || IFS= read -r first </etc/pf.conf || :
case $first in
'# '*': written by portctl.'*) own=yes ;;
*) own=no ;;
esac
if [ "$own" = no ] && [ -r /etc/pf.conf ] && pfctl -nf /etc/pf.conf >/dev/null 2>&1; then
    pfctl -f /etc/pf.conf >/dev/null
else
    others | pfctl -f - >/dev/null
fi
pfctl -s Tables 2>/dev/null | while read -r table; do
    case $table in
    portctl_* | portctl-live-*) pfctl -t "$table" -T kill >/dev/null 2>&1 || : ;;
    esac
done
