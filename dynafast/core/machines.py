"""The machines of a node, in the order in which they get their ticks. A new one is added here and nowhere else."""

from dynafast.core.claims import Claims
from dynafast.core.entrance import Entrance
from dynafast.core.gossip import Gossip
from dynafast.core.machine import Machine

MACHINES: tuple[type[Machine], ...] = (Gossip, Entrance, Claims)
