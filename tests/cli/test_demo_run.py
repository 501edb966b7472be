"""The demo notices what it is there to notice; the cluster is a dictionary here."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from dynafast.cli.corpus import Corpus, collect
from dynafast.cli.demo_run import IN_FLIGHT, IN_FLIGHT_AT_KILL, Run, Stage
from dynafast.client.results import GetResult, Receipt, Version
from dynafast.errors import UnavailableError

RECEIPT = Receipt(needed=2, replicas=2, primaries=2, fallbacks=0, synced=2, sloppy=False, forwarded=False)


class DictClient:
    """Keeps values in a dictionary; each request waits for one turn of the loop."""

    def __init__(self) -> None:
        self.values: dict[bytes, list[bytes]] = {}
        self.in_flight = 0
        self.in_flight_max = 0
        self.refused: set[tuple[str, bytes]] = set()

    async def _turn(self, verb: str, key: bytes) -> None:
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self.in_flight -= 1
        if (verb, key) in self.refused:
            raise UnavailableError("needed 2, reachable 1")

    async def put(self, key: bytes, value: bytes) -> None:
        await self._turn("put", key)
        self.values[key] = [value]

    async def get(self, key: bytes) -> GetResult:
        await self._turn("get", key)
        versions = tuple(Version(1, n, 0, bytes(16), value) for n, value in enumerate(self.values.get(key, []), 1))
        return GetResult(versions=versions, context=b"c", receipt=RECEIPT)


class Watched:
    """Notes what is to happen to the cluster, and how far the run was."""

    def __init__(self, client: DictClient) -> None:
        self._client = client
        self.seen: list[tuple[str, int, int]] = []  # what, keys there, requests in flight
        self.told: list[int] = []

    def _note(self, what: str) -> None:
        self.seen.append((what, len(self._client.values), self._client.in_flight))

    def grow(self) -> None:
        self._note("grow")

    def kill(self, in_flight: int) -> None:
        self._note("kill")
        self.told.append(in_flight)

    def restart(self) -> None:
        self._note("restart")

    async def shrink(self) -> None:
        self._note("shrink")


class Listener:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.steps: Counter[str] = Counter()
        self.totals: dict[str, int] = {}

    def say(self, text: str) -> None:
        self.steps[text] += 1

    def start(self, label: str, total: int) -> None:
        self.label, self.totals[label] = label, total

    def advance(self) -> None:
        self.steps[self.label] += 1


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    for number in range(100):
        (tmp_path / f"{number:03}").write_bytes(b"%d" % number * number)
    return collect(tmp_path)


def _run(
    corpus: Corpus,
    client: DictClient,
    *,
    changes: Watched | None = None,
    read_file: Callable[[Path], bytes] = Path.read_bytes,
) -> Run:
    run = Run(corpus, changes=changes or Watched(client), read_file=read_file, teller=Listener())

    async def main() -> None:
        await run.run(client)
        await run.read_again(client)

    trio.run(main)
    return run


def test_run_without_faults_stores_and_finds_every_file(corpus: Corpus) -> None:
    client = DictClient()
    run = _run(corpus, client)
    assert run.outcome.ok
    assert run.outcome.line() == f"demo: ok files=100 bytes={corpus.size} failed=0 mismatches=0"
    assert {key: values[0] for key, values in client.values.items()} == {
        item.key: item.path.read_bytes() for item in corpus.items
    }
    assert [(stage.name, len(stage.latencies), stage.size) for stage in run.stages] == [
        ("put", 100, corpus.size),
        ("get", 100, corpus.size),
        ("get again", 100, corpus.size),
    ]
    assert client.in_flight_max == IN_FLIGHT


def test_run_changes_the_cluster_under_load(corpus: Corpus) -> None:
    """In order, once each; the kill with requests in flight."""
    client = DictClient()
    changes = Watched(client)
    _run(corpus, client, changes=changes)
    (grow, kill, restart, shrink) = changes.seen
    assert [what for what, _, _ in changes.seen] == ["grow", "kill", "restart", "shrink"]
    assert 25 <= grow[1] <= 25 + IN_FLIGHT
    assert 50 <= kill[1] <= 50 + IN_FLIGHT
    assert kill[2] >= IN_FLIGHT_AT_KILL
    assert changes.told[0] >= IN_FLIGHT_AT_KILL
    assert restart[1:] == (100, 0)
    assert shrink[1] == 100


@pytest.mark.parametrize("count", [1, 2, 15, 33])
def test_run_does_each_change_once_however_few_the_files(tmp_path: Path, count: int) -> None:
    for number in range(count):
        (tmp_path / str(number)).write_bytes(b"x")
    client = DictClient()
    changes = Watched(client)
    assert _run(collect(tmp_path), client, changes=changes).outcome.ok
    assert [what for what, _, _ in changes.seen] == ["grow", "kill", "restart", "shrink"]


@pytest.mark.parametrize(("verb", "files"), [("put", 99), ("get", 100)])
def test_run_one_refused_request_fails(corpus: Corpus, verb: str, files: int) -> None:
    client = DictClient()
    client.refused.add((verb, b"042"))
    outcome = _run(corpus, client).outcome
    assert not outcome.ok
    assert outcome.failed == [f"{verb} 042: needed 2, reachable 1"]
    assert outcome.line().startswith(f"demo: failed files={files} ")
    assert outcome.line().endswith("failed=1 mismatches=0")


def test_run_one_altered_byte_in_the_cluster_fails(corpus: Corpus) -> None:
    class Altering(DictClient):
        async def put(self, key: bytes, value: bytes) -> None:
            await super().put(key, value[:-1] + bytes([value[-1] ^ 1]) if key == b"042" else value)

    outcome = _run(corpus, Altering()).outcome
    assert not outcome.ok
    assert outcome.mismatches == ["042: 84 bytes were stored, the cluster has [84]"]
    assert outcome.line().endswith("failed=0 mismatches=1")


def test_run_one_altered_byte_in_a_file_fails(corpus: Corpus) -> None:
    reads: Counter[Path] = Counter()

    def read_file(path: Path) -> bytes:
        reads[path] += 1
        data = path.read_bytes()
        return b"?" + data[1:] if path.name == "007" and reads[path] == 2 else data

    assert _run(corpus, DictClient(), read_file=read_file).outcome.mismatches == [
        "007: 7 bytes were stored, the cluster has [7]"
    ]


@pytest.mark.parametrize(("values", "shown"), [([], "nothing"), ([b"1", b"1"], "[1, 1]")])
def test_run_lost_or_doubled_value_is_a_mismatch(corpus: Corpus, values: list[bytes], shown: str) -> None:
    class Changing(DictClient):
        async def get(self, key: bytes) -> GetResult:
            self.values[b"001"] = values
            return await super().get(key)

    assert _run(corpus, Changing()).outcome.mismatches == [f"001: 1 bytes were stored, the cluster has {shown}"]


def test_run_file_that_vanishes_is_a_failure(corpus: Corpus) -> None:
    corpus.items[3].path.unlink()
    (failure,) = _run(corpus, DictClient()).outcome.failed
    assert failure.startswith("put 003: ")


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(0, 0.5, 0), (1, 0.999, 1), (100, 0.5, 50), (100, 0.99, 99), (100, 0.999, 100), (1000, 0.999, 999)],
)
def test_quantile_is_the_least_latency_that_enough_requests_met(count: int, share: float, expected: int) -> None:
    assert Stage("put", latencies=[float(n) for n in range(count, 0, -1)]).quantile(share) == expected
