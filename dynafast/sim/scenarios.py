"""Told stories, by name: what once broke a design like this one, or ours. ``dynafast sim --scenario NAME``."""

from collections.abc import Callable
from itertools import pairwise

from dynafast.protocol import Op
from dynafast.sim.history import ViolationError
from dynafast.sim.stage import Stage

Story = Callable[[Stage], None]
SCENARIOS: dict[str, Story] = {}
FROM_NOTHING = frozenset({"three-first"})  # stories that begin before there is a cluster
REAPED_S = 60.0  # within this a deleted key is gone from every disk


def story(function: Story) -> Story:
    """Register a story under its name, with dashes."""
    SCENARIOS[function.__name__.replace("_", "-")] = function
    return function


def play(name: str, *, seed: int = 1, plants: frozenset[str] = frozenset()) -> tuple[ViolationError | None, str]:
    """Tell a story; return what does not hold in it, and the digest of the run."""
    stage = Stage(seed=seed, plants=plants)
    try:
        if name not in FROM_NOTHING:
            stage.sim.set_up()
        SCENARIOS[name](stage)
        stage.finish()
    except ViolationError as violation:
        return violation, stage.world.digest()
    return None, stage.world.digest()


@story
def lost_clock(stage: Stage) -> None:
    """A coordinator loses its last write to a power cut; others have acknowledged it. Its next dot is a new one."""
    key = b"clock"
    first = stage.holders(key)[0]
    for turn in range(3):
        first.slow = 100_000
        stage.put(first, key, b"before %d" % turn)
        first.lose_power()
        first.slow = 1
        stage.wait(5)
        first.start()
        stage.settle()
        stage.put(first, key, b"after %d" % turn)
    stage.expect(len(stage.get(stage.holders(key)[1], key, r=3).values) == 6, "six blind writes are six siblings")


@story
def lost_clock_handoff(stage: Stage) -> None:
    """The same at a fallback that coordinates, whose hint is delivered meanwhile."""
    key = b"clock-handoff"
    holders, fallback = stage.holders(key), stage.others(key)[0]
    for host in holders[:2]:
        host.kill()
    stage.wait(5)
    stage.put(fallback, key, b"one")
    fallback.slow = 100_000
    stage.put(fallback, key, b"two")
    fallback.lose_power()
    fallback.slow = 1
    for host in holders[:2]:
        host.start()
    stage.wait(5)
    fallback.start()
    stage.wait(10)
    stage.put(fallback, key, b"three")
    stage.rest()
    stage.expect(len(stage.get(holders[0], key, r=3).values) == 3, "three blind writes are three siblings")


@story
def old_tombstone_on_a_fallback(stage: Stage) -> None:
    """A fallback keeps a tombstone while the key is created again; its hint arrives last."""
    key = b"again"
    holders, fallback = stage.holders(key), stage.others(key)[0]
    seen = stage.put(holders[0], key, b"old")
    holders[2].kill()
    stage.wait(5)
    stage.put(holders[0], key, None, seen, w=3)
    for host in holders[:2]:
        stage.sim.network.block(host.name, fallback.name)
        stage.sim.network.block(fallback.name, host.name)
    stage.wait(5)
    stage.put(holders[0], key, b"new")
    holders[2].start()
    stage.wait(20)
    for host in holders[:2]:
        stage.sim.network.unblock(host.name, fallback.name)
        stage.sim.network.unblock(fallback.name, host.name)
    stage.rest()
    stage.expect(stage.get(holders[2], key, r=3).values == (b"new",), "the new value has survived")


@story
def join_and_leave_at_once(stage: Stage) -> None:
    """One node joins while another leaves."""
    keys = stage.fill(60)
    joiner = stage.join()
    leaver = stage.hosts[1]
    stage.operate(stage.hosts[2], Op.LEAVE, leaver.name)
    for number, key in enumerate(keys):
        stage.put(stage.hosts[number % 2 * 2], key, b"later", stage.get(stage.hosts[0], key))
    stage.until(lambda: joiner in stage.hosts and leaver not in stage.hosts, "both are done")
    stage.rest()
    stage.expect(leaver.ended == "left", "the leaver ends by itself")


@story
def join_during_a_partition(stage: Stage) -> None:
    """A node joins on one side of a partition; the other side goes on writing."""
    keys = stage.fill(40)
    left, right = stage.hosts[:2], stage.hosts[2:]
    pairs = [(a.name, b.name) for a in left for b in right]
    for one, two in pairs:
        stage.sim.network.block(one, two)
        stage.sim.network.block(two, one)
    stage.wait(5)
    joiner = stage.join()
    for key in keys:
        stage.put(right[0], key, b"right")
        stage.put(left[0], key, b"left", w=1)
    stage.wait(20)
    for one, two in pairs:
        stage.sim.network.unblock(one, two)
        stage.sim.network.unblock(two, one)
    stage.until(lambda: joiner in stage.hosts, "the joiner is in")
    stage.rest()


