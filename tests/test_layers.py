"""The rooms of the code and who may enter which, read from the syntax trees, of ``.pyx`` files too."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from Cython.Compiler import ExprNodes, Nodes
from Cython.Compiler.TreeFragment import parse_from_strings
from Cython.Compiler.Visitor import TreeVisitor

ROOT = Path(__file__).parent.parent
PURE = ["errors", "limits", "protocol"]
NATIVE_PURE = ["ring", "placement", "clock", "merkle", "codec", "commands", "sealed", "hot", "xxh3"]
NATIVE_CORE = ["connection", "coordinator", "replica", "resp", "view"]
NATIVE_STORAGE = ["flusher"]
NATIVE_SHELL = ["reactor"]
NATIVE_SIM = ["timeline", "wires"]

# All that a deterministic core may know of, even for a type: what is not listed may hide a clock, a socket, a file,
# a thread or a die.
ALLOWED = frozenset(
    """
    array collections contextlib cython dataclasses dynafast enum fractions functools hashlib math re struct typing
    xxhash
    """.split()  # noqa: SIM905
)
ALLOWED_C = frozenset(
    """
    cpython.array cpython.bytearray cpython.bytes cpython.dict cpython.float cpython.list cpython.mem cpython.number
    cpython.object cpython.ref cpython.unicode cython libc.stdint libc.string
    """.split()  # noqa: SIM905
)
ALLOWED_HEADERS = frozenset({"Python.h"})
FORBIDDEN_NAMES = frozenset({"open", "input", "exec", "eval", "__import__", "print", "breakpoint"})


class _CythonNames(TreeVisitor):  # type: ignore[misc]
    """Collects what a Cython module imports, cimports, and which names it uses."""

    def __init__(self) -> None:
        super().__init__()
        self.imports: set[str] = set()
        self.cimports: set[str] = set()
        self.headers: set[str] = set()
        self.names: set[str] = set()

    def visit_Node(self, node: Nodes.Node) -> None:  # noqa: N802
        self.visitchildren(node)

    def visit_FromCImportStatNode(self, node: Nodes.FromCImportStatNode) -> None:  # noqa: N802
        self.cimports.add(str(node.module_name))

    def visit_CImportStatNode(self, node: Nodes.CImportStatNode) -> None:  # noqa: N802
        self.cimports.add(str(node.module_name))

    def visit_CDefExternNode(self, node: Nodes.CDefExternNode) -> None:  # noqa: N802
        if node.include_file is not None:  # "from *" includes nothing: it names what the compiler knows
            self.headers.add(str(node.include_file))
        if node.verbatim_include:
            self.headers.add(str(node.verbatim_include))
        self.visitchildren(node)

    def visit_ImportNode(self, node: ExprNodes.ImportNode) -> None:  # noqa: N802
        self.imports.add(str(node.module_name.value))
        self.visitchildren(node)

    def visit_NameNode(self, node: ExprNodes.NameNode) -> None:  # noqa: N802
        self.names.add(str(node.name))


INCLUDE = re.compile(r'^include "(.*)"$', re.MULTILINE)


def cython_names(*paths: Path) -> _CythonNames:
    found = _CythonNames()
    for path in paths:
        parts = [path, *(path.parent / name for name in INCLUDE.findall(path.read_text()))]
        for part in parts:
            found.visit(parse_from_strings(path.stem, INCLUDE.sub("", part.read_text())))
    return found


def python_imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, for types too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def python_names(path: Path) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}


CORE_FILES = sorted(
    [
        *(ROOT / "dynafast" / "core").glob("*.py"),
        *(ROOT / "dynafast" / f"{name}.py" for name in PURE),
        ROOT / "dynafast/storage/interface.py",
    ]
)
NATIVE_FILES = [ROOT / "_ext" / f"{name}.pyx" for name in NATIVE_PURE + NATIVE_CORE]


def forbidden(modules: set[str]) -> set[str]:
    return {module for module in modules if module.split(".")[0] not in ALLOWED}


def forbidden_c(names: _CythonNames) -> set[str]:
    foreign = {name for name in names.cimports if not name.startswith("dynafast._ext.")}
    return (foreign - ALLOWED_C) | (names.headers - ALLOWED_HEADERS)


def test_every_native_module_has_a_room() -> None:
    assert {path.stem for path in (ROOT / "_ext").glob("*.pyx")} == set(
        NATIVE_PURE + NATIVE_CORE + NATIVE_STORAGE + NATIVE_SHELL + NATIVE_SIM
    )


@pytest.mark.parametrize(("room", "names"), [("net", NATIVE_SHELL), ("storage", NATIVE_STORAGE)])
def test_only_its_own_room_knows_a_native_module_of_the_system(room: str, names: list[str]) -> None:
    native = {f"dynafast._ext.{name}" for name in names}
    for path in (ROOT / "dynafast").rglob("*.py"):
        assert path.parent.name == room or native.isdisjoint(python_imports(path)), path
    for path in NATIVE_FILES:
        assert native.isdisjoint(cython_names(path).cimports), path


def test_no_native_core_knows_the_native_half_of_the_simulator() -> None:
    native = {f"dynafast._ext.{name}" for name in NATIVE_SIM}
    for path in NATIVE_FILES:
        assert native.isdisjoint(cython_names(path).cimports), path


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: path.name)
def test_core_knows_no_clock_socket_file_thread_or_die(path: Path) -> None:
    assert forbidden(set(python_imports(path))) == set()
    assert python_names(path) & FORBIDDEN_NAMES == set()


@pytest.mark.parametrize("path", NATIVE_FILES, ids=lambda path: path.name)
def test_native_core_knows_no_clock_socket_file_thread_or_die(path: Path) -> None:
    header = ROOT / "dynafast/_ext" / f"{path.stem}.pxd"
    names = cython_names(path, *[header] * header.exists())
    assert forbidden(names.imports) == set()
    assert forbidden_c(names) == set()
    assert names.names & FORBIDDEN_NAMES == set()


@pytest.mark.parametrize("name", NATIVE_SIM)
def test_the_native_half_of_the_simulator_knows_no_core(name: str) -> None:
    """It is given its dice, and knows no more of the world than a checksum for the trace."""
    names = cython_names(ROOT / "_ext" / f"{name}.pyx")
    assert forbidden(names.imports) <= {"zlib"}
    assert forbidden_c(names) == set()
    ours = {used for used in names.imports | names.cimports if used.startswith("dynafast")}
    assert ours <= {"dynafast._ext.timeline"}


def test_the_syntax_tree_of_cython_shows_what_is_forbidden(tmp_path: Path) -> None:
    """The check itself can fail: a module that hides a clock, a file, a die and C functions is seen."""
    bad = tmp_path / "bad.pyx"
    bad.write_text(
        "import time, ctypes\nfrom libc.stdio cimport printf\nfrom _random import Random\n"
        "cdef extern from '<time.h>':\n    long clock()\ncdef extern from *:\n    '#include <pthread.h>'\n"
        "def f():\n    import random\n    return open('x')\n"
    )
    names = cython_names(bad)
    assert forbidden(names.imports) == {"time", "ctypes", "_random", "random"}
    assert {"libc.stdio", "<time.h>", "#include <pthread.h>"} <= forbidden_c(names)
    assert "open" in names.names


# Room -> rooms it may import from. Rooms lie lower to higher; nothing looks up.
ROOMS = {
    "base": [],
    "native": ["base"],
    "storage.interface": ["base"],
    "core": ["base", "native", "storage.interface"],
    "storage": ["base", "native", "storage.interface"],
    "config": ["base"],
    "net": ["base", "native", "core", "storage", "storage.interface", "config"],
    "native.sim": ["base"],
    "sim": ["base", "native", "native.sim", "core", "storage", "storage.interface"],
    "client": ["base", "native", "config"],
    "testing": ["base", "client", "config"],
    "cli": ["base", "native", "config", "client", "testing", "net", "core", "sim"],
}


def room(module: str) -> str:
    parts = module.split(".")[1:]
    if not parts or parts[0] in PURE:
        return "base"
    if parts[0] == "_ext":
        return "native.sim" if parts[1:2] and parts[1] in NATIVE_SIM else "native"
    if parts[:2] == ["storage", "interface"]:
        return "storage.interface"
    if parts[0] == "__main__":
        return "cli"
    return parts[0] if parts[0] in ROOMS else "client"  # public names of the package itself


@pytest.mark.parametrize("path", sorted((ROOT / "dynafast").rglob("*.py")), ids=lambda path: path.stem)
def test_imports_go_down_only(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    if module == "dynafast.__init__":
        return  # the public names: may import every room that a user sees
    here = room(module.removesuffix(".__init__"))
    used = {room(name) for name in python_imports(path) if name.startswith("dynafast.")}
    assert used <= {here, *ROOMS[here]}, f"{module} ({here}) may not import {used - {here, *ROOMS[here]}}"


def test_native_modules_import_only_base_and_each_other_downwards() -> None:
    base = {"dynafast.errors", "dynafast.limits"}
    store = {"dynafast.storage.interface", "dynafast._ext.codec"}
    for path in NATIVE_FILES:
        names = cython_names(path)
        allowed = base | store if path.stem == "replica" else base
        assert {name for name in names.imports if name.startswith("dynafast")} <= allowed, path
        if path.stem in NATIVE_PURE:
            core = {f"dynafast._ext.{name}" for name in NATIVE_CORE}
            assert names.cimports & core == set(), path


def test_public_import_and_blocking_client_stay_light() -> None:
    """Names in the client's rooms that would load a heavy package at import."""
    heavy = {"trio", "anyio", "structlog", "rocksdict", "click", "rich"}
    for path in [ROOT / "dynafast/__init__.py", *(ROOT / "dynafast/client").glob("*.py")]:
        if path.stem == "aio":
            continue
        top = {module.split(".")[0] for module in python_imports(path)}
        assert top & heavy == set(), path
