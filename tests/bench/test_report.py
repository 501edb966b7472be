"""``python -m bench report`` puts what was measured into the document, and leaves alone what was not."""

import json
from pathlib import Path

import pytest

from bench import report
from bench.load import Histogram, Result
from bench.machine import describe
from bench.peers.systems import SYSTEMS

DOCUMENT = (
    "# Numbers\n\n<!-- bench: one -->\nold\n<!-- end -->\n\nBetween.\n\n<!-- bench: two -->\nkept\n<!-- end -->\n"
)


def load(rate: float, offered: float | None = None) -> dict[str, object]:
    latency = {"read": Histogram([(1_000_000, 90), (9_000_000, 10)]), "update": Histogram([(2_000_000, 5)])}
    result = Result(rate=rate, offered=offered, done=105, latency=latency, client_cores=0.1, server_cores=1.5)
    return {"load": "closed loop" if offered is None else f"{offered:g}/s", **result.json()}


def write(path: Path, benchmark: str, **found: object) -> None:
    whole = {"benchmark": benchmark, "command": f"python -m bench {benchmark}", "machine": describe(), **found}
    path.write_text(json.dumps(whole))


def filled(tmp_path: Path) -> tuple[str, list[str]]:
    return report.fill_in(DOCUMENT, tmp_path, tmp_path / "document.md")


def test_sections_with_results_are_written_and_others_stay(tmp_path: Path) -> None:
    write(tmp_path / "one.json", "load", loads=[load(1000.0)])
    text, lacking = filled(tmp_path)
    assert lacking == ["two"]
    assert "old" not in text
    assert "\nkept\n" in text
    assert "    python -m bench load\n" in text
    assert f"{describe()['cores']} cores" in text
    assert "| read   |       90 |" not in text
    assert "| read   |      100 |" in text
    assert "![one-histogram](one-histogram.svg)" in text
    assert (tmp_path / "one-histogram.svg").stat().st_size > 1000
    again, _ = report.fill_in(text, tmp_path, tmp_path / "document.md")
    assert again == text


def test_plots_of_the_same_numbers_are_the_same(tmp_path: Path) -> None:
    """So that a document that is written again shows no difference."""
    write(tmp_path / "one.json", "load", loads=[load(1000.0), load(490.0, 500.0), load(900.0, 900.0)])
    filled(tmp_path)
    before = (tmp_path / "one-curve.svg").read_bytes()
    filled(tmp_path)
    assert (tmp_path / "one-curve.svg").read_bytes() == before


def test_files_of_one_section_make_one_table(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"one-{name}.json", "load", loads=[load(1000.0)])
    (tmp_path / "two.txt").write_text("ours 3 ns\n")
    text, lacking = filled(tmp_path)
    assert lacking == []
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")] == ["load", "a", "b"]
    assert "```\nours 3 ns\n```" in text


@pytest.mark.parametrize(
    ("name", "found", "shown"),
    [
        ("peers", {"systems": {}, "loses": {name: system.loses for name, system in SYSTEMS.items()}}, "not measured"),
        ("sla", {"text": "the promise was kept"}, "the promise was kept"),
        (
            "cold",
            {"found": {"slow": {"hot": {"alone": [{"50": 1.0, "99": 2.0, "99.9": 3.0}]}, "cold_rate": 9.0}}},
            "| slow | alone     |   1.00 | 2.00 |  3.00 |            - |",
        ),
        (
            "footprint",
            {"found": {"idle_mb": 54.0, "connection_kb": 21.0, "clean_s": 1.0, "killed_s": 1.0}},
            "|     21.0 |      20 | short |",
        ),
    ],
)
def test_other_benchmarks_have_their_tables(tmp_path: Path, name: str, found: dict[str, object], shown: str) -> None:
    write(tmp_path / "one.json", name, **found)
    assert shown in filled(tmp_path)[0]


def test_scale_has_its_tables_and_its_plot(tmp_path: Path) -> None:
    point = {"label": "1", "rate": 10.0, "server_us": 20.0}
    point |= {f"{kind}_p{p}_ms": 1.0 for kind in ("read", "update") for p in (50, 99)}
    write(tmp_path / "one.json", "scale", studies={"nodes": [point, point | {"label": "3", "server_us": 50.0}]})
    text, _ = filled(tmp_path)
    assert "2.50x" in text
    assert (tmp_path / "one.svg").exists()


def test_experiments_of_the_paper_in_several_files_make_one_section_in_its_order(tmp_path: Path) -> None:
    strategies = {name: [{"amount": 64, "bytes": 384, "efficiency": 0.9}] for name in "123"}
    imbalance = {name: [{"requests": count, "share": 0.1} for count in (100, 800)] for name in "13"}
    write(tmp_path / "one-a.json", "paper", experiments={"figure8": {"strategies": strategies}})
    write(tmp_path / "one-b.json", "paper", experiments={"figure6": {"strategies": imbalance}})
    text, _ = filled(tmp_path)
    assert [line for line in text.splitlines() if line.startswith("### ")] == [
        "### Figure 6: nodes out of balance",
        "### Figure 8: three ways to partition",
    ]
    assert "![one-figure8](one-figure8.svg)" in text


def test_the_document_has_a_section_for_every_result_that_make_bench_writes() -> None:
    makefile = (report.ROOT / "Makefile").read_text()
    document = report.DOCUMENT.read_text(encoding="utf-8")
    names = {match["name"] for match in report.SECTION.finditer(document)}
    assert names == {"peers", "load-one", "load-three", "ycsb", "scale", "paper", "sla", "cold", "footprint", "micro"}
    for name in names:
        assert f"$(RESULTS)/{name}" in makefile
