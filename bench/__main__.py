"""``python -m bench NAME [options]``: runs one benchmark."""

import sys

from bench.gossip import run as gossip
from bench.micro.run import run as micro
from bench.sim import run as sim

BENCHMARKS = {"gossip": gossip, "micro": micro, "sim": sim}


def main(arguments: list[str]) -> int:
    """Run the benchmark that the first argument names; return the exit status."""
    if not arguments or arguments[0] not in BENCHMARKS:
        print(f"usage: python -m bench NAME [options]; NAME is one of: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    return BENCHMARKS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
