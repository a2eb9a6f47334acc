"""The words that pfctl prints for numbers: protocols, ICMP types and codes, ports.

Sources: pf.conf(5), icmp(4) and icmp6(4) of OpenBSD and FreeBSD, /etc/protocols, and the listings of our own captures.
"""

from __future__ import annotations

from portctl.services import LISTED_PROTOCOLS
from portctl.services import PROTOCOLS as IANA

PROTOCOLS = {**LISTED_PROTOCOLS, **IANA}
TYPES = {
    **{"echorep": 0, "unreach": 3, "squench": 4, "redir": 5, "althost": 6, "echoreq": 8, "routeradv": 9},
    **{"routersol": 10, "timex": 11, "paramprob": 12, "timereq": 13, "timerep": 14, "inforeq": 15, "inforep": 16},
    **{"maskreq": 17, "maskrep": 18, "trace": 30, "dataconv": 31, "mobredir": 32, "ipv6-where": 33, "ipv6-here": 34},
    **{"mobregreq": 35, "mobregrep": 36, "skip": 39, "photuris": 40},
}
TYPES6 = {
    **{"unreach": 1, "toobig": 2, "timex": 3, "paramprob": 4, "echoreq": 128, "echorep": 129, "groupqry": 130},
    **{"listqry": 130, "grouprep": 131, "listenrep": 131, "groupterm": 132, "listendone": 132, "routersol": 133},
    **{"routeradv": 134, "neighbrsol": 135, "neighbradv": 136, "redir": 137, "routrrenum": 138, "fqdnreq": 139},
    **{"niqry": 139, "wrureq": 139, "fqdnrep": 140, "nirep": 140, "wrurep": 140, "listenrepv2": 143},
    **{"mtraceresp": 200, "mtrace": 201},
}
CODES = {
    **{"net-unr": 0, "host-unr": 1, "proto-unr": 2, "port-unr": 3, "needfrag": 4, "srcfail": 5, "net-unk": 6},
    **{"host-unk": 7, "isolate": 8, "net-prohib": 9, "host-prohib": 10, "net-tos": 11, "host-tos": 12},
    **{"filter-prohib": 13, "host-preced": 14, "cutoff-preced": 15, "redir-net": 0, "redir-host": 1},
    **{"redir-tos-net": 2, "redir-tos-host": 3, "normal-adv": 0, "common-adv": 16, "transit": 0, "reassemb": 1},
    **{"badhead": 0, "optmiss": 1, "badlen": 2, "unknown-ind": 1, "auth-fail": 2, "decrypt-fail": 3},
}
CODES6 = {
    **{"noroute-unr": 0, "admin-unr": 1, "notnbr-unr": 2, "beyond-unr": 2, "addr-unr": 3, "port-unr": 4},
    **{"transit": 0, "reassemb": 1, "badhead": 0, "nxthdr": 1, "redironlink": 0, "redirrouter": 1},
}
FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32, "E": 64, "W": 128}
_PORTS = {
    **{"tcpmux": 1, "rje": 5, "echo": 7, "discard": 9, "daytime": 13, "chargen": 19, "ftp-data": 20},
    **{"ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "nsw-fe": 27, "msg-icp": 29, "msg-auth": 31, "dsp": 33},
    **{"time": 37, "whois": 43, "tacacs": 49, "domain": 53, "xns-ch": 54, "isi-gl": 55, "xns-auth": 56, "bootps": 67},
    **{"bootpc": 68, "tftp": 69, "gopher": 70, "finger": 79, "http": 80, "kerberos": 88, "kerberos-sec": 88},
    **{"pop3": 110, "sunrpc": 111, "auth": 113, "ident": 113, "nntp": 119, "ntp": 123, "epmap": 135},
    **{"netbios-ns": 137, "netbios-dgm": 138, "netbios-ssn": 139, "imap": 143, "snmp": 161, "snmptrap": 162},
    **{"bgp": 179, "irc": 194, "ldap": 389, "https": 443, "microsoft-ds": 445, "kpasswd": 464, "submissions": 465},
    **{"smtps": 465, "isakmp": 500, "syslog": 514, "shell": 514, "printer": 515, "router": 520, "dhcpv6-client": 546},
    **{"dhcpv6-server": 547, "rtsp": 554, "submission": 587, "msa": 587, "ipp": 631, "ldaps": 636, "domain-s": 853},
    **{"rsync": 873, "ftps": 990, "imaps": 993, "pop3s": 995, "cadlock2": 1000, "socks": 1080, "openvpn": 1194},
    **{"ms-sql-s": 1433, "l2tp": 1701, "radius": 1812, "nfsd": 2049, "mysql": 3306, "diameter": 3868, "sip": 5060},
    **{"commplex-main": 5000, "postgresql": 5432, "x11": 6000, "afs3-fileserver": 7000, "http-alt": 8080},
    **{"sunwebadmin": 8800, "callbook": 2000, "ipsec-nat-t": 4500, "sae-urn": 4500, "mdns": 5353},
}
PORTS = {name: frozenset({number}) for name, number in _PORTS.items()}
"""Names of FreeBSD's services database that are often met. A host's own database goes before them."""


def users(text: str) -> dict[str, str]:
    """{number: name} of passwd(5); of several names the first, as getpwuid(3) has it."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split(":")
        if len(words) > 2 and words[2].isdigit():
            found.setdefault(words[2], words[0])
    return found


def services(text: str) -> dict[str, frozenset[int]]:
    """The names of a services database, /etc/services, each with all numbers that bear it (compressnet: 2 and 3)."""
    found: dict[str, set[int]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        number = words[1].partition("/")[0] if len(words) > 1 else ""
        if number.isdigit():
            found.setdefault(words[0], set()).add(int(number))
    return {name: frozenset(numbers) for name, numbers in found.items()}
