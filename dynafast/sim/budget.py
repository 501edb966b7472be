"""The fault budget: what may strike, so that everything that does must be survived.

A disk may lose what it has (a tail, a record, all of it) only where every acknowledged version in it, or one that saw
it, has an intact and synced copy on another disk.
"""

from typing import TYPE_CHECKING

from dynafast._ext.clock import Record
from dynafast.errors import CorruptRecordError
from dynafast.sim.disk import hinted_for, record_of
from dynafast.sim.history import KeyHistory
from dynafast.storage.interface import object_key

if TYPE_CHECKING:
    from dynafast.sim.host import Host
    from dynafast.sim.run import Simulation


class Budget:
    """Asked before a disk loses something."""

    def __init__(self, sim: "Simulation") -> None:
        self._sim = sim

    def allows_lost_tail(self, host: "Host") -> bool:
        """Whether the unsynced writes of a machine may be lost. Where acknowledgements wait for a flush: always."""
        return self._sim.options.group or self.allows_loss(host)

    def allows_death(self, host: "Host") -> bool:
        """Whether a machine may lose all it has: its records, and its seats, of which others must serve some too.

        More than half of the members must be left to permit its removal.
        """
        members = [*self._sim.hosts, *(other for other in self._sim.changing if other not in self._sim.hosts)]
        if 2 * sum(other.counts and other is not host for other in self._sim.hosts) <= len(members):
            return False
        others = {other.process.id for other in self._sim.hosts if other is not host and other.counts and other.process}
        for other in self._sim.hosts:
            if other.process is None:
                continue
            for owners in other.process.node.seats.owners:
                if owners and not any(owner.node in others for owner in owners.values()):
                    return False
        return self.allows_loss(host)

    def allows_loss(self, host: "Host", keys: "list[KeyHistory] | None" = None) -> bool:
        """Whether a machine may lose its records of *keys* (None: of all)."""
        return all(self._spared(host, history) for history in self._sim.histories if keys is None or history in keys)

    def strike(self, host: "Host", keys: "list[KeyHistory] | None" = None) -> None:
        """A machine loses its records of *keys* (None: of all), as was allowed.

        Where no other seat has what was acknowledged, a hint brings it back, or a machine that is no owner any more;
        strict reads need not know it before.
        """
        for history in self._sim.histories if keys is None else keys:
            if not self._spared(host, history, seated=True):
                history.drift(self._sim.world.now)

    def _spared(self, host: "Host", history: KeyHistory, *, seated: bool = False) -> bool:
        """Whether the other disks (*seated*: those of owners) have all of a key that was acknowledged and is here."""
        key = object_key(self._sim.position(history.key), history.key)
        here = covered(host, key, durable=False)
        if not here:
            return True
        elsewhere: dict[int, int] = {}
        for other in self._sim.hosts:
            if other is host or not other.counts:
                continue
            if self._serves(other, history.key) or (not seated and self._keeps(other, key, host)):
                for actor, counter in covered(other, key, durable=True).items():
                    elsewhere[actor] = max(counter, elsewhere.get(actor, 0))
        return all(
            elsewhere.get(actor, 0) >= counter
            for write in history.writes
            if write.acked_ns or write.outcome.startswith("confirmed")
            for actor, counter in write.dots
            if here.get(actor, 0) >= counter
        )

    def _keeps(self, other: "Host", key: bytes, host: "Host") -> bool:
        """Whether a machine without a seat keeps an object key for another than *host*.

        What is kept for *host*, or left over from a seat that moved on, goes as soon as *host* has confirmed that it
        has it: perhaps it just did.
        """
        try:
            data = other.disk.durable(key)
        except CorruptRecordError:
            return False
        return data is not None and any(id != host.id for id in hinted_for(data))

    def _serves(self, host: "Host", key: bytes) -> bool:
        """Whether a machine has a seat of a key: by what it says itself, or while it is down by what all others say."""
        partition = self._sim.position(key) * self._sim.options.partitions >> 64
        told = [host] if host.process else [other for other in self._sim.hosts if other.process is not None]
        return bool(told) and all(teller.node.seats.serves(host.id, partition) for teller in told)


def covered(host: "Host", key: bytes, *, durable: bool) -> dict[int, int]:
    """Return what the record of an object key on that disk covers: actor -> counter; nothing if it cannot be read."""
    try:
        data = host.disk.durable(key) if durable else host.disk.present(key)
        record: Record | None = None if data is None else record_of(data)
    except (CorruptRecordError, ValueError):
        return {}
    return {} if record is None else {actor: counter for actor, counter, _ in record.context}
