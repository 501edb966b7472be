"""A process with a store, driven over TCP; run as ``python -m tests.storage.child PORT FOLDER``.

A request is a line of JSON ``[command, argument...]``, its answer a line of JSON: ``["ok", result]`` or
``["error", class, text]``. Keys and values are text. The answer is a plain send after the call returned, so the shim
can tell whether an answer came before the sync that it promises.
"""

import json
import select
import socket
import sys
from pathlib import Path
from typing import Any

from dynafast.errors import StoreError
from dynafast.storage.flushing import Flusher
from dynafast.storage.interface import Batch, Family
from dynafast.storage.rocks import RocksStore

FLUSH_S = 30.0


def flush(flusher: Flusher) -> int:
    """Sync in the flusher's thread."""
    flusher.begin()
    if select.select([flusher.done], [], [], FLUSH_S)[0] == []:
        raise TimeoutError
    return flusher.end()


def run(store: RocksStore, flusher: Flusher, command: str, *arguments: Any) -> Any:
    match command, arguments:
        case "put", [key, value]:
            return store.put(key.encode(), value.encode())
        case "write", [ops]:
            batch = Batch()
            for family, key, value in ops:
                batch.put(Family(family), key.encode(), value.encode())
            return store.write(batch)
        case "get", [key]:
            value = store.get(key.encode())
            return None if value is None else value.decode()
        case "sync", []:
            return store.sync()
        case "flush", []:
            return flush(flusher)
        case "close", []:
            flusher.close()
            return store.close()
    raise ValueError(command)


def flood(store: RocksStore, answers: Any, size: int) -> None:
    """Write objects 0, 1, 2, … and say each number once it was accepted, until the process is killed."""
    number = 0
    while True:
        store.put(b"%d" % number, b"%d" % number * size)
        answers.write(f"{number}\n")
        answers.flush()
        number += 1


def main() -> None:
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rw") as lines:
        for line in lines:
            command, *arguments = json.loads(line)
            try:
                if command == "open":
                    store = RocksStore(folder)
                    flusher = store.flusher()
                    result: Any = [store.boot, store.was_clean]
                elif command == "flood":
                    flood(store, lines, *arguments)
                else:
                    result = run(store, flusher, command, *arguments)
                answer = ["ok", result]
            except StoreError as error:
                answer = ["error", type(error).__name__, str(error)]
            lines.write(json.dumps(answer) + "\n")
            lines.flush()


if __name__ == "__main__":
    main()
