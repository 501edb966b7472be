"""Random changes of the members, crashes and clogged links under writes: no seat ever has two owners.

Afterwards every acknowledged write is in two seats, and every seat where it belongs.
"""

import random

import pytest

from dynafast.protocol import Op, Status
from tests.core.harness import Cluster, Member, Pipe
from tests.core.load import Load, at_rest, check_nothing_left_over, check_nothing_lost, check_one_owner, present


class Storm:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"{seed}/storm")
        self.cluster = Cluster(self.rng.choice((3, 4, 5)), seed=seed)
        self.load = Load(self.cluster)
        self.load.fill(self.rng.choice((0, 50, 200)))
        self.held: list[tuple[Member, Member]] = []
        self.done: list[str] = []

    def run(self, turns: int) -> None:
        for turn in range(turns):
            live = [member for member in present(self.cluster) if member.node.own.status is Status.UP]
            if live and self.rng.random() < 0.7:
                self.load.put(self.rng.choice(live))
            self.cluster.step()
            check_one_owner(self.cluster)
            if turn % 20 == 19:
                self._shake()
        for near, far in self.held:
            self.cluster.release(near, far)
        for member in self.cluster.members:
            if not member.up and member.node.ended is None:
                self.cluster.restart(member)

    def _settled(self) -> bool:
        """Whether a node that is lost now is the only one whose seats are."""
        return all(
            not node.seats.lost and not node.seats.moving and not node.given
            for node in (member.node for member in present(self.cluster))
        )

    def _shake(self) -> None:
        cluster, rng = self.cluster, self.rng
        up = present(cluster)
        down = [member for member in cluster.members if not member.up and member.node.ended is None]
        what = rng.choice(
            (
                "remove",
                "remove",
                "replace",
                "join",
                "leave",
                "weight",
                "crash",
                "crash",
                "restart",
                "restart",
                "hold",
                "release",
                "kill",
            )
        )
        if what == "join" and up and len(up) + len(down) < 7:
            cluster.add(f"x{len(cluster.members)}")
        elif what in ("leave", "weight") and up:
            fields = [rng.choice(up).name] + ([rng.randint(1, 3)] if what == "weight" else [])
            pipe = Pipe(rng.choice(up))
            pipe.hello()
            pipe.send([Op.LEAVE if what == "leave" else Op.WEIGHT, 1, *fields])
        elif what in ("crash", "kill") and len(down) < 1 and len(up) > 2:
            victim = rng.choice(up)
            (cluster.crash if what == "crash" else cluster.kill)(victim)
        elif what in ("remove", "replace") and down and up and self._settled():
            pipe = Pipe(rng.choice(up))
            if what == "remove":
                pipe.hello()
                pipe.send([Op.REMOVE, 1, down[0].name, False])
            else:
                pipe.hello(role="peer", node=b"%08d" % len(cluster.members), cluster=None, to=None, generation=1)
                name = down[0].name
                fields = {"node": b"%08d" % len(self.cluster.members), "name": name, "hash": "xxh3-64"}
                answer = pipe.ask(Op.JOIN, {**fields, "replace": name})
                if answer[0] == Op.OK:
                    cluster.add(name, id=fields["node"], told=answer[2]["entries"])
        elif what == "restart" and down:
            cluster.restart(down[0])
        elif what == "hold" and len(up) > 1 and len(self.held) < 2:
            pair = tuple(rng.sample(up, 2))
            cluster.hold(*pair)
            self.held.append((pair[0], pair[1]))
        elif what == "release" and self.held:
            cluster.release(*self.held.pop())
        else:
            return
        self.done.append(what)


@pytest.mark.parametrize("seed", range(25))
def test_a_storm_of_changes_loses_nothing(seed: int) -> None:
    storm = Storm(seed)
    storm.run(600)
    cluster = storm.cluster
    cluster.run_until(lambda: at_rest(cluster), limit_ms=120_000)
    storm.load.collect()
    check_one_owner(cluster)
    check_nothing_lost(cluster, storm.load, copies=2)
    check_nothing_left_over(cluster)