@story
def crash_in_a_transfer(stage: Stage) -> None:
    """The node that pulls, and the one it pulls from, lose power in the middle."""
    stage.fill(150)
    joiner = stage.join()
    stage.until(lambda: joiner.up, "the joiner has started")
    for delay in (0.05, 0.1, 0.2):
        stage.wait(delay)
        joiner.lose_power()
        stage.wait(1)
        joiner.start()
        stage.wait(delay)
        stage.hosts[0].lose_power()
        stage.wait(1)
        stage.hosts[0].start()
    stage.settle()
    stage.fill(20, prefix=b"more")


@story
def away_for_long(stage: Stage) -> None:
    """A node is down for minutes while everything changes, and comes back."""
    keys = stage.fill(60)
    stage.hosts[0].kill()
    stage.wait(5)
    for number, key in enumerate(keys):
        host = stage.hosts[1 + number % 4]
        seen = stage.get(host, key)
        stage.put(host, key, None if number % 3 == 0 else b"changed", seen)
    stage.wait(180)
    stage.hosts[0].start()
    stage.rest()


@story
def all_replicas_one_after_another(stage: Stage) -> None:
    """Every replica of a key goes down once, and each time it is written."""
    key = b"rolling"
    holders = stage.holders(key)
    for number, host in enumerate([*holders, *holders]):
        host.kill()
        stage.wait(5)
        up = holders[(number + 1) % 3]
        stage.put(up, key, b"%d" % number, stage.get(up, key))
        host.start()
        stage.wait(3)
    stage.rest()
    stage.expect(stage.get(holders[0], key, r=3).values == (b"5",), "the last value has won")


@story
def wiped_node_returns(stage: Stage) -> None:
    """A node loses its disk, and enters as a new one in its own place."""
    from dynafast.sim.operators import start_over

    stage.fill(60)
    host = stage.hosts[1]
    host.kill()
    stage.wait(1)
    stage.sim.begin_change(host)
    start_over(stage.sim, host)
    stage.settle()
    stage.fill(20, prefix=b"meanwhile")


@story
def restored_from_an_old_backup(stage: Stage) -> None:
    """A node starts from a copy of its folder that is older than its last starts: it finds out, and serves nothing."""
    stage.fill(20)
    host = stage.hosts[1]
    old = host.disk.copy()
    for _ in range(2):
        host.kill()
        host.start()
        stage.settle()
    stage.fill(20, prefix=b"later")
    stage.wait(2)
    host.kill()
    host.counts = False
    host.disk = old
    stage.sim.begin_change(host)
    host.start()
    stage.until(lambda: host.ended == "stale" or host.counts, "it finds out")
    stage.rest()


@story
def two_interleaving_writers(stage: Stage) -> None:
    """Two clients that each write with what they read before the other wrote: two siblings, never more."""
    key = b"interleaved"
    hosts = stage.holders(key)
    seen = [stage.get(hosts[0], key), stage.get(hosts[1], key)]
    for number in range(30):
        turn = number % 2
        stage.put(hosts[turn], key, b"%d" % number, seen[turn])
        shown = stage.get(hosts[turn], key)
        stage.expect(len(shown.values) <= 2, f"{len(shown.values)} siblings of two writers")
        seen[turn] = shown


@story
def address_taken_by_another(stage: Stage) -> None:
    """A node is away while another runs at its address, and keys are deleted: it is waited for, no value returns."""
    keys = stage.fill(20)
    stage.rest()
    away, other = stage.hosts[1:3]
    for host in (away, other):
        host.kill()
    away.swap_addresses(other)
    other.start()
    stage.wait(5)
    for key in keys:
        stage.put(stage.hosts[0], key, None, stage.get(stage.hosts[0], key))
    stage.wait(REAPED_S)
    hints = [host.name for host in stage.hosts if host.up and away.id in host.node.replica.hinted]
    stage.expect(hints, f"hints for {away.name} wait until it is back")
    away.start()
    stage.rest()
    stage.expect(not any(stage.get(away, key, r=3).values for key in keys), "what was deleted stays so")


@story
def every_address_changed(stage: Stage) -> None:
    """All nodes start again, each at the address of another: they are found through those who are met there."""
    keys = stage.fill(20)
    hosts = list(stage.hosts)
    for host in hosts:
        host.kill()
    for one, two in pairwise(hosts):
        one.swap_addresses(two)
    for host in hosts:
        host.start()
    stage.rest()
    stage.expect(all(stage.get(hosts[0], key, r=3).values for key in keys), "what was written is there")


