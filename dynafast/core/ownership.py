"""Who should hold what: a pure function from the members of a cluster to the preference list of every partition.

Every node that knows the same members computes the same lists, whatever the order it heard of them: there is no
leader and nothing to agree on. Source: Dynamo (SOSP 2007), section 6.2, strategy 3 (equal partitions); strategies 1
and 2 are here for the study of figure 8.

What `place` holds to, in this order:

1. the first N places of a list are on distinct hosts, and each place falls to an existing member;
2. zones are as distinct as the loads below allow: always, when no zone weighs more than one replica per partition;
3. each member holds its share of the replicas by weight, within the tolerances of `_bounds`, of distinct zones and of
   chance (`_eased`), at most 8 % over all together;
4. each member is first in its share of the lists by weight, rounded down or up, or at worst one away from it;
5. a change of members moves little more than it must: the tolerance of rule 3 is what pays for that.

The work goes down a tree: partitions choose zones, then hosts in the zone, then nodes on the host, each time by
`dynafast._ext.placement.spread`. All numbers are integers or fractions until they are ranked there.

May not: know how members are found, which of them answer, or who serves a partition today.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, isqrt

from xxhash import xxh3_64_intdigest

from dynafast._ext.placement import Ranks, arrange, spread
from dynafast._ext.ring import Ring, equal_tokens
from dynafast.errors import ConfigError, InvariantViolation
from dynafast.limits import REPLICAS_MAX_COUNT

_STRETCH = Fraction(106, 100)  # most that a share grows, for the sake of distinct zones
_CHANCE = Fraction(1, 20)  # most of a zone's share that is left to chance, so that a join moves less
_LOAD_MAX = Fraction(108, 100)  # most load over fair load, all tolerances together


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A node as ownership sees it.

    Attributes:
        id: the node's id, unique among the members.
        weight: its capacity, an integer of at least 1; only ratios matter.
        zone: what fails together: members of one zone are kept apart as far as possible.
        host: the machine; members with equal labels count as one host.
    """

    id: bytes
    weight: int
    zone: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The preference lists of all partitions.

    Attributes:
        members: sorted by id.
        ring: one token per partition; its rows are indexes into `members`, one for every host, the targets first.
        warnings: what the weights, zones and hosts did not allow, a sentence each.
    """

    members: tuple[Member, ...]
    ring: Ring
    warnings: tuple[str, ...]


def place(members: Collection[Member], *, partitions: int, replicas: int) -> Placement:
    """Return the preference lists of *partitions* equal partitions with *replicas* targets each.

    With fewer hosts than replicas every partition has as many targets as there are hosts.

    Args:
        members: in any order, at least one.
        partitions: a power of two in 1..65536.
        replicas: N, in 1..8.

    Raises:
        ConfigError: an argument is out of range, or two members have one id.
        InvariantViolation: a bug: the lists do not hold to the rules above.

    Cost: O(partitions * members * log(partitions * members)); 1024 * 16 take some milliseconds.
    """
    ordered = _checked(members, partitions, replicas)
    warnings: list[str] = []
    hosts = _hosts(ordered, warnings)
    targets = min(replicas, len(hosts))
    if targets < replicas:
        warnings.append(f"{len(hosts)} hosts for {replicas} replicas: every partition has {targets}")
    fair = _fair_shares(hosts, targets, warnings)
    shares = _zone_shares(hosts, fair, targets, warnings)
    for last in (False, True):
        # Tolerance can leave small members fewer replicas than first places: then all is done again without it.
        tree = _tree(ordered, hosts, shares, fair, partitions=partitions, exact=last or targets == 1)
        choices = bytearray(partitions * len(ordered))
        _fill(bytes([targets]) * partitions, tree, choices, len(ordered))
        nodes, cells = sorted(_leaves(tree), key=lambda part: part.node), bytes(choices)
        firsts, fair_enough = _firsts(ordered, [node.ranks for node in nodes], cells, off=1 if last else 0)
        if fair_enough:
            break
    else:
        warnings.append("the first places could not be shared out by weight, give or take one")
    host_of, zone_of = _labels(ordered, hosts)
    loads = [float(node.share) for node in nodes]
    rows = arrange(firsts, cells, ranks=[node.ranks for node in nodes], shares=loads, hosts=host_of, zones=zone_of)
    return Placement(members=ordered, ring=Ring(equal_tokens(partitions), rows), warnings=tuple(warnings))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Host:
    label: str
    zone: str
    weight: int
    nodes: tuple[int, ...]  # indexes into the ordered members


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A zone, a host or a node: how many replicas it should hold, at least and at most, and what it consists of."""

    ranks: Ranks
    share: Fraction
    least: int
    most: int
    parts: tuple["_Part", ...] = ()
    node: int = -1


