"""What must hold, apart from what a key's history checks: receipts, deadlines, views, and what lies on the disks.

Each check raises `ViolationError` with the invariant's name. docs/simulation.md lists them all.
"""

from typing import TYPE_CHECKING

from dynafast._ext.clock import Record
from dynafast.sim.budget import covered
from dynafast.sim.disk import record_of
from dynafast.sim.history import KeyHistory, ViolationError, Write
from dynafast.storage.interface import object_key

if TYPE_CHECKING:
    from dynafast.sim.run import Simulation

SLOPPY = 1


def check_receipt(sim: "Simulation", history: KeyHistory, write: Write, receipt: list[int], asked_ns: int) -> None:
    """An ok answer met its W; the replicas it counts have the write, those it calls synced have it for good."""
    needed, replicas, primaries, fallbacks, synced, flags = receipt
    if replicas < needed or primaries + fallbacks != replicas or synced > replicas:
        raise ViolationError("quorum-met", f"a write was answered ok with the receipt {receipt}", history)
    if bool(flags & SLOPPY) != bool(fallbacks):
        raise ViolationError("receipts-true", f"the receipt {receipt} does not say whether it is sloppy", history)
    if sim.options.group and synced < replicas:
        raise ViolationError("receipts-true", f"durability is group, and unsynced votes count: {receipt}", history)
    if sim.lost_data_ns >= asked_ns:
        return  # what was counted may be gone again
    key = object_key(sim.position(history.key), history.key)
    present = durable = 0
    for host in sim.every_host:
        durable += any(covered(host, key, durable=True).get(dot[0], 0) >= dot[1] for dot in write.dots)
        present += any(covered(host, key, durable=False).get(dot[0], 0) >= dot[1] for dot in write.dots)
    if present < replicas or durable < synced:
        raise ViolationError(
            "receipts-true",
            f"w{write.index} was acknowledged with the receipt {receipt}; {present} disks have it, {durable} synced",
            history,
        )


def check_views(sim: "Simulation") -> None:
    """All nodes see the same members and seats, and every partition is served by N distinct hosts."""
    running = [host for host in sim.hosts if host.process is not None]
    views = {}
    for host in running:
        node = host.node
        hosts = {entry.host for entry in node.membership.members()}
        want = min(sim.options.replicas, len(hosts))
        for partition, holders in enumerate(node.seats.owners):
            ids = [owner.node for _, owner in sorted(holders.items())]
            at = {node.membership.entries[id].host for id in ids}
            if len(at) < want:
                raise ViolationError(
                    "distinct-hosts", f"{host.name} sees partition {partition} on {len(at)} hosts, not {want}"
                )
        views[host.name] = (
            sorted((id, entry.status.value) for id, entry in node.membership.entries.items()),
            [sorted(holders.items()) for holders in node.seats.owners],
        )
    if any(view != views[running[0].name] for view in views.values()):
        raise ViolationError("views-converge", f"nodes see different members or seats: {' '.join(views)}")


def merged_record(sim: "Simulation", history: KeyHistory) -> Record | None:
    """Return what all running nodes together have of a key."""
    key = object_key(sim.position(history.key), history.key)
    result: Record | None = None
    for host in sim.hosts:
        data = None if host.process is None else host.disk.present(key)
        if data is not None:
            record = record_of(data)
            result = record if result is None else result.merge(record)
    return result


def check_histories(sim: "Simulation") -> None:
    """Nothing acknowledged is lost, and nothing that was replaced is back."""
    for history in sim.histories:
        history.check_final(merged_record(sim, history))
