"""``dynafast sim``: a whole cluster under faults, from a seed."""

import contextlib
import multiprocessing
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import click

from dynafast.cli.main import Exit
from dynafast.cli.options import json_option
from dynafast.cli.output import print_json
from dynafast.errors import ConfigError
from dynafast.sim.canaries import CANARIES, hunt, planted
from dynafast.sim.options import named_faults
from dynafast.sim.report import as_json, failure, last_line, replay
from dynafast.sim.run import Result, simulate
from dynafast.sim.scenarios import SCENARIOS, play

FAILED = 1
SEED_MAX = 2**32


@click.command()
@click.option("--seed", type=click.IntRange(0), help="What everything is drawn from; a fresh one if left out.")
@click.option("--nodes", type=click.IntRange(1, 50), default=5, show_default=True, help="How many nodes begin.")
@click.option("--ops", type=click.IntRange(1), default=2000, show_default=True, help="How much clients do.")
@click.option("--faults", default="all", show_default=True, help="all, none, or a list of faults and their groups.")
@click.option("--plant", "plants", metavar="NAME", multiple=True, help="Break one safeguard.")
@click.option("--trace", type=click.Path(path_type=Path, dir_okay=False), help="Write the trace to this file.")
@click.option("--count", type=click.IntRange(1), help="Run so many seeds, from --seed on; a line for each that fails.")
@click.option("--minutes", type=click.FloatRange(0), help="Run fresh seeds for so long.")
@click.option("--failures", type=click.Path(path_type=Path, dir_okay=False), help="Add failing seeds to this file.")
@click.option("--canaries", "canaries", is_flag=True, help="Break each safeguard in turn: is it noticed?")
@click.option("--scenario", type=click.Choice([*SCENARIOS, "all"]), help="Tell one story, or all of them.")
@json_option
@click.pass_context
def sim(
    ctx: click.Context,
    *,
    seed: int | None,
    nodes: int,
    ops: int,
    faults: str,
    plants: tuple[str, ...],
    trace: Path | None,
    count: int | None,
    minutes: float | None,
    failures: Path | None,
    canaries: bool,
    scenario: str | None,
    as_json: bool,
) -> None:
    """Run a cluster in virtual time under faults, and check what its clients were promised.

    The same seed runs the same way to the last event. Exit status 1: an invariant does not hold; what is printed
    says which, shows the history of the key, and ends with the command that runs it again.
    """
    for name in plants:
        if name not in CANARIES:
            raise ConfigError(f"--plant must be one of {', '.join(CANARIES)}, got {name!r}")
    if canaries:
        ctx.exit(_hunt_canaries(plants or tuple(CANARIES)))
    if scenario is not None:
        ctx.exit(_tell_stories(list(SCENARIOS) if scenario == "all" else [scenario], frozenset(plants)))
    run = partial(simulate, nodes=nodes, ops=ops, faults=named_faults(faults), plants=frozenset(plants))
    if seed is None:
        seed = secrets.randbelow(SEED_MAX)
    if count is not None or minutes is not None:
        seeds = _fresh(minutes) if minutes is not None else iter(range(seed, seed + (count or 1)))
        ctx.exit(_many(run, seeds, faults, frozenset(plants), failures))
    with contextlib.ExitStack() as stack:
        file = None if trace is None else stack.enter_context(trace.open("w", encoding="utf-8"))
        result = run(seed, file=file)
    _tell(result, replay(result, faults=faults, plants=frozenset(plants)), json=as_json)
    ctx.exit(Exit.DONE if result.violation is None else FAILED)


def _tell(result: Result, command: str, *, json: bool) -> None:
    if json:
        print_json(as_json(result, command))
        return
    for line in [*result.options.lines(), *failure(result, command), last_line(result)]:
        click.echo(line)


def _fresh(minutes: float) -> Iterator[int]:
    """Yield new seeds until the time is over."""
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        yield secrets.randbelow(SEED_MAX)


def _many(
    run: "partial[Result]", seeds: Iterator[int], faults: str, plants: frozenset[str], failures: Path | None
) -> int:
    """Run seeds side by side; return the exit status."""
    ran = failed = ops = 0
    begun = time.monotonic()
    cores = os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        while batch := list(islice(seeds, 4 * cores)):
            for result in pool.imap_unordered(run, batch):
                ran += 1
                ops += result.ops
                if result.violation is not None:
                    failed += 1
                    click.echo(f"{last_line(result)} {result.violation.detail[:200]}")
                    click.echo(f"replay: {replay(result, faults=faults, plants=plants)}")
                    _keep(result, failures)
    state = "ok" if not failed else "failed"
    click.echo(f"sim: {state} seeds={ran} failed={failed} ops={ops} seconds={time.monotonic() - begun:.0f}")
    return FAILED if failed else Exit.DONE


def _tell_stories(names: Sequence[str], plants: frozenset[str]) -> int:
    """Play scenarios, a line each; return the exit status."""
    failed = 0
    for name in names:
        violation, digest = play(name, plants=plants)
        if violation is None:
            click.echo(f"sim: ok scenario={name} digest={digest}")
        else:
            failed += 1
            for line in violation.history.lines if violation.history is not None else []:
                click.echo(f"  {line}")
            click.echo(f"sim: failed scenario={name} {violation}")
    return FAILED if failed else Exit.DONE


def _hunt_canaries(names: Sequence[str]) -> int:
    """Print for each canary whether a seed catches it; return the exit status."""
    cores = os.cpu_count() or 1
    missed = 0
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        for name in names:
            catch = hunt(name, lambda jobs: pool.imap(planted, jobs), width=2 * cores)
            missed += catch.seed is None
            click.echo(catch.line())
    return FAILED if missed else Exit.DONE


def _keep(result: Result, failures: Path | None) -> None:
    if failures is not None and result.violation is not None:
        failures.parent.mkdir(parents=True, exist_ok=True)
        with failures.open("a", encoding="utf-8") as file:
            file.write(f"{result.seed} {result.violation.invariant}\n")
