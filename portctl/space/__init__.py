"""Exact sets of packets: what a policy or a loaded program accepts, rejects and drops, and what stands on that.

`Space` makes them. Nothing here knows YAML, a packet filter or a machine.
"""

from portctl.space.bodies import Leaf
from portctl.space.sets import PacketSet, Partition, Space

__all__ = ["Leaf", "PacketSet", "Partition", "Space"]
