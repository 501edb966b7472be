"""What may go wrong, each fault by itself: strikes when it can, and takes itself back later.

A fault gets the simulation and its own dice, and returns a line about what it did, or None when it cannot strike now.
"""

from random import Random
from typing import TYPE_CHECKING

from dynafast.sim.registry import fault
from dynafast.sim.world import MS, SECOND
from dynafast.storage.interface import object_key

if TYPE_CHECKING:
    from dynafast._ext.wires import End
    from dynafast.sim.host import Host
    from dynafast.sim.run import Simulation


def a_while(rng: Random) -> int:
    """Return how long a fault lasts: mostly short, sometimes longer than any patience in the core."""
    return int(rng.choice([20 * MS, 200 * MS, SECOND, 4 * SECOND, 12 * SECOND]) * rng.uniform(0.5, 1.5))


def a_host(sim: "Simulation", rng: Random) -> "Host | None":
    """Return a machine whose process runs and is not paused."""
    running = [host for host in sim.hosts if host.process is not None and not host.process.paused]
    return rng.choice(running) if running else None


def _victim(sim: "Simulation", rng: Random) -> "Host | None":
    """Return a machine to take down, unless as many are down as may be."""
    return None if sim.down() >= sim.options.most_down else a_host(sim, rng)


def _longer(sim: "Simulation") -> int:
    """Return what a fault lasts longer on a tour: than a record rests before a round."""
    return 4 * SECOND if sim.options.tour else 0


def _end(sim: "Simulation", rng: Random, *, between_nodes: bool) -> "End | None":
    ends = [
        end
        for end in sim.network.ends.values()
        if not between_nodes or (end.owner.place != "clients" and end.far.owner.place != "clients")
    ]
    return rng.choice(ends) if ends else None


# ---- the network


@fault("network")
def reset(sim: "Simulation", rng: Random) -> str | None:
    """Cut a wire; what is under way on it is lost."""
    end = _end(sim, rng, between_nodes=rng.random() < 0.7)
    if end is None:
        return None
    sim.network.reset(end)
    return f"wire {end.number} {end.owner.place}-{end.far.owner.place}"


@fault("network")
def delay(sim: "Simulation", rng: Random) -> str | None:
    """Let everything in one direction of a wire take longer."""
    end = _end(sim, rng, between_nodes=rng.random() < 0.8)
    if end is None or end.extra_ns:
        return None
    end.extra_ns = int(rng.choice([5, 50, 500, 2500]) * MS * rng.uniform(0.5, 1.5))

    def undo() -> None:
        end.extra_ns = 0
        end.troubled_ns = max(sim.world.now, end.due_ns)

    sim.heal_later(a_while(rng), undo)
    return f"wire {end.number} by {end.extra_ns // MS} ms"


@fault("network")
def clog(sim: "Simulation", rng: Random) -> str | None:
    """Stop some directions of wires; they open one by one."""
    struck = []
    longer = _longer(sim)
    for _ in range(rng.choice([1, 1, 2, 5])):
        end = _end(sim, rng, between_nodes=True)
        if end is not None and not end.clogged:
            sim.network.clog(end)
            sim.heal_later(longer + a_while(rng), lambda end=end: sim.network.unclog(end))  # type: ignore[misc]
            struck.append(str(end.number))
    return "wires " + " ".join(struck) if struck else None


@fault("network")
def mute(sim: "Simulation", rng: Random) -> str | None:
    """Stop what nodes answer some clients, who do not know what has become of their requests."""
    struck = []
    for _ in range(rng.choice([1, 3, 9])):
        ends = [end for end in sim.network.ends.values() if end.far.owner.place == "clients" and not end.clogged]
        if ends:
            end = rng.choice(ends)
            sim.network.clog(end)
            sim.heal_later(a_while(rng), lambda end=end: sim.network.unclog(end))  # type: ignore[misc]
            struck.append(str(end.number))
    return "wires " + " ".join(struck) if struck else None


