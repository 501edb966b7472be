"""``python -m bench sim``: client operations that a simulated cluster gets through per wall second on one core."""

import argparse
import json
import time
from pathlib import Path
from statistics import median

from dynafast.sim.run import simulate

AIM = 5000


def run(arguments: list[str]) -> int:
    """Run some seeds with all faults, print the rates, and return 0."""
    parser = argparse.ArgumentParser(prog="python -m bench sim")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--ops", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    for seed in range(1, options.seeds + 1):
        begun = time.perf_counter()
        result = simulate(seed, nodes=options.nodes, ops=options.ops)
        seconds = time.perf_counter() - begun
        rows.append({"seed": seed, "ops": result.ops, "events": result.events, "seconds": seconds})
    ops, seconds = sum(row["ops"] for row in rows), sum(row["seconds"] for row in rows)
    rates = [row["ops"] / row["seconds"] for row in rows]
    print(f"{options.seeds} seeds, {options.nodes} nodes, all faults: {ops / seconds:,.0f} operations/s together,")
    print(f"median of the seeds {median(rates):,.0f}, slowest {min(rates):,.0f}; aim {AIM:,}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "rate": ops / seconds, "aim": AIM}), encoding="utf-8")
    return 0
