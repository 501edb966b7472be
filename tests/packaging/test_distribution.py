"""What a user installs: a wheel built from the sdist, in an environment with nothing but what it declares."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.packaging

# Calls one hook of the build backend, as pip does, in the folder to build and without fetching anything.
HOOK = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"

IMPORT_ALL = """
import importlib, pkgutil
import dynafast
names = [module.name for module in pkgutil.walk_packages(dynafast.__path__, "dynafast.")]
for name in names:
    if name != "dynafast.__main__":
        importlib.import_module(name)
print(dynafast.__file__, *names)
"""


def _call(*command: object, cwd: Path) -> str:
    """Run *command* away from this checkout's packages and return its stdout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DYNAFAST"))}
    # The unoptimised build packs the same files and compiles in half the time.
    environment["DYNAFAST_DEBUG"] = "1"
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def unpacked_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist and return the folder it unpacks to."""
    folder = tmp_path_factory.mktemp("sdist")
    checkout = folder / "checkout"  # a copy: building must not depend on, or disturb, what lies around here
    # The C files go along, so that making the sdist need not write them anew. None may end up in it.
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "__pycache__")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    name = _call(sys.executable, "-c", HOOK, "build_sdist", folder, cwd=checkout).split()[-1]
    with tarfile.open(folder / name) as archive:
        archive.extractall(folder, filter="data")
    return folder / name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(unpacked_sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the sdist and return its path."""
    folder = tmp_path_factory.mktemp("wheel")
    return folder / _call(sys.executable, "-c", HOOK, "build_wheel", folder, cwd=unpacked_sdist).split()[-1]


def _closure(requirement: str, seen: dict[str, metadata.Distribution]) -> None:
    """Add to *seen* the distribution that *requirement* names and, without extras, all that it requires."""
    parsed = Requirement(requirement)
    if parsed.marker is not None and not parsed.marker.evaluate({"extra": ""}):
        return
    found = metadata.distribution(parsed.name)
    if found.name not in seen:
        seen[found.name] = found
        for further in found.requires or ():
            _closure(further, seen)


def _copy_distribution(found: metadata.Distribution, site: Path) -> None:
    """Copy the files that belong to an installed distribution into another environment's *site* folder."""
    for file in found.files or ():
        if ".." not in file.parts and file.suffix != ".pyc":
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(found.locate_file(file)), site / file)


def test_sdist_holds_what_a_build_and_a_test_run_need(unpacked_sdist: Path) -> None:
    present = {path.relative_to(unpacked_sdist).as_posix() for path in unpacked_sdist.rglob("*") if path.is_file()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "setup.py"} <= present
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "_ext").rglob("*.p*")} <= present
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "dynafast/_ext").glob("*.p*")} <= present
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")} <= present
    generated = [
        name for name in present if name.endswith((".so", ".pyc")) or (name.startswith("_ext/") and name.endswith(".c"))
    ]
    assert generated == []


def test_wheel_holds_compiled_modules_stubs_and_type_marker(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    compiled = {name.split("/")[-1].split(".")[0] for name in names if name.endswith(".so")}
    assert compiled == {path.stem for path in (ROOT / "_ext").glob("*.pyx")}
    assert "dynafast/py.typed" in names
    assert {f"dynafast/_ext/{name}.pyi" for name in compiled} <= names
    assert not [name for name in names if name.endswith((".pyx", ".c")) or name.startswith("tests")]


def test_wheel_in_empty_environment_imports_every_module_and_runs(wheel: Path, tmp_path: Path) -> None:
    """The declared dependencies suffice: the new environment has those and nothing else."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site = Path(_call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    install = ("-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps")
    _call(sys.executable, *install, wheel, cwd=tmp_path)
    needed: dict[str, metadata.Distribution] = {}
    for requirement in next(iter(metadata.distributions(name="dynafast", path=[str(site)]))).requires or ():
        _closure(requirement, needed)
    for found in needed.values():
        _copy_distribution(found, site)
    origin, *names = _call(python, "-c", IMPORT_ALL, cwd=tmp_path).split()
    assert Path(origin).is_relative_to(home)
    assert {"dynafast.testing", "dynafast.net.server", "dynafast.cli.demo_run", "dynafast._ext.ring"} <= set(names)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert _call(home / "bin" / "dynafast", "--version", cwd=tmp_path) == f"dynafast {version}\n"
