"""Applying a policy to a host, confirming it, taking it back, and what became of all that."""

from __future__ import annotations

from portctl.apply.run import Request, Talk, apply, confirm, plan, rollback
from portctl.apply.state import Status, status
from portctl.apply.steps import NothingPending, Refused, RolledBack

__all__ = [
    "NothingPending",
    "Refused",
    "Request",
    "RolledBack",
    "Status",
    "Talk",
    "apply",
    "confirm",
    "plan",
    "rollback",
    "status",
]
