"""The command ``dynafast``: finds the subcommand, runs it, turns an error into one line and an exit status.

A subcommand's module is imported when it is called: ``dynafast get`` does not pay for what ``serve`` needs.
"""

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from enum import IntEnum
from typing import cast

import click

from dynafast import __version__
from dynafast.cli.output import JSON, print_json
from dynafast.errors import (
    ConfigError,
    ConflictError,
    DynafastError,
    NotReachedError,
    RequestError,
    RequestTimeoutError,
    WorkerFailedError,
    WriteUncertainError,
)


class Exit(IntEnum):
    """The exit statuses; scripts rely on them."""

    DONE = 0
    NOT_FOUND = 1
    USAGE = 2
    SEVERAL_VERSIONS = 3
    REFUSED = 4
    UNKNOWN = 5  # a write may or may not have happened
    NOT_REACHED = 6
    BUG = 70  # sysexits' EX_SOFTWARE: a crash must not look like "not found"
    OUTPUT = 74  # sysexits' EX_IOERR: stdout took no more
    INTERRUPTED = 130  # the shell's 128 + SIGINT
    PIPE_CLOSED = 141  # the shell's 128 + SIGPIPE


# How the system says that an output takes no more; any other OSError that gets to `main` is a bug.
_OUTPUT_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

# Command -> the module of dynafast.cli that defines it under its own name.
_COMMANDS = {
    "serve": "serve",
    "worker": "worker",  # hidden: what `serve --workers` starts
    "put": "data",
    "get": "data",
    "delete": "data",
    "status": "inspect",
    "ring": "inspect",
    "leave": "members",
    "remove": "members",
    "weight": "members",
    "plan": "members",
    "check": "members",
    "demo": "demo",
    "sim": "sim",
}


class _LazyGroup(click.Group):
    """Imports the module of a subcommand when the subcommand is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click passes it
        """Return the names, in the order in which a newcomer needs them."""
        return [name for name in _COMMANDS if name != "worker"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command of that name, or None."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"dynafast.cli.{_COMMANDS[cmd_name]}")
        return cast(click.Command, getattr(module, cmd_name))


@click.group(cls=_LazyGroup, no_args_is_help=False)
@click.version_option(__version__, message="dynafast %(version)s")
def cli() -> None:
    """Run and use dynafast, an always-writeable key-value store.

    Exit status: 0 done, 1 not found, 2 usage, 3 several versions, 4 refused, 5 outcome unknown,
    6 not reached.
    """


def exit_status(error: DynafastError) -> Exit:
    """Return the exit status that *error* means."""
    match error:
        case ConfigError():
            return Exit.USAGE
        case ConflictError():
            return Exit.SEVERAL_VERSIONS
        case WriteUncertainError():
            return Exit.UNKNOWN
        case NotReachedError() | RequestTimeoutError():
            return Exit.NOT_REACHED
        case WorkerFailedError():
            return Exit.BUG
    return Exit.REFUSED


def _one_line(error: DynafastError) -> str:
    text = str(error)
    if isinstance(error, RequestError) and not text.startswith(error.code):
        text = f"{error.code}: {text}"
    return text


def _error_object(error: DynafastError) -> dict[str, object]:
    """Return what a command with ``--json`` prints instead of its result."""
    if isinstance(error, RequestError):
        return {"code": error.code, "message": str(error), "details": error.details}
    code = {Exit.NOT_REACHED: "not-reached", Exit.USAGE: "usage"}.get(exit_status(error), "error")
    return {"code": code, "message": str(error), "details": {}}


def _complain(text: str, status: Exit) -> int:
    click.echo(f"dynafast: {' '.join(text.split())}", err=True)
    return status


def _fill_standard_files() -> None:
    """Open those of stdin, stdout and stderr that the caller closed.

    Else a socket or a file of the store would get the number, and what is printed would be written into it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.__stdout__ is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.__stderr__ is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _drop_stdout() -> None:
    """Let nobody complain again when the interpreter flushes stdout at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: list[str]) -> int:
    """Run a subcommand and return its status; `click.Group.main` would hide a closed pipe."""
    try:
        with cli.make_context("dynafast", argv) as ctx:
            try:
                cli.invoke(ctx)
            except DynafastError as error:
                if ctx.meta.get(JSON):
                    print_json({"error": _error_object(error)})
                raise
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    finally:
        sys.stdout.flush()
    return Exit.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (None: this process's, without its name) and return the exit status."""
    _fill_standard_files()
    try:
        return _run(sys.argv[1:] if argv is None else list(argv))
    except click.ClickException as error:
        return _complain(error.format_message(), Exit.USAGE)
    except DynafastError as error:
        return _complain(_one_line(error), exit_status(error))
    except KeyboardInterrupt:
        # One that passed through an `exec` or `eval` of a string, as an import may do, leaves a mark at which the
        # interpreter would end by the signal, whatever the status. The next of them takes the mark away.
        exec("")  # noqa: S102
        return _complain("interrupted", Exit.INTERRUPTED)
    except BrokenPipeError:
        _drop_stdout()
        return Exit.PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the last frame of the program: shown whole, and never as status 1
        if isinstance(error, OSError) and error.errno in _OUTPUT_ERRORS:
            _drop_stdout()
            return _complain(f"cannot write to stdout: {error.strerror}", Exit.OUTPUT)
        traceback.print_exc()
        return Exit.BUG
