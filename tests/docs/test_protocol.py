"""docs/protocol.md says what the code does: byte for byte where it shows bytes, and completely where it lists."""

import re
from typing import Any

import cbor2
import pytest
from xxhash import xxh3_64_digest

from dynafast import limits
from dynafast._ext.clock import Record, open_context, seal_context
from dynafast._ext.codec import FrameReader, frame, loads
from dynafast.protocol import Op
from tests.core.harness import Cluster, Pipe
from tests.docs import document

FRAMES = document.frames()
EXCHANGES = document.exchanges()
CLUSTER, NODE = FRAMES["hello-node"].item[2]["cluster"], FRAMES["hello-node"].item[2]["node"]
NODES = [node["id"] for node in FRAMES["ring-table"].item[2]["nodes"]]
SESSIONS = {
    "client": "hello-client ping get-nothing put get delete get-three ring ring-key",
    "peer": "hello-peer store fetch fetch-same",
}
CODE = re.compile(r"[a-z]+(-[a-z]+)*")


def two_nodes() -> Cluster:
    """Start what the examples show: two nodes, two partitions, two replicas."""
    return Cluster(2, partitions=2, replicas=2)


def translated(item: Any, changes: dict[bytes, bytes]) -> Any:
    """Put the ids and contexts of a real node in the place of the document's."""
    if isinstance(item, list):
        return [translated(each, changes) for each in item]
    if isinstance(item, dict):
        return {key: translated(value, changes) for key, value in item.items()}
    return changes.get(item, item) if isinstance(item, bytes) else item


def assert_shape(real: Any, shown: Any, where: str, *, sized: bool) -> None:
    """The types, the lengths of arrays and the keys of maps are those of the document.

    An array of maps is a list: any number of them, the first like the first shown. *sized*: byte strings are as long as
    shown.
    """
    assert type(real) is type(shown), f"{where}: {real!r} where the document has {shown!r}"
    if isinstance(shown, dict):
        assert real.keys() == shown.keys(), where
        for key, value in shown.items():
            assert_shape(real[key], value, f"{where}.{key}", sized=sized)
    elif isinstance(shown, list) and shown and isinstance(shown[0], dict):
        assert_shape(real[0], shown[0], f"{where}[0]", sized=sized)
    elif isinstance(shown, list):
        assert len(real) == len(shown), where
        for index, value in enumerate(shown):
            assert_shape(real[index], value, f"{where}[{index}]", sized=sized)
    elif isinstance(shown, bytes) and sized:
        assert len(real) == len(shown), where


def answer_to(pipe: Pipe, request: bytes) -> list[Any]:
    """Send a frame and run the cluster until the node has answered."""
    found: list[list[Any]] = []

    def there() -> bool:
        found.extend(pipe.answers())
        return bool(found)

    pipe.send_raw(request)
    pipe.member.cluster.run_until(there)
    (answer,) = found
    return answer


# ---- frames


def test_frames_cover_what_a_client_needs() -> None:
    """The sessions below use every frame of the document but the parts: none is shown and never tested."""
    used = {name for names in SESSIONS.values() for name in names.split()}
    answers = {shown.answer for shown in FRAMES.values()} - {None}
    assert FRAMES.keys() == used | answers | {"part-1", "part-2"}


@pytest.mark.parametrize("name", FRAMES)
def test_frame_read_by_plain_cbor2_is_the_item_printed(name: str) -> None:
    """A reader that knows nothing of dynafast sees what the document prints."""
    shown = FRAMES[name]
    assert int.from_bytes(shown.data[:4], "big") == len(shown.data) - 4
    assert cbor2.loads(shown.data[4:]) == shown.item


@pytest.mark.parametrize("name", FRAMES)
def test_frame_is_what_the_codec_makes(name: str) -> None:
    """The codec encodes the printed item to exactly these bytes, and reads them back, however they are cut."""
    shown = FRAMES[name]
    assert frame(shown.item) == shown.data
    assert loads(shown.data[4:]) == shown.item
    if not name.startswith("part"):
        reader = FrameReader()
        assert [item for byte in shown.data for item in reader.feed(bytes([byte]))] == [shown.item]


def test_parts_join_to_the_message_shown() -> None:
    """The two PART frames are the FOUND frame in two pieces; other messages may come between them."""
    reader = FrameReader()
    assert reader.feed(FRAMES["part-1"].data) == []
    assert reader.feed(FRAMES["pong"].data) == [FRAMES["pong"].item]
    assert reader.feed(FRAMES["part-2"].data) == [FRAMES["found"].item]


@pytest.mark.parametrize("role", SESSIONS)
def test_node_answers_requests_of_document(role: str) -> None:
    """A node takes the requests as they are shown, in that order, and answers with frames of the shape shown.

    Only what no two clusters share is exchanged before: the ids of cluster and node, and the context.
    """
    cluster = two_nodes()
    pipe = Pipe(cluster.members[0])
    changes = {CLUSTER: cluster.facts.cluster, NODE: cluster.members[0].node.own.id}
    for name in SESSIONS[role].split():
        shown = FRAMES[name]
        assert shown.answer is not None
        expected = FRAMES[shown.answer]
        request = translated(shown.item, changes)
        answer = answer_to(pipe, shown.data if request == shown.item else frame(request))
        assert answer[:2] == expected.item[:2], name
        assert_shape(answer, expected.item, name, sized=shown.answer != "ring-place")
        if answer[0] == Op.WRITTEN:
            changes[expected.item[4]] = answer[4]
        if answer[0] == Op.ERROR:
            assert answer[2] == expected.item[2]
            assert answer[4] == expected.item[4]
        if answer[0] == Op.FOUND:
            assert [version[3:] for version in answer[2]] == [version[3:] for version in expected.item[2]]


