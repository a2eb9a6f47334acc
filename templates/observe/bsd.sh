#!/bin/sh
# What a FreeBSD, OpenBSD or macOS host is, in plain sh. It changes nothing. Each part of the answer begins with the
# character 1 and its name; what cannot be told is left out.
say() { printf '\001%s\n' "$1"; }
say system; uname -s
say release; uname -r
say product; sw_vers -productVersion
say user; id -u
for tool in pfctl ipfw sockstat netstat fstat lsof sysctl sysrc daemon perl tcpdrop; do
    if command -v $tool >/dev/null; then say "tool $tool"; fi
done

# Which packet filters judge packets now: "NAME on", "NAME off"; "NAME unknown" where only root may know.
say filters
if [ -c /dev/pf ]; then
    info=$(pfctl -s info)
    case $info in
        *'Status: Enabled'*) echo pf on ;;
        *'Status: Disabled'*) echo pf off ;;
        *) echo pf unknown ;;
    esac
fi
for name in net.inet.ip.fw.enable net.inet6.ip6.fw.enable; do
    case $(sysctl -n $name) in
        0) echo ipfw off ;;
        '') ;;
        *) echo ipfw on ;;
    esac
done
say dynamic; sysctl -n net.inet.ip.fw.dyn_count

# The settings of rc.conf(5) in their order: the last assignment of a name holds.
say boot
for file in /etc/defaults/rc.conf /etc/rc.conf /etc/rc.conf.local /etc/rc.conf.d/pf /etc/rc.conf.d/ipfw \
    /etc/rc.conf.d/pf/* /etc/rc.conf.d/ipfw/*; do
    [ ! -f "$file" ] || grep -E '^[[:space:]]*(pf|firewall|pf_enable|firewall_enable)=' "$file"
done
say securelevel; sysctl -n kern.securelevel
say forwarding; sysctl -n net.inet.ip.forwarding; sysctl -n net.inet6.ip6.forwarding
say slowhz; sysctl -n net.inet.tcp.slowhz
say modules
for name in pf ipfw ipfw_nat; do
    if kldstat -qm $name || kldstat -q -n $name; then echo $name; fi
done
say jail; sysctl -n security.jail.jailed
say hidden; [ "$(sysctl -n security.bsd.see_other_uids)" != 0 ] || echo uids
say addresses; ifconfig -a
say routes; netstat -rn
say resolvers; cat /etc/resolv.conf; scutil --dns
:
