"""Starts and drives processes of `tests.storage.child`."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import dynafast.errors
from tests.durability import ShimLog

_ROOT = Path(__file__).parents[2]
_DEADLINE_S = 30.0


class Child:
    """A process with a store in *folder*, under *shim* if one is given. Use as a context manager: it is killed."""

    def __init__(self, folder: Path, shim: ShimLog | None = None) -> None:
        environment = {**os.environ, **(shim.environment() if shim is not None else {})}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(_DEADLINE_S)
            port = listener.getsockname()[1]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.storage.child", str(port), str(folder)], env=environment, cwd=_ROOT
            )
            try:
                self._connection, (_, self.port) = listener.accept()
            except TimeoutError:
                self.kill()
                raise
        self._connection.settimeout(_DEADLINE_S)
        self._lines = self._connection.makefile("rw")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._lines.close()
        self._connection.close()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def ask(self, command: str, *arguments: Any) -> Any:
        """Return the result, or raise the store's error as the child saw it."""
        self.send(command, *arguments)
        status, *answer = json.loads(self._lines.readline())
        if status == "error":
            raise getattr(dynafast.errors, answer[0])(answer[1])
        return answer[0]

    def send(self, command: str, *arguments: Any) -> None:
        """Ask without waiting for an answer."""
        self._lines.write(json.dumps([command, *arguments]) + "\n")
        self._lines.flush()

    def numbers(self) -> list[int]:
        """After a kill: the numbers it had said by then, but for a last one that was cut off."""
        return [int(line) for line in self._lines if line.endswith("\n")]

    def next_number(self) -> int:
        """Return the next number of a flood."""
        return int(self._lines.readline())