def _checked(members: Collection[Member], partitions: int, replicas: int) -> tuple[Member, ...]:
    if not 1 <= partitions <= 65_536 or partitions & (partitions - 1):
        raise ConfigError(f"partitions must be a power of two in 1..65536, got {partitions}")
    if not 1 <= replicas <= REPLICAS_MAX_COUNT:
        raise ConfigError(f"replicas must be in 1..{REPLICAS_MAX_COUNT}, got {replicas}")
    if not members:
        raise ConfigError("members must be at least one, got none")
    ordered = tuple(sorted(members, key=lambda member: member.id))
    for before, member in zip((None, *ordered), ordered, strict=False):
        if before is not None and before.id == member.id:
            raise ConfigError(f"ids of members must differ, got {member.id.hex()} twice")
        if member.weight < 1:
            raise ConfigError(f"weight of {member.id.hex()} must be at least 1, got {member.weight}")
    return ordered


def _hosts(ordered: Sequence[Member], warnings: list[str]) -> list[_Host]:
    """Return the hosts by label; a host is in the zone of its first node."""
    nodes: dict[str, list[int]] = {}
    for index, member in enumerate(ordered):
        nodes.setdefault(member.host, []).append(index)
    hosts = []
    for label in sorted(nodes):
        of_host = [ordered[index] for index in nodes[label]]
        zones = {member.zone for member in of_host}
        if len(zones) > 1:
            warnings.append(f"host {label} has nodes in zones {', '.join(sorted(zones))}: taken as {of_host[0].zone}")
        weight = sum(member.weight for member in of_host)
        hosts.append(_Host(label=label, zone=of_host[0].zone, weight=weight, nodes=tuple(nodes[label])))
    return hosts


def _fair_shares(hosts: Sequence[_Host], targets: int, warnings: list[str]) -> list[Fraction]:
    """Return each host's replicas per partition, by weight; at most one each, what is over going to the others."""
    shares = [Fraction(0)] * len(hosts)
    left, weight = targets, sum(host.weight for host in hosts)
    whole = weight
    for index in sorted(range(len(hosts)), key=lambda i: -hosts[i].weight):
        host = hosts[index]
        shares[index] = min(Fraction(1), Fraction(left * host.weight, weight))
        if targets * host.weight > whole:
            wanted = targets * host.weight / whole
            warnings.append(f"host {host.label} weighs {wanted:.2f} replicas of every partition: it can hold one")
        if shares[index] == 1:
            left -= 1
            weight -= host.weight
    return shares


