"""Exact sets of packets: what a policy or a loaded program accepts, rejects and drops, and what stands on that.

`Space` makes them. Nothing here knows YAML, a packet filter or a machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from portctl.space.bodies import Leaf
    from portctl.space.sets import PacketSet, Partition, Space

__all__ = ["Leaf", "PacketSet", "Partition", "Space"]


def __getattr__(name: str) -> Any:
    """Imports the engine only where it is asked for: `portctl check` seldom does."""
    if name not in __all__:
        raise AttributeError(name)
    from portctl.space import bodies, sets

    return bodies.Leaf if name == "Leaf" else getattr(sets, name)
