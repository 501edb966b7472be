"""What the folder of ``serve --workers`` remembers of its workers, in its file ``workers.json``.

Each worker keeps its data in a folder there that is called after its number. The roster tells the next start which of
them are members of a cluster, so that none of them founds a second one; what they are called after; and their ports.
May not: start anything.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from dynafast.errors import ConfigError

FILE = "workers.json"
_UNFINISHED = FILE + ".new"
_FORMAT = 1
_NO_DATA = frozenset({FILE, _UNFINISHED, "lost+found"})  # the last: the folder may be a disk of its own


@dataclass(slots=True)
class Member:
    """A worker that has been ready.

    Attributes:
        listen, resp: the ports that it has, used again where the settings leave the choice; 0: not known.
        gone: whether its node has left the cluster, or was removed.
    """

    listen: int = 0
    resp: int = 0
    gone: bool = False


@dataclass(slots=True, kw_only=True)
class Roster:
    """Attributes: *folder*; what workers are called after (*name*); their label *host*; *members* by number."""

    folder: Path
    name: str
    host: str
    members: dict[int, Member] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Return the roster of *folder*, None if that is new or empty.

        A member whose folder somebody has removed is forgotten.

        Raises:
            ConfigError: the folder cannot be read, or holds something else.
        """
        try:
            found = set(os.listdir(folder)) if folder.exists() else set()
            text = (folder / FILE).read_bytes() if FILE in found else b""
        except OSError as error:
            raise ConfigError(f"data: {folder} cannot be read: {error.strerror}") from error
        if FILE not in found:
            _check_empty(folder, found - _NO_DATA)
            return None
        try:
            fields = json.loads(text)
            members = {int(index): Member(**known) for index, known in fields["members"].items() if index in found}
            roster = cls(folder=folder, name=fields["name"], host=fields["host"], members=members)
            known = fields["format"] == _FORMAT
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"data: {folder / FILE} is damaged: restore it, or serve each folder alone") from error
        if not known:
            raise ConfigError(f"data: {folder / FILE} has format {fields['format']}, this program reads {_FORMAT}")
        return roster

    def save(self) -> None:
        """Write the roster, durably, in one step. Raises ConfigError when that fails."""
        fields = {
            "format": _FORMAT,
            "name": self.name,
            "host": self.host,
            "members": {str(index): asdict(member) for index, member in sorted(self.members.items())},
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / _UNFINISHED).open("w") as file:
                file.write(json.dumps(fields, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            (self.folder / _UNFINISHED).replace(self.folder / FILE)
            for path in (self.folder, self.folder.parent):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise ConfigError(f"data: {self.folder / FILE} cannot be written: {error.strerror}") from error


def refuse_workers_folder(folder: Path) -> None:
    """Raise `ConfigError` if *folder* belongs to workers: one node alone would begin anew beside their data."""
    if (folder / FILE).exists():
        raise ConfigError(
            f"data: {folder} was made by serve --workers: give --workers, or the folder of one of them, "
            f"as in --data {folder / '0'}"
        )


def _check_empty(folder: Path, found: set[str]) -> None:
    if "CURRENT" in found:
        raise ConfigError(
            f"data: {folder} has the data of one node: leave --workers out, or choose another folder for workers"
        )
    if found:
        raise ConfigError(f"data: {folder} holds {min(found)}, so it is no folder of workers: choose an empty one")
