"""The machines of a node, in the order in which they get their ticks. A new one is added here and nowhere else."""

from dynafast.core.admission import Admission
from dynafast.core.antientropy import AntiEntropy
from dynafast.core.changes import Changes
from dynafast.core.check import Checks
from dynafast.core.claiming import Claiming
from dynafast.core.detector import Detector
from dynafast.core.dropping import Dropping
from dynafast.core.entrance import Entrance
from dynafast.core.exchange import Exchange
from dynafast.core.giving import Giving
from dynafast.core.gossip import Gossip
from dynafast.core.handoff import Handoff
from dynafast.core.healing import Healing
from dynafast.core.leaving import Leaving
from dynafast.core.machine import Machine
from dynafast.core.plan import Plan
from dynafast.core.rounds import Rounds
from dynafast.core.taking import Taking

MACHINES: tuple[type[Machine], ...] = (
    Detector,
    Admission,
    Gossip,
    Entrance,
    Exchange,
    Taking,
    Giving,
    Claiming,
    Dropping,
    Changes,
    Healing,
    Handoff,
    AntiEntropy,
    Rounds,
    Checks,
    Leaving,
    Plan,
)