@fault("network")
def partition(sim: "Simulation", rng: Random) -> str | None:
    """Let two groups of machines not hear each other."""
    names = [host.name for host in sim.hosts]
    group = set(rng.sample(names, rng.randint(1, max(1, len(names) // 2))))
    pairs = [(a, b) for a in names for b in names if (a in group) != (b in group)]
    _block(sim, rng, pairs)
    return f"{' '.join(sorted(group))} from the others"


@fault("network")
def one_way(sim: "Simulation", rng: Random) -> str | None:
    """Let a machine hear another, but not be heard by it."""
    names = [host.name for host in sim.hosts]
    if len(names) < 2:
        return None
    source, target = rng.sample(names, 2)
    _block(sim, rng, [(source, target)])
    return f"{source} to {target}"


def _block(sim: "Simulation", rng: Random, pairs: list[tuple[str, str]]) -> None:
    for pair in pairs:
        sim.network.block(*pair)

    def undo() -> None:
        for pair in pairs:
            sim.network.unblock(*pair)

    sim.heal_later(a_while(rng), undo)


# ---- machines


@fault("nodes")
def kill(sim: "Simulation", rng: Random) -> str | None:
    """End a process; it starts again later."""
    host = _victim(sim, rng)
    if host is None:
        return None
    host.kill()
    sim.heal_later(a_while(rng), lambda: sim.restart(host))
    return host.name


@fault("nodes")
def power(sim: "Simulation", rng: Random) -> str | None:
    """Cut a machine's power: the tail that was not synced is lost."""
    host = _victim(sim, rng)
    if host is None or not sim.budget.allows_lost_tail(host):
        return None
    if host.lose_power():
        sim.tail_lost()
    sim.heal_later(a_while(rng), lambda: sim.restart(host))
    return host.name


@fault("nodes")
def stop(sim: "Simulation", rng: Random) -> str | None:
    """End a process as an administrator does, and start it again."""
    host = _victim(sim, rng)
    if host is None:
        return None
    away = a_while(rng)

    def stopped() -> None:
        if sim.options.cold_copies:
            host.copy = host.id, host.disk.copy()
        sim.heal_later(away, lambda: sim.restart(host))

    host.stop(stopped)
    return host.name


@fault("nodes")
def swap(sim: "Simulation", rng: Random) -> str | None:
    """Let two machines start again, each at the address of the other: one at once, and one later."""
    late, soon = _victim(sim, rng), a_host(sim, rng)
    if late is None or soon is None or soon is late:
        return None
    for host in (late, soon):
        host.kill()
    late.swap_addresses(soon)
    sim.restart(soon)
    sim.heal_later(_longer(sim) + a_while(rng), lambda: sim.restart(late))
    return f"{soon.name} is at {soon.address}, later {late.name} at {late.address}"


@fault("nodes")
def pause(sim: "Simulation", rng: Random) -> str | None:
    """Stop a process as SIGSTOP does; it goes on later as if nothing had been."""
    host = _victim(sim, rng)
    if host is None or host.process is None:
        return None
    process = host.process
    process.pause()
    sim.heal_later(a_while(rng), process.resume)
    return host.name


@fault("nodes")
def slow(sim: "Simulation", rng: Random) -> str | None:
    """Let a machine take its time for everything."""
    host = a_host(sim, rng)
    if host is None or host.name in sim.network.lag_ns:
        return None
    sim.network.lag_ns[host.name] = int(rng.choice([5, 40, 300]) * MS * rng.uniform(0.5, 1.5))

    def undo() -> None:
        sim.network.lag_ns.pop(host.name, None)
        sim.slowed_ns = sim.world.now + 2 * SECOND

    sim.heal_later(a_while(rng), undo)
    return f"{host.name} by {sim.network.lag_ns[host.name] // MS} ms"


@fault("nodes")
def skew(sim: "Simulation", rng: Random) -> str | None:
    """Let a wall clock jump."""
    host = a_host(sim, rng)
    if host is None:
        return None
    host.skew_ms = int(rng.choice([0, 100, 5_000, 50_000, 10_000_000]) * rng.uniform(-1, 1))
    return f"{host.name} {host.skew_ms} ms"


# ---- disks


@fault("disks")
def slow_flush(sim: "Simulation", rng: Random) -> str | None:
    """Let flushes of a disk take long."""
    host = a_host(sim, rng)
    if host is None or host.slow > 1:
        return None
    host.slow = rng.choice([10, 100, 1000])
    sim.heal_later(a_while(rng), lambda: setattr(host, "slow", 1))
    return f"{host.name} {host.slow} times"


@fault("disks")
def bad_flush(sim: "Simulation", rng: Random) -> str | None:
    """Let the next flush of a disk fail, which ends the process; it starts again later."""
    host = _victim(sim, rng)
    if host is None or host.flush_fails is not None:
        return None
    away = a_while(rng)

    def fails() -> bool:
        if sim.down() >= sim.options.most_down or not sim.budget.allows_lost_tail(host):
            return False
        host.flush_fails = None
        if host.fail_flush():
            sim.tail_lost()
        sim.heal_later(away, lambda: sim.restart(host))
        return True

    host.flush_fails = fails
    sim.heal_later(a_while(rng), lambda: setattr(host, "flush_fails", None))
    return host.name


def _spoil(sim: "Simulation", rng: Random, how: str) -> str | None:
    """Set a flag of some disk for a while."""
    host = a_host(sim, rng)
    if host is None or getattr(host.disk, how):
        return None
    disk = host.disk
    setattr(disk, how, True)
    sim.heal_later(a_while(rng), lambda: setattr(disk, how, False))
    return host.name


@fault("disks")
def full(sim: "Simulation", rng: Random) -> str | None:
    """Let a disk take no more."""
    return _spoil(sim, rng, "full")


@fault("disks")
def read_error(sim: "Simulation", rng: Random) -> str | None:
    """Let reads of a disk fail."""
    return _spoil(sim, rng, "unreadable")


@fault("disks")
def corrupt(sim: "Simulation", rng: Random) -> str | None:
    """Damage a record on a disk."""
    host = rng.choice(sim.hosts)
    history = rng.choice(sim.histories)
    if not sim.budget.allows_loss(host, [history]):
        return None
    key = object_key(sim.position(history.key), history.key)
    if key not in host.disk.object_keys():
        return None
    sim.budget.strike(host, [history])
    if not host.disk.damage(key):
        return None
    sim.lost_data_ns = sim.world.now
    sim.damaged.add(history.key)
    return f"{history.key.decode()} on {host.name}"
