"""portctl's own table of services: the same on every machine, so that a policy means the same everywhere.

Names and numbers are those of IANA's registry of service names, with the protocols that the service really speaks
today (the registry gives nearly every number to both TCP and UDP), and those that administrators expect although the
registry says otherwise (`openvpn`, `wireguard`, `kubelet`). A name that means two protocols speaks both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

PORT_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
"""Protocols that have ports, by IANA name."""

PROTOCOLS = {
    "ipencap": 4,
    "igmp": 2,
    "egp": 8,
    "igp": 9,
    "ipv6-encap": 41,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "skip": 57,
    "eigrp": 88,
    "ospf": 89,
    "ipip": 94,
    "etherip": 97,
    "pim": 103,
    "ipcomp": 108,
    "vrrp": 112,
    "l2tpv3": 115,
    "isis": 124,
    "udplite": 136,
    "mpls-in-ip": 137,
    "manet": 138,
    "hip": 139,
}
"""Protocols without ports that a policy may name, by IANA name (`ospf` is its OSPFIGP)."""

GOVERNED = frozenset({1, 6, 17, 58, 132})
"""Protocols that are never named by number: they have ports, or lines of their own in the tables of the language."""

EXTENSION_HEADERS = frozenset({0, 43, 44, 59, 60, 135, 139, 140, 253, 254})
"""Numbers of IPv6 extension headers, which are no protocols (IANA's list, RFC 7045), and of "no next header"."""

WELL_KNOWN, REGISTERED, DYNAMIC = (0, 1023), (1024, 49151), (49152, 65535)
"""RFC 6335, section 6."""
LINUX_EPHEMERAL = (32768, 60999)
"""Linux's own default of `net.ipv4.ip_local_port_range`."""


@dataclass(frozen=True, slots=True)
class Service:
    """One line of the table. `first` and `last` differ where a service has a range of ports."""

    name: str
    first: int
    last: int
    protocols: tuple[str, ...]
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.name, *self.aliases

    @property
    def ports(self) -> str:
        """As a policy writes it, without protocols: `22` or `6000-6063`."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@cache
def table() -> tuple[Service, ...]:
    """All services, by port, then name."""
    return tuple(sorted(_read(_TABLE), key=lambda service: (service.first, service.last, service.name)))


@cache
def by_name() -> dict[str, Service]:
    """Every name and alias."""
    return {name: service for service in table() for name in service.names}


def find(name: str) -> Service | None:
    """The service of that name or alias."""
    return by_name().get(name)


def within(first: int, last: int) -> list[Service]:
    """The services with a port among `first` to `last`."""
    return [service for service in table() if service.first <= last and first <= service.last]


def range_name(port: int) -> str:
    """What RFC 6335 calls the part of the number space that a port is in."""
    if port <= WELL_KNOWN[1]:
        return "well-known (0-1023)"
    if port <= REGISTERED[1]:
        return "registered (1024-49151)"
    return "dynamic (49152-65535)"


def privileged(port: int) -> bool:
    """Whether opening the port takes root, as systems come (Linux: `net.ipv4.ip_unprivileged_port_start`)."""
    return port < 1024


def ephemeral(port: int) -> bool:
    """Whether Linux, as it comes, may give the port to any outgoing connection."""
    return LINUX_EPHEMERAL[0] <= port <= LINUX_EPHEMERAL[1]


def suggest(word: str) -> str | None:
    """The known name that is most like a word."""
    from difflib import get_close_matches

    found = get_close_matches(word.lower(), [*by_name(), *PROTOCOLS], n=1, cutoff=0.6)
    return found[0] if found else None


def read_services(text: str) -> dict[str, set[tuple[int, str]]]:
    """The content of an /etc/services: {name or alias: {(port, protocol)}}. Lines it cannot read are left out."""
    found: dict[str, set[tuple[int, str]]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        number, _, protocol = words[1].partition("/")
        if number.isascii() and number.isdigit() and protocol:
            for name in (words[0], *words[2:]):
                found.setdefault(name.lower(), set()).add((int(number), protocol))
    return found


def difference(service: Service, listed: dict[str, set[tuple[int, str]]]) -> str | None:
    """How an /etc/services (from `read_services`) differs from portctl's table on one service, in words."""
    there = listed.get(service.name)
    if there is None:
        other = next((alias for alias in service.aliases if alias in listed), None)
        if other is None:
            return None if not listed else "does not list it"
        there = listed[other]
    mine = {(port, protocol) for port in (service.first,) for protocol in service.protocols}
    if mine == there:
        return None
    return "says " + ", ".join(f"{port}/{protocol}" for port, protocol in sorted(there))


def _read(text: str) -> Iterator[Service]:
    for line in text.splitlines():
        name, place, *aliases = line.split()
        number, protocols = place.split("/")
        first, _, last = number.partition("-")
        yield Service(name, int(first), int(last or first), tuple(protocols.split("+")), tuple(aliases))


_TABLE = """\
tcpmux 1/tcp
echo 7/tcp+udp
discard 9/tcp+udp
wake-on-lan 9/udp wol
systat 11/tcp
daytime 13/tcp+udp
netstat 15/tcp
qotd 17/tcp+udp
chargen 19/tcp+udp
ftp-data 20/tcp
ftp 21/tcp
ssh 22/tcp sftp scp
telnet 23/tcp
lmtp 24/tcp
smtp 25/tcp
time 37/tcp+udp
whois 43/tcp nicname
tacacs 49/tcp
domain 53/tcp+udp dns
bootps 67/udp dhcp dhcp-server
bootpc 68/udp dhcp-client
tftp 69/udp
gopher 70/tcp
finger 79/tcp
http 80/tcp www
kerberos 88/tcp+udp kerberos5 krb5
iso-tsap 102/tcp s7
pop3 110/tcp pop-3
sunrpc 111/tcp+udp portmapper rpcbind
auth 113/tcp ident
nntp 119/tcp
ntp 123/udp
epmap 135/tcp msrpc loc-srv
netbios-ns 137/udp
netbios-dgm 138/udp
netbios-ssn 139/tcp
imap 143/tcp imap2
snmp 161/udp
snmp-trap 162/udp snmptrap
xdmcp 177/udp
bgp 179/tcp
smux 199/tcp
qmtp 209/tcp
z3950 210/tcp
ptp 319-320/udp
ptp-event 319/udp
ptp-general 320/udp
rpki-rtr 323/tcp
rpki-rtr-tls 324/tcp
ldap 389/tcp
svrloc 427/tcp+udp slp
http3 443/udp quic
https 443/tcp
snpp 444/tcp
microsoft-ds 445/tcp smb cifs
kpasswd 464/tcp+udp
submissions 465/tcp smtps ssmtp
saft 487/tcp
isakmp 500/udp ike
asa-appl-proto 502/tcp modbus mbap
biff 512/udp comsat
exec 512/tcp rexec
login 513/tcp rlogin
who 513/udp rwho
shell 514/tcp rsh
syslog 514/udp
printer 515/tcp lpd
talk 517/udp
ntalk 518/udp
rip 520/udp
ripng 521/udp
uucp 540/tcp
klogin 543/tcp
kshell 544/tcp
dhcpv6-client 546/udp
dhcpv6-server 547/udp dhcpv6
afpovertcp 548/tcp afp
rtsp 554/tcp+udp
nntps 563/tcp snntp
submission 587/tcp
nqs 607/tcp
asf-rmcp 623/udp ipmi rmcp
qmqp 628/tcp
ipp 631/tcp cups
ipp-discovery 631/udp
ldaps 636/tcp
ldp 646/tcp+udp
tinc 655/tcp+udp
olsr 698/udp
lldp-agent 705/tcp agentx
kerberos-adm 749/tcp kadmin
krb-prop 754/tcp
spamd 783/tcp
netconf-ssh 830/tcp netconf
domain-quic 853/udp dns-over-quic doq
domain-s 853/tcp dns-over-tls dot
twamp-control 862/tcp owamp-control
rsync 873/tcp
vmware-authd 902/tcp vmware-auth
ftps-data 989/tcp
ftps 990/tcp
telnets 992/tcp
imaps 993/tcp
ircs 994/tcp
pop3s 995/tcp
socks 1080/tcp
jmx 1099/tcp rmiregistry
openvpn 1194/udp
openvpn-tcp 1194/tcp
ms-sql-s 1433/tcp mssql
ms-sql-m 1434/udp
wins 1512/tcp
oracle 1521/tcp
groupwise 1677/tcp
l2tp 1701/udp l2f
h323 1720/tcp h323hostcall
pptp 1723/tcp
radius 1812/udp
radius-acct 1813/udp radacct
mqtt 1883/tcp
ssdp 1900/udp
rtmp 1935/tcp
hsrp 1985/udp
cisco-sccp 2000/tcp sccp
graphite 2003/tcp carbon
nfs 2049/tcp
nfs-udp 2049/udp
netflow 2055/udp
radsec 2083/tcp
gtp-c 2123/udp
gtp-u 2152/udp
zookeeper 2181/tcp
pcsd 2225/tcp
docker 2375/tcp
docker-s 2376/tcp docker-tls
docker-swarm 2377/tcp
etcd-client 2379/tcp etcd
etcd-server 2380/tcp
cvspserver 2401/tcp
zebra 2601/tcp
ripd 2602/tcp
ripngd 2603/tcp
ospfd 2604/tcp
bgpd 2605/tcp
dict 2628/tcp
gsiftp 2811/tcp
m2ua 2904/sctp
m3ua 2905/sctp
gpsd 2947/tcp
grafana 3000/tcp
firebird 3050/tcp gds-db
loki 3100/tcp
pacemaker 3121/tcp pacemaker-remote
squid 3128/tcp
icp 3130/udp icpv2
isns 3205/tcp+udp
iscsi-target 3260/tcp iscsi
globalcatldap 3268/tcp
globalcatldaps 3269/tcp
ceph-mon 3300/tcp
mysql 3306/tcp mariadb
clamd 3310/tcp
rdp 3389/tcp ms-wbt-server
rdp-udp 3389/udp
stun 3478/tcp+udp turn
nut 3493/tcp
teredo 3544/udp
distcc 3632/tcp
knxnetip 3671/udp
daap 3689/tcp
svn 3690/tcp subversion
bfd-control 3784/udp bfd
bfd-echo 3785/udp
radius-coa 3799/udp radius-dynauth
diameter 3868/tcp+sctp
sieve 4190/tcp managesieve
nats 4222/tcp
otlp-grpc 4317/tcp otlp
otlp-http 4318/tcp
lisp-data 4341/udp
lisp-control 4342/udp
f5-iquery 4353/tcp
epmd 4369/tcp
remctl 4373/tcp
ntske 4460/tcp nts-ke
ipsec-nat-t 4500/udp nat-t
salt-publish 4505/tcp
salt-request 4506/tcp
hylafax 4559/tcp
iax 4569/udp
nomad 4646/tcp
gearman 4730/tcp
ipfix 4739/tcp+udp+sctp
bfd-multi-ctl 4784/udp
vxlan 4789/udp
opc-ua 4840/tcp
radmin-port 4899/tcp radmin
munin 4949/tcp
iperf 5001/tcp+udp
logstash-beats 5044/tcp beats
sip 5060/tcp+udp
sips 5061/tcp
iperf3 5201/tcp+udp
xmpp-client 5222/tcp jabber-client
xmpps-client 5223/tcp
capwap-control 5246/udp
capwap-data 5247/udp
xmpp-server 5269/tcp jabber-server
xmpp-bosh 5280/tcp
cfengine 5308/tcp
stuns 5349/tcp+udp turns
nat-pmp 5351/udp pcp
mdns 5353/udp zeroconf avahi
llmnr 5355/tcp+udp
corosync 5405/udp
postgresql 5432/tcp postgres
icinga 5665/tcp
nrpe 5666/tcp
nsca 5667/tcp
amqps 5671/tcp
amqp 5672/tcp
coap 5683/udp
coaps 5684/udp
rfb 5900/tcp vnc-server
vnc 5900-5999/tcp
teamviewer 5938/tcp
couchdb 5984/tcp
winrm 5985/tcp wsman
winrms 5986/tcp wsmans
x11 6000-6063/tcp
geneve 6081/udp
sflow 6343/udp
gnutella-svc 6346/tcp
redis 6379/tcp
redis-s 6380/tcp rediss
pgbouncer 6432/tcp
kubernetes 6443/tcp kube-apiserver
sge-qmaster 6444/tcp
sge-execd 6445/tcp
mysql-proxy 6446/tcp
syslog-dtls 6514/udp
syslog-tls 6514/tcp
checkmk-agent 6556/tcp check-mk-agent
sane-port 6566/tcp sane saned
mpd 6600/tcp
irc 6667/tcp ircd
babel 6696/udp
ircs-u 6697/tcp irc-tls
ceph-mon-v1 6789/tcp
ceph-osd 6800-7300/tcp
bittorrent 6881-6889/tcp+udp
afs3-fileserver 7000/udp
cassandra-internode 7000/tcp
afs3-callback 7001/udp
afs3-prserver 7002/udp
afs3-vlserver 7003/udp
afs3-kaserver 7004/udp
afs3-volser 7005/udp
afs3-bos 7007/udp
font-service 7100/tcp xfs
neo4j 7687/tcp bolt
drbd 7788-7799/tcp
icecast 8000/tcp
proxmox 8006/tcp pve
ajp13 8009/tcp ajp
hadoop-namenode 8020/tcp
http-alt 8080/tcp webcache http-proxy
influxdb 8086/tcp
clickhouse-http 8123/tcp
statsd 8125/udp
puppet 8140/tcp
vault 8200/tcp
consul 8300/tcp
consul-lan 8301/tcp+udp
consul-wan 8302/tcp+udp
https-alt 8443/tcp
matrix 8448/tcp matrix-fed
vxlan-linux 8472/udp flannel
consul-http 8500/tcp
consul-dns 8600/tcp+udp
mqtts 8883/tcp secure-mqtt
milter 8891/tcp
solr 8983/tcp
clickhouse 9000/tcp
minio 9000/tcp
tor 9001/tcp tor-orport
tor-dir 9030/tcp
cassandra 9042/tcp
tor-socks 9050/tcp
cockpit 9090/tcp
prometheus 9090/tcp
pushgateway 9091/tcp
kafka 9092/tcp
alertmanager 9093/tcp
jetdirect 9100/tcp pdl-datastream
node-exporter 9100/tcp
bacula-dir 9101/tcp
bacula-fd 9102/tcp
bacula-sd 9103/tcp
mysqld-exporter 9104/tcp
postgres-exporter 9187/tcp
elasticsearch 9200/tcp opensearch
elasticsearch-transport 9300/tcp
git 9418/tcp
teamspeak 9987/udp
zerotier 9993/udp
ndmp 10000/tcp
webmin 10000/tcp
postgrey 10023/tcp
zabbix-agent 10050/tcp
zabbix-trapper 10051/tcp zabbix-server
amanda 10080/tcp+udp
kamanda 10081/tcp
amandaidx 10082/tcp
amidxtape 10083/tcp
snmpdtls 10161/udp
snmps 10161/tcp snmptls
kubelet 10250/tcp
kube-controller-manager 10257/tcp
kube-scheduler 10259/tcp
nbd 10809/tcp
memcached 11211/tcp memcache
beanstalkd 11300/tcp
rspamd 11332/tcp
hkp 11371/tcp
gelf 12201/udp
jaeger 14250/tcp
rabbitmq-management 15672/tcp
redis-cluster 16379/tcp
libvirt 16509/tcp
libvirt-tls 16514/tcp
dnp3 20000/tcp
rpc-mountd 20048/tcp mountd
syncthing-discovery 21027/udp
syncthing 22000/tcp+udp
glusterd 24007/tcp
glusterfs-management 24008/tcp
fluentd 24224/tcp+udp fluent-forward
minecraft 25565/tcp
rabbitmq-dist 25672/tcp
collectd 25826/udp
redis-sentinel 26379/tcp
steam 27015/udp
mongodb 27017/tcp mongod
mongos 27018/tcp
kube-nodeports 30000-32767/tcp+udp nodeports
csync2 30865/tcp
plex 32400/tcp
traceroute 33434-33534/udp
s1ap 36412/sctp s1-control
x2ap 36422/sctp x2-control
ngap 38412/sctp ng-control
xnap 38422/sctp xn-control
tailscale 41641/udp
ethernet-ip 44818/tcp+udp
bacnet 47808/udp
db2 50000/tcp
transmission 51413/tcp+udp
wireguard 51820/udp
stomp 61613/tcp
activemq 61616/tcp openwire
mumble 64738/tcp+udp murmur
"""