@pytest.mark.parametrize("name", EXCHANGES)
def test_node_answers_exchanges_of_document(name: str) -> None:
    """Requests that are shown as items only are answered with items of the shape shown."""
    cluster = two_nodes()
    pipe = Pipe(cluster.members[0])
    ids = [member.node.own.id for member in cluster.members]
    changes = {CLUSTER: cluster.facts.cluster, **dict(zip(NODES, ids, strict=True))}
    hello = translated(FRAMES["hello-peer"].item, changes)
    if name == "join":  # only a node that is not yet of the cluster may ask to join
        hello[2] |= {"cluster": None, "to": None}
    answer_to(pipe, frame(hello))
    shown = EXCHANGES[name]
    answer = answer_to(pipe, frame(translated(shown.request, changes)))
    assert answer[:2] == shown.answer[:2]
    assert_shape(answer, shown.answer, name, sized=False)


# ---- rules with numbers in them


def test_positions_are_the_hash_and_the_ring_agrees() -> None:
    """The document's positions are XXH3, and a node's partition of "cart" is the one computed from it."""
    positions = document.vectors("position")
    assert all(xxh3_64_digest(key) == position for key, position in positions)
    place = FRAMES["ring-place"].item[2]
    assert dict(positions)[b"cart"] == place["position"].to_bytes(8, "big")
    assert place["partition"] == place["position"] >> 63
    assert two_nodes().client(0).ask(Op.RING, b"cart")[2]["position"] == place["position"]


def test_table_of_ring_holds_rows_of_replicas() -> None:
    """Row p of the table is N big-endian numbers of 16 bits, and names the nodes that "cart" prefers in order."""
    ring, place = FRAMES["ring-table"].item[2], FRAMES["ring-place"].item[2]
    width = 2 * ring["replicas"]
    assert len(ring["table"]) == width * ring["partitions"]
    row = ring["table"][width * place["partition"] : width * (place["partition"] + 1)]
    indexes = [int.from_bytes(row[i : i + 2], "big") for i in range(0, width, 2)]
    assert [ring["nodes"][index]["name"] for index in indexes] == place["preference"]


def test_context_is_sealed_as_described() -> None:
    """The context of the examples is what part two describes, and what the code makes and opens."""
    ((cluster,), (key,), (entries,), (context,)) = document.vectors("context")
    assert (cluster, context) == (CLUSTER, FRAMES["found"].item[3])
    assert seal_context(entries, key, cluster) == context
    assert [list(entry) for entry in open_context(context, key, cluster)] == entries


def test_digest_of_record_is_as_described() -> None:
    """The digest that FETCH shows is the hash that part two defines, of the record that STORE shows."""
    context, versions = FRAMES["store"].item[6]
    counted = len(context).to_bytes(8, "big")
    dots = [n.to_bytes(8, "big") for row in [*context, *versions] for n in row[:2]]
    digest = FRAMES["fetch-same"].item[3]
    assert digest.to_bytes(8, "big") == xxh3_64_digest(counted + b"".join(dots))
    assert Record(context, versions).digest() == digest


def test_limits_are_those_of_the_package() -> None:
    """The table of limits has the numbers that the code goes by."""
    rows = document.table("limit |")
    assert {name: int(value) for name, value, _ in rows} == {name: getattr(limits, name) for name, _, _ in rows}
    assert {name for name in dir(limits) if name.isupper()} - {name for name, _, _ in rows} == {"WIRE_VERSION"}
    assert f"version {limits.WIRE_VERSION}\n" in document.TEXT.partition("\n")[0] + "\n"


# ---- lists that must be complete


def test_operations_of_document_are_those_of_the_code() -> None:
    """Every operation is in the table with its number, and each row's message begins with it."""
    rows = document.table("op |")
    assert {name: int(number) for number, name, *_ in rows} == {op.name: op.value for op in Op}
    assert all(message.startswith(f"`[{number}, ") for number, _, _, message, _ in rows)


def calls(source: str) -> list[str]:
    """Return the arguments of every call in *source* that names an error code."""
    found = []
    for match in re.finditer(r"\b(?:refuse|fail|_reject)\(", source):
        depth, end = 1, match.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(source[end], 0)
            end += 1
        found.append(source[match.end() : end])
    return found


def codes_in(source: str) -> set[str]:
    """Return the error codes that a source file names: in ``code="..."``, and as arguments of refusals."""
    found = set(re.findall(r"\bcode(?:: str)? ?= ?\"([^\"]+)\"", source))
    for arguments in calls(source):
        texts = re.findall(r"\"([^\"]*)\"(?!\s*:)", arguments)
        found |= {text for text in texts if CODE.fullmatch(text)}
    return found


def test_error_codes_of_document_are_those_of_the_code() -> None:
    """Every code that a source file names is in the table, and the table has no other."""
    sources = [*(document.ROOT / "dynafast").rglob("*.py"), *(document.ROOT / "_ext").glob("*.pyx")]
    found = set().union(*(codes_in(path.read_text(encoding="utf-8")) for path in sources))
    assert found == {code for code, *_ in document.table("code |")}


def test_outcome_of_put_is_unknown_for_two_codes_only() -> None:
    """What the client relies on when it asks another node: the document promises it for exactly these."""
    outcomes = {code: outcome for code, _, _, outcome in document.table("code |")}
    assert {code for code, outcome in outcomes.items() if outcome == "**unknown**"} == {"timeout", "uncertain"}
    assert set(outcomes.values()) == {"nothing", "**unknown**"}
