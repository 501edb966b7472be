"""Which files the demo stores: every regular file under a folder; what is left out is counted by reason."""

import os
import sysconfig
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dynafast.limits import KEY_MAX, VALUE_MAX

# Not the standard library proper: what was installed into it, and what Python made of it.
FOREIGN_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True, slots=True)
class Item:
    """One file to store; its key is the path relative to the corpus, its size what it had when listed."""

    key: bytes
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """The files to store, by key, and how many were left out: reason -> number of files."""

    root: Path
    items: tuple[Item, ...]
    left_out: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(item.size for item in self.items)


def standard_library() -> Path:
    """Return the folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def collect(root: Path) -> Corpus:
    """List the regular files under *root*, links not followed.

    Raises:
        OSError: *root* is no folder that can be read.
    """
    root = root.resolve(strict=True)
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    os.scandir(root).close()  # an unreadable root is an error, an unreadable folder below it is left out
    pending = [(str(root), "")]  # folders to list, each with the name of the foreign folder it is in
    while pending:
        folder, foreign = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:  # not ours to read, or gone since it was listed
            left_out["unreadable folders"] += 1
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append((entry.path, foreign or (entry.name if entry.name in FOREIGN_FOLDERS else "")))
                continue
            key = os.fsencode(os.path.relpath(entry.path, root))
            try:
                size = entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                left_out["gone"] += 1
                continue
            reason = f"in {foreign}" if foreign else _reason_against(entry, key)
            if reason is None:
                items.append(Item(key, Path(entry.path), size))
            else:
                left_out[reason] += 1
    return Corpus(root, tuple(sorted(items, key=lambda item: item.key)), dict(sorted(left_out.items())))


def _reason_against(entry: os.DirEntry[str], key: bytes) -> str | None:
    """Return why the demo cannot or may not store *entry*, or None."""
    if entry.is_symlink():
        return "links"
    if not entry.is_file(follow_symlinks=False):
        return "not regular"
    if entry.stat(follow_symlinks=False).st_size > VALUE_MAX:
        return f"over {VALUE_MAX >> 20} MiB"
    if len(key) > KEY_MAX:
        return "with too long a path"
    return None if os.access(entry.path, os.R_OK) else "unreadable"
