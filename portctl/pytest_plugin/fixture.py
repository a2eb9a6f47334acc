"""The fixture `portctl_host`. Little is imported before it is used: pytest loads this wherever portctl is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from portctl.pytest_plugin.asking import PortctlHost


@pytest.fixture(scope="module")
def portctl_host(host: Any, request: pytest.FixtureRequest) -> PortctlHost:
    """The machine under test, as portctl sees it: facts, listeners, who is admitted, the findings for a policy, and
    probes for real. docs/pytest.md says more."""
    from portctl.pytest_plugin.asking import PortctlHost
    from portctl.pytest_plugin.items import include_root
    from portctl.pytest_plugin.through import connections

    return PortctlHost(connections([host])[0], request.config.rootpath, include_root(request.config))
