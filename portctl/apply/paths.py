"""Where portctl keeps things on a host: ARCHITECTURE.md, "On a host". `templates/guard/guard.sh` names the same.

On the BSDs and macOS `/run/portctl` is `/var/run/portctl` and `/var/lib/portctl` is `/var/db/portctl` (hier(7)): what
the guard script is given, and what it answers, has the names below all the same.
"""

RUN = "/run/portctl"
PENDING = f"{RUN}/pending"
STATE = "/var/lib/portctl"
HISTORY = f"{STATE}/history"
CURRENT = f"{STATE}/current"
BOOT = "/etc/portctl/boot"
