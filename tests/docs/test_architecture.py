"""docs/architecture.md names files and functions that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMES = set(re.findall(r"`([^`\n]+)`", TEXT))
SOURCES = [
    *(ROOT / "dynafast").rglob("*.py"),
    *(ROOT / "_ext").glob("*.pyx"),
    *(ROOT / "_ext").glob("*/*.pxi"),
    *(ROOT / "tests").rglob("*.py"),
]


def test_files_that_are_named_exist() -> None:
    """Each file name in the text is the end of the path of a source file or a document."""
    named = {name for name in NAMES if re.fullmatch(r"[\w/]+\.(py|pyx|pxi|md)", name)}
    paths = [f"/{path.relative_to(ROOT)}" for path in [*SOURCES, *(ROOT / "docs").glob("*.md")]]
    assert {name for name in named if not any(path.endswith(f"/{name}") for path in paths)} == set()
    assert len(named) > 10


def test_functions_that_are_named_exist() -> None:
    """Each ``Class.method`` of the text is defined in a file that defines the class; so is each ``_function``."""
    sources = [path.read_text(encoding="utf-8") for path in SOURCES]
    methods = {name for name in NAMES if re.fullmatch(r"[A-Z]\w+\.\w+", name)}
    lacking = set()
    for name in methods:
        owner, _, method = name.partition(".")
        rules = (rf"class {owner}\b", rf"\b{method}\(")
        if not any(all(re.search(rule, source) for rule in rules) for source in sources):
            lacking.add(name)
    functions = {name for name in NAMES if re.fullmatch(r"_?[a-z]+(_[a-z]+)+", name)}
    lacking |= {name for name in functions if not any(re.search(rf"\b{name}\(", source) for source in sources)}
    assert lacking == set()
    assert len(methods) > 15
