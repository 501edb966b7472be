"""A disk may lose only what has a synced copy elsewhere."""

import pytest

from dynafast._ext.clock import Record
from dynafast.sim.history import NOTHING
from dynafast.sim.options import draw
from dynafast.sim.run import Simulation
from dynafast.sim.world import World
from dynafast.storage.interface import object_key

RECORD = Record([(7, 1, 0)], [(7, 1, 0, bytes(16), b"v")])


def cluster(nodes: int = 3) -> Simulation:
    world = World(1)
    sim = Simulation(1, draw(world, nodes=nodes, ops=1, faults=()), world)
    sim.set_up()
    return sim


def keep(sim: Simulation, number: int, *, sync: bool = True, hint: bytes = b"") -> None:
    key = sim.histories[0].key
    disk = sim.hosts[number].disk
    disk.put(object_key(sim.position(key), key), bytes(24) + bytes([len(hint) // 8]) + hint + RECORD.encode())
    if sync:
        disk.sync()


def acknowledge(sim: Simulation) -> None:
    history = sim.histories[0]
    write = history.begin_write(1, bytes(16), b"v", NOTHING, overwrite=False, client="c")
    history.acknowledge(2, write, (7, 1), 0, strict=True)


def test_the_only_copy_is_spared() -> None:
    sim = cluster()
    keep(sim, 0)
    acknowledge(sim)
    assert not sim.budget.allows_loss(sim.hosts[0])
    assert sim.budget.allows_loss(sim.hosts[1])


def test_a_copy_that_is_not_synced_does_not_count() -> None:
    sim = cluster()
    keep(sim, 0)
    keep(sim, 1, sync=False)
    acknowledge(sim)
    assert not sim.budget.allows_loss(sim.hosts[0])
    sim.hosts[1].disk.sync()
    assert sim.budget.allows_loss(sim.hosts[0])


def test_a_damaged_copy_does_not_count() -> None:
    sim = cluster()
    keep(sim, 0)
    keep(sim, 1)
    acknowledge(sim)
    key = sim.histories[0].key
    sim.hosts[1].disk.damage(object_key(sim.position(key), key))
    assert not sim.budget.allows_loss(sim.hosts[0])


def test_what_nobody_was_promised_may_go() -> None:
    sim = cluster()
    keep(sim, 0)
    assert sim.budget.allows_loss(sim.hosts[0])


@pytest.mark.parametrize("left_over", [True, False])
def test_a_copy_that_goes_once_the_machine_has_confirmed_it_does_not_count(left_over: bool) -> None:
    """It may have confirmed it a moment ago: a seat's content to an earlier owner, or a hint."""
    sim = cluster(nodes=5)
    owners = sim.hosts[0].node.seats.holders(sim.position(sim.histories[0].key) * sim.options.partitions >> 64)
    struck = next(number for number, host in enumerate(sim.hosts) if host.id in owners)
    other = next(number for number, host in enumerate(sim.hosts) if host.id not in owners)
    keep(sim, struck)
    keep(sim, other, hint=b"" if left_over else sim.hosts[struck].id)
    acknowledge(sim)
    assert not sim.budget.allows_loss(sim.hosts[struck])


@pytest.mark.parametrize(("seated", "strict"), [(True, 1), (False, 0)])
def test_a_write_that_no_other_seat_has_is_strict_no_more(seated: bool, strict: int) -> None:
    """A hint brings it back, in its time; until then no owner knows of it."""
    sim = cluster(nodes=5)
    key = sim.histories[0].key
    node = sim.hosts[0].node
    owners = node.seats.holders(sim.position(key) * sim.options.partitions >> 64)
    numbers = [number for number, host in enumerate(sim.hosts) if (host.id in owners) is seated]
    struck = next(number for number, host in enumerate(sim.hosts) if host.id in owners)
    other = next(number for number in numbers if number != struck)
    keep(sim, struck)
    keep(sim, other, hint=b"" if seated else b"elsewise")
    acknowledge(sim)
    assert sim.budget.allows_loss(sim.hosts[struck])
    sim.budget.strike(sim.hosts[struck])
    assert sim.histories[0].strict == strict
    sim.hosts[other].kill()
    assert sim.budget._serves(sim.hosts[other], key) is seated, "others know where its seats are while it is down"
