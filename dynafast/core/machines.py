"""The machines of a node, in the order in which they get their ticks. A new one is added here and nowhere else."""

from dynafast.core.admission import Admission
from dynafast.core.antientropy import AntiEntropy
from dynafast.core.check import Checks
from dynafast.core.claims import Claims
from dynafast.core.detector import Detector
from dynafast.core.entrance import Entrance
from dynafast.core.exchange import Exchange
from dynafast.core.gossip import Gossip
from dynafast.core.handoff import Handoff
from dynafast.core.healing import Healing
from dynafast.core.machine import Machine

MACHINES: tuple[type[Machine], ...] = (
    Detector,
    Admission,
    Gossip,
    Entrance,
    Claims,
    Exchange,
    Healing,
    Handoff,
    AntiEntropy,
    Checks,
)