def _zone_shares(hosts: Sequence[_Host], fair: Sequence[Fraction], targets: int, warnings: list[str]) -> list[Fraction]:
    """Return *fair* with shares moved from zones above one replica per partition to zones below, within bounds."""
    totals: dict[str, Fraction] = {}
    for host, share in zip(hosts, fair, strict=True):
        totals[host.zone] = totals.get(host.zone, Fraction(0)) + share
    growth = [
        min(Fraction(1), share * _STRETCH) - share if totals[host.zone] < 1 else Fraction(0)
        for host, share in zip(hosts, fair, strict=True)
    ]
    room = dict.fromkeys(totals, Fraction(0))
    for host, more in zip(hosts, growth, strict=True):
        room[host.zone] += more
    # A host at its limit is short of replicas already; the others of a heavy zone give up to half of theirs.
    spare = dict.fromkeys(totals, Fraction(0))
    for host, share in zip(hosts, fair, strict=True):
        spare[host.zone] += share if share < 1 else 0
    taking = {zone: min(room[zone], max(Fraction(0), 1 - totals[zone])) for zone in totals}
    giving = {zone: min(spare[zone] / 2, max(Fraction(0), totals[zone] - 1)) for zone in totals}
    taken, given = sum(taking.values(), Fraction(0)), sum(giving.values(), Fraction(0))
    moved = min(taken, given)
    _warn_of_zones(totals, targets, moved, warnings)
    if not moved:
        return _eased(hosts, fair, totals, targets)
    shares = []
    for host, share, more in zip(hosts, fair, growth, strict=True):
        if giving[host.zone] and share < 1:
            share -= share * giving[host.zone] / spare[host.zone] * moved / given
        elif more:
            share += more * taking[host.zone] / room[host.zone] * moved / taken
        shares.append(share)
    return shares


def _eased(
    hosts: Sequence[_Host], shares: Sequence[Fraction], totals: dict[str, Fraction], targets: int
) -> list[Fraction]:
    """Return *shares* with the zones below one replica per partition a little nearer to what chance would give them.

    A partition takes one host of such a zone, so its hosts get into each other's way, the more the heavier the zone.
    By chance it would be in ``1 - exp(-rate * total)`` of the partitions. To hold its exact share instead, all its
    hosts must reach further whenever the zone grows, for rows that the newcomer does not get. Up to 5 % of the share is
    left to chance (less if few hosts make up the zone): a join then moves up to a fifth less.
    """
    low, high = dict(totals), dict(totals)
    for zone, total in totals.items():
        if total < 1:
            parts = sum(share * share for host, share in zip(hosts, shares, strict=True) if host.zone == zone)
            tolerance = total * (1 - parts / total**2) * _CHANCE
            low[zone] = total - min(tolerance, (1 - total) / 2)
            high[zone] = total + min(tolerance, 1 - total)
    if low == high or targets == 1:  # a lone replica comes first too, and first places are exact
        return list(shares)

    def reached(rate: int) -> dict[str, Fraction]:
        by_chance = {zone: 1 - _missed(rate * total) for zone, total in totals.items()}
        return {zone: min(high[zone], max(low[zone], share)) for zone, share in by_chance.items()}

    slow, fast = 0, 64 << 32  # rates in units of 2**-32
    while fast - slow > 1:
        rate = (slow + fast) // 2
        if sum(reached(rate).values()) < targets:
            slow = rate
        else:
            fast = rate
    eased = reached(slow)
    left = targets - sum(eased.values())
    for zone in sorted(eased):
        more = min(left, high[zone] - eased[zone])
        eased[zone] += more
        left -= more
    return [share * eased[host.zone] / totals[host.zone] for host, share in zip(hosts, shares, strict=True)]


def _missed(rate: Fraction) -> Fraction:
    """Return exp(-rate / 2**32), near enough, and the same on every machine; the rate is at most 2**38 or so."""
    one = 1 << 60
    left = one - floor(rate * (1 << 12))  # 1 - x / 2**16, in units of 2**-60
    for _ in range(16):
        left = left * left >> 60
    return Fraction(left, one)


def _warn_of_zones(totals: dict[str, Fraction], targets: int, moved: Fraction, warnings: list[str]) -> None:
    if len(totals) == 1:
        return  # zones are not in use
    if len(totals) < targets:
        warnings.append(f"{len(totals)} zones for {targets} replicas: some zones hold several replicas of a partition")
    distinct = sum((min(total, Fraction(1)) for total in totals.values()), Fraction(0)) + moved
    if distinct < min(len(totals), targets):
        heavy = max(sorted(totals), key=lambda zone: totals[zone])
        warnings.append(
            f"zone {heavy} is too heavy for the others: by weight {float(totals[heavy]):.2f} replicas of every "
            f"partition fall to it, and a partition's replicas are in {float(distinct):.2f} zones on average"
        )


