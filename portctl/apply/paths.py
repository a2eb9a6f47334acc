"""Where portctl keeps things on a host: ARCHITECTURE.md, "On a host". `templates/guard/guard.sh` names the same."""

RUN = "/run/portctl"
PENDING = f"{RUN}/pending"
STATE = "/var/lib/portctl"
HISTORY = f"{STATE}/history"
CURRENT = f"{STATE}/current"
BOOT = "/etc/portctl/boot"
