"""``python -m bench NAME [options]``: runs one benchmark."""

import sys
from importlib import import_module

# Name -> its module, imported when it is asked for: pytest, which runs some, must come before what it looks into.
BENCHMARKS = {
    "cold": "bench.cold",
    "footprint": "bench.footprint",
    "gossip": "bench.gossip",
    "load": "bench.load.command",
    "micro": "bench.micro.run",
    "paper": "bench.paper.command",
    "peers": "bench.peers.command",
    "report": "bench.report",
    "scale": "bench.scale",
    "sim": "bench.sim",
    "sla": "bench.sla",
}


def main(arguments: list[str]) -> int:
    """Run the benchmark that the first argument names; return the exit status."""
    if not arguments or arguments[0] not in BENCHMARKS:
        print(f"usage: python -m bench NAME [options]; NAME is one of: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    return int(import_module(BENCHMARKS[arguments[0]]).run(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