@story
def hint_for_a_removed_node(stage: Stage) -> None:
    """A node dies and is removed while hints for it wait: its successors get them."""
    keys = [b"hint-%d" % number for number in range(30)]
    dead = stage.hosts[2]
    dead.kill()
    stage.wait(5)
    for key in keys:
        stage.put(stage.hosts[0], key, b"for the dead")
    dead.counts = False
    stage.operate(stage.hosts[0], Op.REMOVE, dead.name, False)
    stage.sim.forget(dead)
    stage.rest()


@story
def removed_node_comes_back(stage: Stage) -> None:
    """A node is removed while it is cut off, keys are deleted and reaped, and it turns up again with the old values."""
    keys = stage.fill(20)
    dead = stage.hosts[2]
    dead.kill()
    dead.counts = False
    stage.wait(5)
    stage.operate(stage.hosts[0], Op.REMOVE, dead.name, False)
    stage.sim.forget(dead)
    stage.rest()
    for key in keys:
        stage.put(stage.hosts[0], key, None, stage.get(stage.hosts[0], key))
    stage.wait(REAPED_S)
    dead.start()
    stage.until(lambda: dead.ended == "removed", "it is told that it was removed")
    for key in keys:
        stage.expect(not stage.get(stage.hosts[1], key, r=3).values, "what was deleted stays deleted")


@story
def frame_delayed_past_a_reaping(stage: Stage) -> None:
    """A write to a replica hangs in a clogged link while the key is deleted and reaped; then the link opens."""
    key = b"late"
    one, two, three = stage.holders(key)
    clogged = [
        end
        for end in stage.sim.network.ends.values()
        if end.owner.place == one.name and end.far.owner.place == three.name
    ]
    for end in clogged:
        stage.sim.network.clog(end)
    seen = stage.put(one, key, b"value", sloppy=False)
    stage.wait(8)
    stage.put(two, key, None, stage.get(two, key) if not seen.context else seen)
    stage.wait(REAPED_S)
    for end in clogged:
        stage.sim.network.unclog(end)
    stage.wait(5)
    stage.expect(not stage.get(three, key, r=3).values, "what was deleted stays deleted")


@story
def every_holder_of_a_partition_lost(stage: Stage) -> None:
    """All three holders of a partition burn: the loss must be accepted, is listed, and the partition serves again."""
    key = b"burnt"
    stage.put(stage.holders(key)[0], key, b"gone")
    partition, holders = stage.partition(key), stage.holders(key)
    stage.rest()
    for _ in range(3):
        stage.join()
    stage.until(lambda: len(stage.hosts) == 8, "three more nodes")
    stage.rest()
    holders = stage.holders(key)
    alive = next(host for host in stage.hosts if host not in holders)
    for host in holders:
        host.kill()
        host.counts = False
    stage.wait(5)
    refused = stage.ask(alive, Op.REMOVE, holders[0].name, False)
    stage.expect(refused is not None, "a removal is answered")
    lost: set[int] = set()
    for host in holders:
        answer = stage.operate(alive, Op.REMOVE, host.name, True)
        lost |= set(answer[2]["lost"])
        stage.sim.forget(host)
    stage.expect(partition in lost, f"partition {partition} is listed as lost, not only {sorted(lost)}")
    for history in [history for history in stage.sim.histories if stage.partition(history.key) in lost]:
        stage.sim.histories.remove(history)
    stage.rest()
    found = stage.ask(alive, Op.GET, key, None)
    stage.expect(found is not None and found[2] == [], f"the partition serves again, empty, not {found}")


@story
def three_first(stage: Stage) -> None:
    """The first three nodes start at once: one founds the cluster, two join it at the same moment."""
    first = stage.sim.make_host()
    stage.sim.welcome(first)
    joiners = [stage.join_at(first.address) for _ in range(2)]
    first.found(stage.sim.facts)
    stage.until(lambda: all(host in stage.hosts for host in joiners), "both are in")
    stage.rest()
    stage.fill(20)


@story
def all_restarted_at_once(stage: Stage) -> None:
    """The whole cluster loses power; every node comes back at the same moment, with what it remembers."""
    keys = stage.fill(40)
    for _ in range(3):
        for host in stage.hosts:
            host.lose_power()
        stage.wait(2)
        for host in stage.hosts:
            host.start()
        stage.rest()
    for key in keys:
        stage.expect(stage.get(stage.hosts[0], key).values, "every value is there")


@story
def two_removed_one_after_the_other(stage: Stage) -> None:
    """Two of three holders are lost for good, the second while the seat of the first is being claimed."""
    stage.join()
    stage.until(lambda: len(stage.hosts) == 6, "a sixth node")
    stage.fill(60)
    stage.rest()
    for dead in stage.hosts[1:3]:
        dead.kill()
        dead.counts = False
        stage.wait(4)
        stage.operate(stage.hosts[0], Op.REMOVE, dead.name, False)
        stage.sim.forget(dead)
    stage.rest()
