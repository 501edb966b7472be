"""A node that cannot write its log goes on."""

import os
from pathlib import Path

from dynafast.net.logs import LogFile


def test_lines_that_cannot_be_written_are_left_out_and_counted_in_the_next(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+b", buffering=0) as file:
        log = LogFile(file.fileno())
        log.write("one\n")
        kept = os.dup(file.fileno())
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, file.fileno())
        log.write("two\n")
        log.write("three\n")
        os.dup2(kept, file.fileno())
        log.write("four\n")
        log.write("five\n")
        os.close(kept)
        os.close(full)
    assert (tmp_path / "log").read_text() == "one\nevent=log.lost lines=2\nfour\nfive\n"


def test_what_follows_a_torn_line_begins_its_own() -> None:
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    size = 1 << 20
    log = LogFile(writes)
    log.write("x" * size + "\n")  # more than the pipe takes
    assert set(os.read(reads, size)) == {ord("x")}
    log.write("next\n")
    assert os.read(reads, size) == b"\nevent=log.lost lines=1\nnext\n"
    os.close(reads)
    os.close(writes)
