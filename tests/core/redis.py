"""A redis client's end of a connection to a node of `tests.core.harness`: commands in, decoded answers out."""

from typing import Any

from dynafast._ext.resp import RespConnection
from tests.core.harness import Member
from tests.oracle import resp


class RedisPipe:
    """Drives the core's end as a shell does."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.connection: RespConnection = member.node.accept_redis()
        self.received = b""
        member.ends[self.connection] = self._take

    def _take(self, data: bytes) -> None:
        self.received += data

    def send_raw(self, data: bytes) -> None:
        self.member.cluster.enter(self.member)
        self.connection.feed(data)
        self.member.cluster.pump(self.member)

    def send(self, *words: bytes) -> None:
        self.send_raw(resp.command(*words))

    def answers(self) -> list[Any]:
        """Return the answers that have come, and forget them."""
        found, self.received = resp.answers(self.received)
        return found

    def ask(self, *words: bytes) -> Any:
        """Send one command; run the cluster until its answer is there."""
        self.send(*words)
        return self.wait(1)[0]

    def wait(self, count: int) -> list[Any]:
        """Run the cluster until *count* answers have come; return them."""
        found = self.answers()

        def there() -> bool:
            found.extend(self.answers())
            return len(found) >= count

        if len(found) < count:
            self.member.cluster.run_until(there)
        assert len(found) == count, found
        return found
