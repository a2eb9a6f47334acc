"""In the place of the fixtures, where pytest-testinfra is not there."""

from __future__ import annotations

import pytest

NEEDED = (
    "portctl reaches hosts through pytest-testinfra, which is not installed (or switched off): pip install"
    " 'portctl[pytest]'"
)


@pytest.fixture(scope="module")
def portctl_host() -> None:
    """Says what is missing."""
    pytest.fail(NEEDED, pytrace=False)
