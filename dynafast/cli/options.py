"""What several subcommands share: where the node is, how long to wait, how values and contexts look."""

import base64
import binascii
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from dynafast import Client
from dynafast.cli.output import JSON
from dynafast.config import DEFAULT_ADDRESS, parse_address
from dynafast.errors import BadContextError, TooLargeError
from dynafast.limits import TIMEOUT_MAX_MS, VALUE_MAX

Function = TypeVar("Function", bound=Callable[..., object])

TIMEOUT_MAX_S = TIMEOUT_MAX_MS // 1000


class _Bytes(click.ParamType[bytes]):
    """An argument as the bytes that the shell passed, whatever their encoding."""

    name = "bytes"

    def convert(self, value: str, *_: object) -> bytes:
        return os.fsencode(value)


def _finite(ctx: click.Context, param: click.Parameter, value: float) -> float:
    if math.isnan(value):  # passes every comparison of a range
        raise click.BadParameter("'nan' is no number of seconds.", ctx, param)
    return value


key_argument = click.argument("key", type=_Bytes())


def _remember_json(ctx: click.Context, _: click.Parameter, value: bool) -> bool:  # noqa: FBT001 - click calls it so
    ctx.meta[JSON] = value
    return value


json_option = click.option(
    "--json", "as_json", is_flag=True, callback=_remember_json, help="Print one JSON object, of an error too."
)


def node_options(*, timeout_s: float = 5.0) -> Callable[[Function], Function]:
    """Give a command the options ``--at`` and ``--timeout``, whose default is *timeout_s*."""
    at = click.option(
        "--at",
        metavar="HOST:PORT",
        envvar="DYNAFAST_AT",
        default=str(DEFAULT_ADDRESS),
        show_default=True,
        help="A node of the cluster; also DYNAFAST_AT.",
    )
    timeout = click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(0, TIMEOUT_MAX_S, min_open=True),
        callback=_finite,
        default=timeout_s,
        show_default=True,
        help=f"Answer or give up within this time, at most {TIMEOUT_MAX_S}.",
    )
    return lambda command: at(timeout(command))


def open_client(at: str, timeout: float) -> Client:
    """Return a client of the node at *at*; it connects when first used.

    Raises:
        ConfigError: *at* is no address.
    """
    return Client([str(parse_address(at, setting="--at"))], timeout=timeout)


def read_value(text: str) -> bytes:
    """Return the value that an argument stands for: ``-`` is stdin, ``@FILE`` a file, the rest is itself.

    Raises:
        TooLargeError: there is more than the longest value; no more than that is read.
        click.UsageError: the file cannot be read.
    """
    try:
        if text == "-":
            if sys.__stdin__ is None:  # which is not the same as empty
                raise click.UsageError("'-' reads stdin, which is closed")
            value = sys.stdin.buffer.read(VALUE_MAX + 1)
        elif text.startswith("@"):
            with Path(text[1:]).open("rb") as file:
                value = file.read(VALUE_MAX + 1)
        else:
            value = os.fsencode(text)
    except OSError as error:
        name = "stdin" if text == "-" else text[1:]
        raise click.UsageError(f"{name!r} cannot be read: {error.strerror}") from error
    if len(value) > VALUE_MAX:
        raise TooLargeError(f"a value must have at most {VALUE_MAX} bytes", {"limit": VALUE_MAX})
    return value


def context_text(context: bytes | None) -> str | None:
    """Return *context* as it is written on the command line and in JSON: URL-safe base64 without padding."""
    return None if context is None else base64.urlsafe_b64encode(context).rstrip(b"=").decode()


def parse_context(text: str | None) -> bytes | None:
    """Return the context that *text* writes, or None for None.

    Raises:
        BadContextError: it is not what `context_text` writes, to the last bit.
    """
    if text is None:
        return None
    try:
        context = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        context = b""
    if not context or context_text(context) != text:
        raise BadContextError("the context is not the text that a get printed")
    return context
