"""Wires: in order, in pieces, held and cut."""

import random
from itertools import pairwise

import pytest

from dynafast._ext.wires import End
from dynafast.sim.network import DIAL_TIMEOUT_NS, Network
from dynafast.sim.world import MS, SECOND, US, World


class Place:
    """An owner of ends that writes down what comes to it."""

    def __init__(self, world: World, place: str) -> None:
        self.world = world
        self.place = place
        self.end: End | None = None
        self.got: list[tuple[int, bytes]] = []
        self.ended_ns: int | None = None

    @property
    def text(self) -> bytes:
        return b"".join(data for _, data in self.got)

    def accepted(self, end: End) -> None:
        self.end = end

    def dialled(self, end: End | None) -> None:
        self.end = end

    def received(self, end: End, data: bytes) -> None:
        assert end is self.end
        self.got.append((self.world.now, data))

    def ended(self, end: End) -> None:
        assert end is self.end
        assert self.ended_ns is None
        self.ended_ns = self.world.now


class Pair:
    """Two places and a wire between them."""

    def __init__(self, *, seed: int = 1, jitter_us: int = 300, pieces: float = 0.0) -> None:
        self.world = World(seed)
        self.network = Network(self.world, latency_us=100, jitter_us=jitter_us, pieces=pieces)
        self.near, self.far = Place(self.world, "near"), Place(self.world, "far")
        self.network.connect(self.near, "far", lambda: self.far, self.near.dialled)
        self.pass_by(SECOND)

    def pass_by(self, time_ns: int) -> None:
        self.world.run(self.world.now + time_ns)

    @property
    def end(self) -> End:
        assert self.near.end is not None
        return self.near.end


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("pieces", [0.0, 0.5, 1.0])
def test_bytes_arrive_in_order_each_within_its_delay(seed: int, pieces: float) -> None:
    """Whatever is drawn for each frame: none overtakes another, and none but a held up one takes longer."""
    pair, rng, sent = Pair(seed=seed, pieces=pieces), random.Random(seed), b""
    for _ in range(50):
        data = rng.randbytes(rng.randrange(1, 9))
        pair.network.send(pair.end, data)
        sent += data
        pair.pass_by(rng.randrange(300) * US)
    last_ns = pair.world.now
    pair.pass_by(SECOND)
    assert pair.far.text == sent
    assert all(one < two for (one, _), (two, _) in pairwise(pair.far.got))
    assert pair.far.got[-1][0] <= last_ns + 400 * US + 100
    assert (len(pair.far.got) > 50) == (pieces > 0)


def test_the_delay_is_latency_plus_jitter_plus_what_faults_add() -> None:
    pair = Pair(jitter_us=0)
    for extra_ns, lag_ns in ((0, {}), (5 * MS, {}), (0, {"near": 7 * MS}), (MS, {"near": 2 * MS, "far": 3 * MS})):
        pair.end.extra_ns, pair.network.lag_ns = extra_ns, lag_ns
        sent_ns = pair.world.now
        pair.network.send(pair.end, b"x")
        pair.pass_by(SECOND)
        assert pair.far.got.pop()[0] - sent_ns == 100 * US + extra_ns + sum(lag_ns.values())


def test_the_trace_names_end_size_and_checksum_of_what_arrives() -> None:
    pair = Pair(jitter_us=0)
    lines: list[str] = []
    pair.world.keep = lines.append  # type: ignore[method-assign]
    pair.network.send(pair.end, b"123456789")
    sent_ns = pair.world.now
    pair.pass_by(SECOND)
    pair.network.close(pair.end)
    pair.pass_by(SECOND)
    pair.world.flush()
    first, second = "".join(lines).splitlines()
    assert first == f"{sent_ns + 100 * US} recv {pair.end.far.number} 9 cbf43926"  # the check value of CRC-32
    assert second.endswith(f" end {pair.end.far.number}")


@pytest.mark.parametrize("blocked", [True, False])
def test_what_is_sent_into_a_block_or_a_clog_waits_for_its_end(blocked: bool) -> None:
    pair = Pair()
    network = pair.network
    since_ns = pair.world.now
    assert not network.troubled_since(pair.end, since_ns)
    if blocked:
        network.block("near", "far")
        network.block("near", "far")  # two faults: both must go
    else:
        network.clog(pair.end)
    network.send(pair.end, b"one ")
    network.send(pair.end, b"two ")
    assert pair.far.end is not None
    network.send(pair.far.end, b"back")  # the other direction flows
    pair.pass_by(SECOND)
    assert (pair.far.text, pair.near.text) == (b"", b"back")
    assert network.troubled_since(pair.end, pair.world.now)
    if blocked:
        network.unblock("near", "far")
        network.send(pair.end, b"three ")
        pair.pass_by(SECOND)
        assert pair.far.text == b""
        network.unblock("near", "far")
    else:
        network.send(pair.end, b"three ")
        network.unclog(pair.end)
    network.send(pair.end, b"four")
    pair.pass_by(SECOND)
    assert pair.far.text == b"one two three four"
    assert network.troubled_since(pair.end, since_ns)
    assert not network.troubled_since(pair.end, pair.world.now)


def test_close_is_told_after_what_was_sent_before_and_only_to_the_other_side() -> None:
    pair = Pair()
    pair.network.clog(pair.end)
    pair.network.send(pair.end, b"last words")
    pair.network.close(pair.end)
    pair.network.send(pair.end, b"too late")
    pair.pass_by(SECOND)
    assert pair.far.ended_ns is None
    pair.network.unclog(pair.end)
    pair.pass_by(SECOND)
    assert pair.far.text == b"last words"
    assert pair.far.ended_ns is not None
    assert pair.far.ended_ns > pair.far.got[-1][0]
    assert pair.near.ended_ns is None
    assert pair.network.ends == {}


def test_reset_loses_what_is_under_way_and_tells_both_ends() -> None:
    pair = Pair()
    pair.network.send(pair.end, b"lost")
    pair.network.reset(pair.end)
    pair.pass_by(SECOND)
    assert pair.far.text == b""
    assert pair.near.ended_ns is not None
    assert pair.far.ended_ns is not None


def test_silent_end_is_told_when_its_machine_wakes() -> None:
    pair = Pair()
    pair.network.abandon(pair.end, silent=True)
    pair.pass_by(SECOND)
    assert pair.far.ended_ns is None
    pair.network.wake(pair.end)
    pair.pass_by(SECOND)
    assert pair.far.ended_ns is not None
    assert pair.near.ended_ns is None


def test_dial_into_a_block_fails_after_its_time_and_to_nobody_at_once() -> None:
    pair = Pair()
    told: list[tuple[int, End | None]] = []
    begun_ns = pair.world.now
    pair.network.connect(pair.near, "far", lambda: None, lambda end: told.append((pair.world.now, end)))
    pair.pass_by(SECOND)
    pair.network.block("far", "near")  # what comes back is blocked: that is enough
    pair.network.connect(pair.near, "far", lambda: pair.far, lambda end: told.append((pair.world.now, end)))
    pair.pass_by(3 * SECOND)
    (first_ns, none), (second_ns, nobody) = told
    assert none is nobody is None
    assert first_ns - begun_ns < MS
    assert second_ns == begun_ns + SECOND + DIAL_TIMEOUT_NS
