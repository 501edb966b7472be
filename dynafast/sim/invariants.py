"""What must hold, apart from what a key's history checks: receipts, deadlines, views, and what lies on the disks.

Each check raises `ViolationError` with the invariant's name. docs/simulation.md lists them all.
"""

from typing import TYPE_CHECKING, Any

from dynafast._ext.clock import Record
from dynafast._ext.replica import MODE_NONE, MODE_SEATED
from dynafast.core.rounds import REST_NS
from dynafast.errors import CorruptRecordError
from dynafast.protocol import Op
from dynafast.sim.disk import Disk, bare, record_of
from dynafast.sim.history import Dot, KeyHistory, ViolationError, Write
from dynafast.storage.interface import object_key

if TYPE_CHECKING:
    from dynafast.sim.run import Simulation

SLOPPY = 1
DAMAGED = b"damaged"  # stands for a record that cannot be read


def check_options(sim: "Simulation", history: KeyHistory, op: Op, options: dict[str, Any], receipt: list[int]) -> None:
    """An ok answer met what its request asked for: R or W, primaries, synced replicas, no fallback.

    While members change, fewer hosts than N may serve a partition; then all of them are enough. The receipt tells how
    many there are only if that is fewer than R or W; otherwise at least as many.
    """
    needed, replicas, primaries, fallbacks, synced, _ = receipt
    reads = op is Op.GET
    asked = options.get("r", sim.options.r) if reads else options.get("w", sim.options.w)
    hosts = needed if sim.members_change else sim.options.replicas
    met = (
        needed == min(asked, hosts)
        and replicas >= needed
        and primaries >= min(hosts, options.get("pr" if reads else "pw", 0))
        and (reads or synced >= min(hosts, options.get("dw", 0)))
        and (options.get("sloppy", True) or not fallbacks)
    )
    if not met:
        raise ViolationError("quorum-met", f"{op.name} with {options} was answered with {receipt}", history)


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
    if sim.world.now - write.started_ns > REST_NS and write.bit & history.deleted():
        return  # the answer was long on its way: a round may have taken the write away
    key = object_key(sim.position(history.key), history.key)
    known: dict[bytes, bool] = {}  # most replicas have the same record
    present = durable = 0
    for host in sim.every_host:
        has = synced_too = False
        for data, certain in host.disk.copies(key):
            record = bare(data)
            if record not in known:
                known[record] = covers(record, write.dots)
            has = has or known[record]  # what is being deleted counts: another has got it
            synced_too = synced_too or (certain and known[record])
        present += has
        durable += synced_too
    if fallbacks and sim.members_change:
        # A hint whose target has gone becomes one for the nodes that take its place, who may have been counted too.
        replicas, synced = primaries, synced - fallbacks
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


def unrest_of_data(sim: "Simulation") -> str | None:
    """Say what has not come to rest on the disks, or None: every seat has the same bytes, and nothing else is there."""
    running = [host for host in sim.hosts if host.process is not None]
    by_id = {host.node.own.id: host for host in running}
    held = {host.name: _by_partition(host.disk, sim.options.partitions) for host in running}
    for host in running:
        if host.node.replica.hinted:
            return f"{host.name} keeps hints for {len(host.node.replica.hinted)} nodes"
    for partition, owners in enumerate(running[0].node.seats.owners):
        holders = [by_id[id] for id in sorted({owner.node for owner in owners.values()})]
        for host in running:
            seated = host in holders
            if host.node.replica.mode(partition) != (MODE_SEATED if seated else MODE_NONE):
                return f"{host.name} has partition {partition} in mode {host.node.replica.mode(partition)}"
            if not seated and held[host.name].get(partition):
                return f"{host.name} holds records of partition {partition} that it does not own"
            if DAMAGED in held[host.name].get(partition, {}).values():
                return f"{host.name} has a damaged record in partition {partition}"
        contents = [held[host.name].get(partition, {}) for host in holders]
        roots = [host.node.replica.root(partition) for host in holders]
        if None in roots:
            return f"{holders[roots.index(None)].name} has no tree of partition {partition}"
        if any(content != contents[0] for content in contents):
            who = " ".join(host.name for host in holders)
            if len(set(roots)) == 1:
                raise ViolationError("merkle-tells", f"equal roots of partition {partition}, unequal records: {who}")
            return f"replicas of partition {partition} differ: {who}"
        if len(set(roots)) != 1:
            raise ViolationError("merkle-tells", f"equal records of partition {partition}, unequal roots")
    return None


def _by_partition(disk: Disk, partitions: int) -> dict[int, dict[bytes, bytes]]:
    """Return the encoded records on a disk: partition -> object key -> record; a damaged one as such."""
    result: dict[int, dict[bytes, bytes]] = {}
    for key in disk.object_keys():
        try:
            data = bare(disk.present(key) or b"")
        except CorruptRecordError:
            data = DAMAGED
        result.setdefault(int.from_bytes(key[:8], "big") * partitions >> 64, {})[key] = data
    return result


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


def covers(record: bytes, dots: list[Dot]) -> bool:
    """Whether an encoded record has seen one of these dots."""
    context = {actor: counter for actor, counter, _ in Record.decode(record).context}
    return any(context.get(actor, 0) >= counter for actor, counter in dots)
