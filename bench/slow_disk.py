"""``dynafast`` on a disk that takes its time: started by `bench.cold` as a node's program.

Each read of a record that only the disk can tell takes `READ_S` more, as on a busy disk with a queue.
"""

import sys
import time
from collections.abc import Sequence

from dynafast.cli.main import main
from dynafast.errors import StoreError
from dynafast.storage.rocks import RocksStore

READ_S = 0.005

_get_many = RocksStore.get_many


def get_many(store: RocksStore, keys: Sequence[bytes]) -> list[bytes | StoreError | None]:
    """As the store's own, later."""
    time.sleep(READ_S * len(keys))
    return _get_many(store, keys)


if __name__ == "__main__":
    RocksStore.get_many = get_many  # type: ignore[method-assign]
    sys.exit(main())
