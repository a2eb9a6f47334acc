"""pytest with portctl's plugin, as a process of its own."""

from __future__ import annotations

import sys

PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist")
PLUGIN = ("-p", "no:portctl", "-p", "portctl.pytest_plugin")
"""From the source tree, whatever version of it is installed."""
RUN = (*PYTEST, *PLUGIN, "-o", "addopts=", "-W", "ignore")
