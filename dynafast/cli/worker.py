"""``dynafast worker``: one node of ``serve --workers``, which starts it. Nobody else does.

It gets its settings as a line on stdin. That pipe stays open as long as the supervisor lives, so its end tells that
the node is to end too, however the supervisor came to its own. On stdout it says what the supervisor must know: what
any node says there, and why it ends (`LEFT`, `FAILED`).
"""

import json
import os
import signal
import sys
import threading
import time

import click

from dynafast.cli.main import exit_status
from dynafast.config import Settings
from dynafast.errors import DynafastError, RefusedError, RequestError

GRACE_S = 20.0  # for a node whose supervisor has died; it drains for 5 s at most


@click.command(hidden=True)
@click.argument("name")
@click.pass_context
def worker(ctx: click.Context, *, name: str) -> None:
    """Run the node NAME for serve --workers, which starts this command; it is no use alone."""
    try:
        settings = Settings.from_json(sys.stdin.readline())
    except ValueError:
        raise click.UsageError("serve --workers starts this command, and tells it on stdin what to do") from None
    threading.Thread(target=_end_with_supervisor, args=(sys.stdin.fileno(),), daemon=True).start()
    import structlog  # here, as in serve

    from dynafast.net.server import run
    from dynafast.net.workers import FAILED, LEFT

    structlog.contextvars.bind_contextvars(worker=name)
    try:
        left = run(settings)
    except DynafastError as error:
        why = {
            "message": str(error),
            "code": error.code if isinstance(error, RequestError) else None,
            "refused": isinstance(error, RefusedError),
        }
        click.echo(f"{FAILED} {json.dumps(why)}")
        ctx.exit(exit_status(error))
    if left:
        click.echo(LEFT)


def _end_with_supervisor(pipe: int) -> None:
    """Wait until the supervisor is gone, then end this process: in good order if that goes in time."""
    while os.read(pipe, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
