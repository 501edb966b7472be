"""``python -m bench sim``: client operations that a simulated cluster gets through per second on one core.

A run is counted whole: setting the cluster up, faults, coming to rest and all checks. Every seed runs several times,
in turns, and its median counts. Wall seconds are what one waits; processor seconds are what it takes where others
use the machine too.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

from dynafast.sim.run import simulate

AIM = 5000


def run(arguments: list[str]) -> int:
    """Run some seeds with all faults, print the rates, and return 0; 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m bench sim")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--ops", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    simulate(0, nodes=options.nodes, ops=100)  # what a process does once
    rows = [{"seed": seed, "wall_s": [], "cpu_s": []} for seed in range(1, options.seeds + 1)]
    for _ in range(options.rounds):
        for row in rows:
            wall, cpu = time.perf_counter(), time.process_time()
            result = simulate(row["seed"], nodes=options.nodes, ops=options.ops)
            row["wall_s"].append(time.perf_counter() - wall)
            row["cpu_s"].append(time.process_time() - cpu)
            row["ops"], row["events"] = result.ops, result.events
            if result.violation is not None:
                print(f"seed {row['seed']} failed: {result.violation}")
                return 1
    ops = sum(row["ops"] for row in rows)
    rates = {}
    print(f"{options.seeds} seeds, {options.nodes} nodes, all faults, median of {options.rounds}; aim {AIM:,}")
    for clock in ("wall_s", "cpu_s"):
        each = [row["ops"] / median(row[clock]) for row in rows]
        rates[clock] = ops / sum(median(row[clock]) for row in rows)
        what = {"wall_s": "wall", "cpu_s": "processor"}[clock]
        print(
            f"operations per {what} second: {rates[clock]:,.0f} together,"
            f" {median(each):,.0f} median, {min(each):,.0f} the slowest seed, {max(each):,.0f} the fastest"
        )
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "rates": rates, "aim": AIM}), encoding="utf-8")
    return 0
