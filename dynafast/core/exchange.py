"""Answers peers that compare, read and give records of whole partitions: for anti-entropy, hand-over, drops and hints.

Rules that this file owns:

* What is said to be here is on disk: others delete, or count a seat, on the strength of it. So answers about content
  (ROOTS, TREE, KEYS) and about what was merged (MERGE, HINT) leave after a flush that covers them.
* A partition that is not kept here (mode NONE) is not answered for: ``no-seat``.
* A record that cannot be read is neither there nor absent: ``false`` in an answer to READ.
* Frames with records carry a round number; one lower than ours is refused (``stale-round``).
"""

from typing import TYPE_CHECKING, Any

from dynafast._ext.clock import Record
from dynafast._ext.replica import MODE_NONE, MODE_PULLED, MODE_SEATED
from dynafast.core.admission import BYTES_MAX
from dynafast.core.machine import Machine, Ops
from dynafast.core.membership import is_node_id
from dynafast.errors import CorruptRecordError, HintsFullError, PeerProtocolError, RefusedError, StoreError
from dynafast.protocol import Op, is_uint

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynafast._ext.connection import Connection

PARTITIONS_MAX = 1024  # in one ROOTS
KEYS_MAX = 1000  # in one answer to KEYS
RECORDS_MAX = 256  # in one message


