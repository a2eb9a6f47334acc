#!/bin/sh
# netns-clear.sh NAME: what netns.sh has made on the machine for a network namespace goes, if portctl has left nothing there.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
own=/run/portctl-netns/$1
[ -z "$(find "$own/lib" "$own/run" ! -path "$own/lib" ! -path "$own/run" 2>/dev/null)" ] || exit 0
umount "$own/etc" 2>/dev/null
rm -rf "${own:?}"
if rmdir /run/portctl-netns 2>/dev/null; then rmdir /run/portctl /var/lib/portctl 2>/dev/null; fi
exit 0
