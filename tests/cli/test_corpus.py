"""Which files the demo takes, and that it counts all it leaves out."""

import os
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from dynafast.cli.corpus import collect, standard_library
from dynafast.limits import VALUE_MAX


def _write(path: Path, data: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_collect_takes_regular_files_by_relative_path_and_counts_the_rest(tmp_path: Path) -> None:
    _write(tmp_path / "b.py", b"two")
    _write(tmp_path / "a" / "empty", b"")
    _write(tmp_path / os.fsdecode(b"a/\xff\n.bin"), b"odd name")
    _write(tmp_path / "site-packages" / "pkg" / "m.py")
    _write(tmp_path / "a" / "__pycache__" / "m.pyc")
    _write(tmp_path / "a" / "__pycache__" / "dist-packages" / "m.pyc")  # the outer folder is the reason
    (tmp_path / "link.py").symlink_to("b.py")
    (tmp_path / "loop").symlink_to(".", target_is_directory=True)
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(VALUE_MAX + 1)
    with (tmp_path / "largest").open("wb") as file:
        file.truncate(VALUE_MAX)
    corpus = collect(tmp_path)
    assert [(item.key, item.size) for item in corpus.items] == [
        (b"a/empty", 0),
        (b"a/\xff\n.bin", 8),
        (b"b.py", 3),
        (b"largest", VALUE_MAX),
    ]
    assert corpus.size == 11 + VALUE_MAX
    assert corpus.left_out == {
        "in __pycache__": 2,
        "in site-packages": 1,
        "links": 2,
        "not regular": 1,
        "over 8 MiB": 1,
    }


def test_collect_through_a_link_to_the_folder_finds_its_files(tmp_path: Path) -> None:
    _write(tmp_path / "real" / "f")
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    assert [item.key for item in collect(tmp_path / "link").items] == [b"f"]


def test_collect_of_no_folder_raises(tmp_path: Path) -> None:
    _write(tmp_path / "file")
    with pytest.raises(OSError, match="No such file"):
        collect(tmp_path / "missing")
    with pytest.raises(NotADirectoryError):
        collect(tmp_path / "file")


def test_standard_library_holds_the_modules_of_this_python() -> None:
    corpus = collect(standard_library())
    keys = {item.key for item in corpus.items}
    assert {b"os.py", b"json/__init__.py"} <= keys
    assert not any(b"site-packages/" in key or b"__pycache__/" in key for key in keys)
    assert str(corpus.root) == os.path.realpath(sysconfig.get_path("stdlib"))


def test_collect_leaves_out_what_vanishes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "kept")
    _write(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    scandir = os.scandir

    def vanishing(path: str | Path) -> Any:
        if path != str(tmp_path):
            return scandir(path)
        entries = list(scandir(path))
        (tmp_path / "file").unlink()
        (tmp_path / "folder").rmdir()
        return entries

    monkeypatch.setattr(os, "scandir", vanishing)
    corpus = collect(tmp_path)
    assert [item.key for item in corpus.items] == [b"kept"]
    assert corpus.left_out == {"gone": 1, "unreadable folders": 1}