def _tree(
    ordered: Sequence[Member],
    hosts: Sequence[_Host],
    shares: Sequence[Fraction],
    fair: Sequence[Fraction],
    *,
    partitions: int,
    exact: bool,
) -> list[_Part]:
    """Return the zones by name; within them hosts, within these nodes. Whatever has one part only is that part."""
    zones: dict[str, list[_Part]] = {host.zone: [] for host in sorted(hosts, key=lambda host: host.zone)}
    for host, share, due in zip(hosts, shares, fair, strict=True):
        nodes = []
        for node in host.nodes:
            part = Fraction(ordered[node].weight * partitions, host.weight)
            least, most = _bounds(share * part, partitions, exact=exact)
            most = max(ceil(share * part), min(most, floor(due * part * _LOAD_MAX)))
            ranks = Ranks(xxh3_64_intdigest(ordered[node].id), partitions)
            nodes.append(_Part(ranks=ranks, share=share * part, least=least, most=most, node=node))
        zones[host.zone].append(_group(nodes, partitions, exact=exact))
    return [_group(parts, partitions, exact=exact) for parts in zones.values()]


def _bounds(share: Fraction, partitions: int, *, exact: bool) -> tuple[int, int]:
    """Return the least and the most replicas for a share of them.

    The tolerance is 0.65 of the scatter of a random choice, so that most members need no correction, but not under
    3.75 % (two nodes then differ by less than 8 % from what their weights say) and not over 7.5 %. A share between k
    and k+1 replicas of every partition means k or k+1 of each. The share rounded down and rounded up is always within
    the bounds, so that a choice within all bounds always exists.
    """
    scatter = Fraction(isqrt(10_000 * floor(share)), 100)
    slack = max(share * 3 / 80, min(share * 3 / 40, scatter * 13 / 20))
    if exact:
        slack = Fraction(0)
    least = max(min(floor(share), ceil(share - slack)), share // partitions * partitions)
    most = min(max(ceil(share), floor(share + slack)), ceil(share / partitions) * partitions)
    return least, most


def _group(parts: Sequence[_Part], partitions: int, *, exact: bool) -> _Part:
    """Return a part made of *parts*: it is liked as the one of them is that it would add next to a partition."""
    if len(parts) == 1:
        return parts[0]
    share = sum((part.share for part in parts), Fraction(0))
    least, most = _bounds(share, partitions, exact=exact)
    free = [part for part in parts if part.share < partitions] or parts[:1]
    place = (share - sum(part.share for part in parts if part.share == partitions)) // partitions
    return _Part(
        ranks=Ranks.joined([part.ranks for part in free], [float(part.share) for part in free], place=place),
        share=share,
        least=max(least, sum(part.least for part in parts)),
        most=min(most, sum(part.most for part in parts)),
        parts=tuple(parts),
    )


def _leaves(parts: Iterable[_Part]) -> Iterator[_Part]:
    for part in parts:
        if part.parts:
            yield from _leaves(part.parts)
        else:
            yield part


def _shifted(column: bytes, by: int) -> bytes:
    return column.translate(bytes((value + by) % 256 for value in range(256)))


def _fill(demand: bytes, parts: Sequence[_Part], cells: bytearray, columns: int) -> None:
    """Choose parts for every partition, and go on within each; nodes end as ones in *cells*.

    Args:
        demand: for each partition, how many replicas these parts hold together.
        parts: zones, hosts of one zone, or nodes of one host.
        cells: ``partitions * columns`` bytes, partition by partition, a column per member.
        columns: the number of members.
    """
    partitions = len(demand)
    turns = [int(part.share // partitions) for part in parts]
    fixed = [turn * partitions for turn in turns]
    chosen = spread(
        _shifted(demand, -sum(turns)),
        ranks=[part.ranks for part in parts],
        shares=[float(part.share - base) for part, base in zip(parts, fixed, strict=True)],
        least=[part.least - base for part, base in zip(parts, fixed, strict=True)],
        most=[part.most - base for part, base in zip(parts, fixed, strict=True)],
    )
    for index, part in enumerate(parts):
        column = _shifted(chosen[index :: len(parts)], turns[index])
        if not part.least <= sum(column) <= part.most:
            raise InvariantViolation(f"{sum(column)} replicas placed, must be in {part.least}..{part.most}")
        if part.parts:
            _fill(column, part.parts, cells, columns)
        else:
            cells[part.node :: columns] = column


def _labels(ordered: Sequence[Member], hosts: Sequence[_Host]) -> tuple[list[int], list[int]]:
    """Return each member's host and zone as small integers."""
    numbers = {zone: number for number, zone in enumerate(sorted({host.zone for host in hosts}))}
    host_of, zone_of = [0] * len(ordered), [0] * len(ordered)
    for number, host in enumerate(hosts):
        for node in host.nodes:
            host_of[node], zone_of[node] = number, numbers[host.zone]
    return host_of, zone_of


def _firsts(ordered: Sequence[Member], ranks: Sequence[Ranks], cells: bytes, *, off: int) -> tuple[bytes, bool]:
    """Choose who of each partition's targets comes first, by weight: bytes like *cells*, and whether it worked out.

    It does when every member gets its share rounded down or up, or at most *off* away from it.
    """
    count, weight = len(ordered), sum(member.weight for member in ordered)
    partitions = len(cells) // count
    shares = [Fraction(partitions * member.weight, weight) for member in ordered]
    least = [max(0, min(floor(share), ceil(share - off))) for share in shares]
    most = [max(ceil(share), floor(share + off)) for share in shares]
    firsts = spread(
        b"\1" * partitions,
        ranks=ranks,
        shares=[float(share) for share in shares],
        least=least,
        most=most,
        allowed=cells,
    )
    met = all(low <= sum(firsts[i::count]) <= high for i, (low, high) in enumerate(zip(least, most, strict=True)))
    return firsts, met


def random_tokens(members: Collection[Member], *, per_node: int, seed: int) -> tuple[list[int], list[int]]:
    """Return tokens, increasing, and their owners, as indexes into the members sorted by id.

    A member of weight w gets ``per_node * w`` tokens at places that look random and depend on *seed*, the id and a
    counter alone.
    """
    owners: dict[int, int] = {}
    for index, member in enumerate(sorted(members, key=lambda member: member.id)):
        for number in range(per_node * member.weight):
            owners.setdefault(xxh3_64_intdigest(b"%d/%b/%d" % (seed, member.id, number)), index)
    tokens = sorted(owners)
    return tokens, [owners[token] for token in tokens]


def place_by_tokens(
    members: Collection[Member], *, per_node: int, seed: int, replicas: int, partitions: int | None = None
) -> Ring:
    """Return the ring of the paper's strategy 1, or with *partitions* of strategy 2 (section 6.2).

    Strategy 1: random tokens are the ends of the partitions too. Strategy 2: equal partitions, each held by the hosts
    met on the way clockwise from its end over random tokens. Rows are indexes into the members sorted by id.
    """
    ordered = sorted(members, key=lambda member: member.id)
    tokens, owners = random_tokens(ordered, per_node=per_node, seed=seed)
    hosts = [sorted({member.host for member in ordered}).index(member.host) for member in ordered]
    zones = [sorted({member.zone for member in ordered}).index(member.zone) for member in ordered]
    walk = Ring.walk(tokens, owners, hosts=hosts, zones=zones, replicas=replicas)
    if partitions is None:
        return walk
    ends = equal_tokens(partitions)
    return Ring(ends, [walk.preference(end) for end in ends])
