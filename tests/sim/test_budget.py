"""A disk may lose only what has a synced copy elsewhere."""

from dynafast._ext.clock import Record
from dynafast.sim.history import NOTHING
from dynafast.sim.options import draw
from dynafast.sim.run import Simulation
from dynafast.sim.world import World
from dynafast.storage.interface import object_key

RECORD = Record([(7, 1, 0)], [(7, 1, 0, bytes(16), b"v")])


def cluster() -> Simulation:
    world = World(1)
    sim = Simulation(1, draw(world, nodes=3, ops=1, faults=()), world)
    sim.set_up()
    return sim


def keep(sim: Simulation, number: int, *, sync: bool = True) -> None:
    key = sim.histories[0].key
    disk = sim.hosts[number].disk
    disk.put(object_key(sim.position(key), key), bytes(25) + RECORD.encode())
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
