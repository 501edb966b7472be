"""``python -m bench gossip``: how long news takes in clusters of 10, 100 and 1,000 nodes, and what gossip costs."""

import argparse

from dynafast.sim.gossip import study


def run(arguments: list[str]) -> int:
    """Print the table of docs/simulation.md, and return 0."""
    parser = argparse.ArgumentParser(prog="python -m bench gossip")
    parser.add_argument("--nodes", type=int, nargs="*", default=[10, 100, 1000])
    options = parser.parse_args(arguments)
    print(
        "| nodes | a join is known everywhere after | rounds of a node until then | bytes per node and second, quiet"
        " | bytes per node for a join |"
    )
    print("|---|---|---|---|---|")
    for nodes in options.nodes:
        found = study(nodes)
        row = f"{nodes:,}", f"{found.join_s:.2f} s", f"{found.rounds:.1f}", f"{found.quiet_bytes:,.0f}"
        print(f"| {' | '.join(row)} | {found.news_bytes:,.0f} |", flush=True)
    return 0
