"""``dynafast`` whose background work is let in at once: started by `bench.paper.background` as a node's program.

There is no setting for this. Nobody should run a node so; it shows what admission is good for.
"""

import sys
from collections.abc import Callable

from dynafast.cli.main import main
from dynafast.core.admission import Admission

# Method of Admission -> what it does instead: all that asks it before it sends, or tells it what was sent.
INSTEAD: dict[str, Callable[[Admission, int], bool | None]] = {
    "room": lambda _admission, _size: True,
    "start": lambda _admission, _size: True,
    "end": lambda _admission, _size: None,
    "spend": lambda _admission, _size: None,
}

if __name__ == "__main__":
    for name, method in INSTEAD.items():
        setattr(Admission, name, method)
    sys.exit(main())