class Exchange(Machine):
    """The answering side of everything that moves records in bulk."""

    def ops(self) -> Ops:
        """Return the requests this machine answers."""
        return {
            Op.ROOTS: (1, self._roots),
            Op.TREE: (4, self._tree),
            Op.KEYS: (4, self._keys),
            Op.READ: (None, self._read),
            Op.MERGE: (3, self._merge),
            Op.HINT: (2, self._hint),
        }

    def _after_flush(self, done: "Callable[[], None]") -> None:
        if self.node.store.unsynced_bytes:
            self.node.after_flush(done)
        else:
            done()

    def _roots(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        """ROOTS [partitions] -> [[root or null, seats served as bits], ...]."""
        match fields:
            case [[*partitions]] if len(partitions) <= PARTITIONS_MAX and all(map(self._is_partition, partitions)):
                pass
            case _:
                raise PeerProtocolError(f"ROOTS must list at most {PARTITIONS_MAX} partitions")
        node = self.node
        rows = [[node.replica.root(partition), node.coordinator.view.own[partition]] for partition in partitions]
        self._after_flush(lambda: connection.reply(id, rows))

    def _tree(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        """TREE [partition, depth, first, count] -> hashes, or null while the tree is not ready."""
        if len(fields) != 4 or not all(map(is_uint, fields)) or not self._is_partition(fields[0]):
            raise PeerProtocolError("TREE must be [partition, depth, first, count]")
        self._check_kept(fields[0])
        try:
            hashes = self.node.replica.level(*fields)
        except ValueError as error:
            raise PeerProtocolError(str(error)) from error
        self._after_flush(lambda: connection.reply(id, hashes))

    def _keys(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        """KEYS [partition, leaf or null, after or null, limit] -> [round, [[object key, digest], ...], done]."""
        match fields:
            case [partition, leaf, after, limit] if (
                self._is_partition(partition)
                and (leaf is None or (is_uint(leaf) and leaf < 256))
                and (after is None or isinstance(after, bytes))
                and is_uint(limit)
                and limit > 0
            ):
                pass
            case _:
                raise PeerProtocolError("KEYS must be [partition, leaf or null, after or null, limit]")
        self._check_kept(partition)
        replica = self.node.replica
        found, over = replica.keys(partition, leaf, after or b"", min(limit, KEYS_MAX))
        answer = [replica.round, [list(item) for item in found], over]
        self._after_flush(lambda: connection.reply(id, answer))

    def _read(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        """READ [partition, object keys(, round)] -> [round, [record, null or false, ...]], perhaps of the first keys.

        A *round* above ours is taken over first: what is read then is as new as the asker wants it.
        """
        replica = self.node.replica
        match fields:
            case [partition, [*keys]] | [partition, [*keys], _] if (
                self._is_partition(partition)
                and 0 < len(keys) <= RECORDS_MAX
                and all(self._is_key(partition, key) for key in keys)
                and all(map(is_uint, fields[2:]))
            ):
                pass
            case _:
                raise PeerProtocolError("READ must be [partition, object keys], perhaps with a round")
        self._check_kept(partition)
        if len(fields) == 3 and fields[2] > replica.round:
            self.node.follow_round(fields[2])
            self.node.after_flush(lambda: self._reply_later(connection, id, keys))
        else:
            connection.reply(id, self._records(keys))

    def _reply_later(self, connection: "Connection", id: int, keys: list[bytes]) -> None:
        try:
            connection.reply(id, self._records(keys))
        except StoreError as error:  # nobody above would answer it: the request is over for them
            connection.fail(id, "store-error", str(error))

    def _records(self, keys: list[bytes]) -> list[object]:
        replica = self.node.replica
        records: list[bytes | bool | None] = []
        size = 0
        for key in keys:
            try:
                record = replica.read(key)
            except CorruptRecordError:
                records.append(False)
                continue
            data = None if record is None else record.encode()
            if data is not None and records and size + len(data) > BYTES_MAX:
                break
            records.append(data)
            size += len(data or b"")
        return [replica.round, records]

    def _merge(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        """MERGE [partition, round, [[object key, record], ...]] -> [digest of the outcome or null, ...].

        Null is said of what is not kept in a seat: a target that still pulls takes it, but does not stand for it.
        """
        match fields:
            case [partition, round, [*items]] if self._is_partition(partition) and is_uint(round):
                records = [(key, record) for key, record in map(self._item, items)]
            case _:
                raise PeerProtocolError("MERGE must be [partition, round, [[object key, record], ...]]")
        if len(items) > RECORDS_MAX or not all(self._is_key(partition, key) for key, _ in records):
            raise PeerProtocolError(f"MERGE must carry at most {RECORDS_MAX} records, all of the partition")
        self._check_round(round)
        mode = self.node.replica.mode(partition)
        if mode not in (MODE_SEATED, MODE_PULLED):
            raise RefusedError("this node serves no seat of the partition", code="no-seat")
        merged: list[int | None] = []
        for key, record in records:
            try:
                if self.node.rounds.reaped(connection.peer, key, record):
                    digest = record.digest()
                else:
                    digest = self.node.replica.merge(key, record).digest()
            except CorruptRecordError:
                merged.append(record.digest() if self.node.healing.offer(key, record) else None)
            else:
                merged.append(digest if mode == MODE_SEATED else None)
        if "confirm-before-flush" in self.node.plants:
            connection.reply(id, merged)
        else:
            self._after_flush(lambda: connection.reply(id, merged))

    def _hint(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        """HINT [round, [[target, object key, record], ...]] -> [digest of what is kept for it now or null, ...].

        From a node that leaves: what it keeps for others is kept here from now on.
        """
        match fields:
            case [round, [*items]] if is_uint(round) and len(items) <= RECORDS_MAX:
                pass
            case _:
                raise PeerProtocolError(f"HINT must be [round, at most {RECORDS_MAX} items]")
        rows = []
        for item in items:
            match item:
                case [target, *rest] if is_node_id(target):
                    rows.append((target, *self._item(rest)))
                case _:
                    raise PeerProtocolError("HINT must carry [target, object key, record]")
        self._check_round(round)
        kept = [self._keep(target, key, record) for target, key, record in rows]
        self._after_flush(lambda: connection.reply(id, kept))

    def _keep(self, target: bytes, key: bytes, record: Record) -> int | None:
        replica = self.node.replica
        try:
            if target != self.node.own.id:
                return replica.merge(key, record, target).digest()
            if replica.mode(self.node.partition_of(key)) == MODE_SEATED:
                return replica.merge(key, record).digest()
        except (CorruptRecordError, HintsFullError):
            pass
        return None

    # ---- what peers send, checked

    def _is_partition(self, number: object) -> bool:
        return is_uint(number) and number < self.node.facts.partitions

    def _is_key(self, partition: int, key: object) -> bool:
        return isinstance(key, bytes) and len(key) > 8 and self.node.partition_of(key) == partition

    def _item(self, item: object) -> tuple[bytes, Record]:
        match item:
            case [bytes(key), bytes(data)] if len(key) > 8:
                try:
                    return key, Record.decode(data)
                except ValueError as error:
                    raise PeerProtocolError(f"a record that cannot be read: {error}") from error
        raise PeerProtocolError("a record must travel as [object key, record]")

    def _check_kept(self, partition: int) -> None:
        if self.node.replica.mode(partition) == MODE_NONE:
            raise RefusedError("this node keeps nothing of the partition", code="no-seat")

    def _check_round(self, number: int) -> None:
        ours = self.node.replica.round
        if number < ours and "late-frame" not in self.node.plants:
            raise RefusedError(
                f"records of round {number}: this node is in round {ours}", {"round": ours}, code="stale-round"
            )
