#!/bin/sh
# Runs on a machine of somebody else's box, as root: a program called nginx waits where policies/web.yaml expects one,
# until the next boot. It is nc, which FreeBSD, OpenBSD and most others bring along, under another name.
set -eu

if command -v nginx >/dev/null 2>&1; then
	exit 0
fi
nc=$(command -v nc || command -v ncat) || { echo "listeners.sh: neither nginx nor nc is here: install nginx" >&2; exit 1; }
mkdir -p /usr/local/sbin
cp "$nc" /usr/local/sbin/nginx
for port in 80 443 8080; do
	nohup /usr/local/sbin/nginx -k -l "$port" </dev/null >/dev/null 2>&1 &
done
nohup /usr/local/sbin/nginx -u -k -l 443 </dev/null >/dev/null 2>&1 &
