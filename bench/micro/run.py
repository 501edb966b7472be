"""Runs the micro benchmarks and prints what they found."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import pytest

SECONDS = 0.08  # for each side in each turn
HERE = Path(__file__).parent

# What pytest-benchmark found: case -> side -> median seconds of one run, one number for each turn.
Times = Mapping[str, Mapping[str, Sequence[float]]]


def run(arguments: list[str]) -> int:
    """Time every case, print the table, and return pytest's exit status; *arguments* go to pytest.

    With ``--benchmark-disable`` the cases are verified and run once, and no table is printed. With ``--gate`` the
    status is 1 too when a ratio is below its floor: ratios are of one run, so they hold on any machine.
    """
    gate = "--gate" in arguments
    arguments = [argument for argument in arguments if argument != "--gate"]
    options = ["-q", "--no-header", str(HERE / "test_micro.py"), *arguments]
    if "--benchmark-disable" in arguments:
        return int(pytest.main(options))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        options += ["--benchmark-enable", "--benchmark-quiet", f"--benchmark-json={path}", "--benchmark-disable-gc"]
        options += [f"--benchmark-max-time={SECONDS}", "--benchmark-min-rounds=10", "--benchmark-warmup=off"]
        options += ["--benchmark-timer=time.thread_time"]  # on a busy machine the longer side would wait more often
        status = int(pytest.main(options))
        if path.exists() and path.stat().st_size:
            times = _times(json.loads(path.read_text(encoding="utf-8")))
            print(table(times))
            slower = regressions(times) if gate else []
            print(*slower, sep="\n", end="\n" * bool(slower))
            status = status or bool(slower)
    return int(status)


def _times(found: dict[str, list[dict[str, dict[str, str | float]]]]) -> Times:
    times: dict[str, dict[str, list[float]]] = {}
    for row in found["benchmarks"]:
        sides = times.setdefault(str(row["extra_info"]["name"]), {"ours": [], "baseline": []})
        sides[str(row["extra_info"]["side"])].append(float(row["stats"]["median"]))
    return times


def _ratio(sides: Mapping[str, Sequence[float]]) -> float:
    return median(b / o for o, b in zip(sides["ours"], sides["baseline"], strict=True))


def regressions(times: Times) -> list[str]:
    """Return a sentence for each case that is slower, beside its baseline, than its floor allows."""
    from bench.micro.test_micro import CASES  # as in `table`

    found = ((name, _ratio(sides), CASES[name].floor) for name, sides in times.items())
    return [
        f"{name}: {ratio:.1f}x the baseline, must be at least {floor:g}x"
        for name, ratio, floor in found
        if floor is not None and ratio < floor
    ]


def table(times: Times) -> str:
    """Return a line for each case: nanoseconds per operation, and how many times faster ours is.

    A turn's ratio is that of two medians taken right after each other. All numbers are medians over the turns.
    """
    from bench.micro.test_micro import CASES  # here: pytest must be the first to import it, to rewrite its asserts

    lines = [f"{'':36}{'ours':>11}{'baseline':>12}{'ratio':>8}{'aim':>6}  baseline", "-" * 88]
    for name, sides in times.items():
        case = CASES[name]
        ours, baseline = sides["ours"], sides["baseline"]
        ours_ns, baseline_ns = (f"{1e9 * median(side) / case.calls:,.0f} ns" for side in (ours, baseline))
        ratio = f"{_ratio(sides):.1f}x"
        aim = "" if case.aim is None else f"{case.aim:g}x"
        lines.append(f"{name:36}{ours_ns:>11}{baseline_ns:>12}{ratio:>8}{aim:>6}  {case.against}")
    return "\n".join(lines)
