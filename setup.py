"""Build of the compiled modules: every ``_ext/NAME.pyx`` becomes ``dynafast._ext.NAME``.

The load generator's, ``_ext/bench/NAME.pyx``, become ``bench._ext.NAME``, in a checkout on Linux alone: they are in no
wheel, since nobody who runs nodes needs them.

Switches, read from the environment at build time:

* ``DYNAFAST_DEBUG=1``: bounds, overflow and None checks on, no optimisation.
* ``DYNAFAST_SANITIZE=1``: debug, and compiled for the address and undefined-behaviour sanitizers.
* ``DYNAFAST_ANNOTATE=1``: writes ``_ext/NAME.html``, which shows where C calls into Python.
* ``DYNAFAST_PREBUILT=1``: leaves the compiled modules out: ``make build`` compiles them meanwhile, with ``build_ext``.

Safety directives live here alone: a header in a ``.pyx`` would override the debug build.
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SANITIZE = os.environ.get("DYNAFAST_SANITIZE") == "1"
DEBUG = SANITIZE or os.environ.get("DYNAFAST_DEBUG") == "1"
JOBS = os.cpu_count() or 1
IN_PLACE = bool({"--inplace", "editable_wheel"} & set(sys.argv))  # a checkout, not a wheel to be taken elsewhere
PREBUILT = os.environ.get("DYNAFAST_PREBUILT") == "1"

compile_args = ["-O0", "-g"] if DEBUG else ["-O2", "-g0"]
link_args: list[str] = []
if SANITIZE:
    compile_args = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
    link_args = ["-fsanitize=address,undefined"]


class ParallelBuild(build_ext):
    """Compiles several modules at once: the set-up time of a checkout is mostly this."""

    def finalize_options(self) -> None:
        """Use every core unless the caller chose."""
        super().finalize_options()
        if self.parallel is None:
            self.parallel = JOBS


LINUX_ONLY = {"flusher", "reactor"}  # made of inotify and epoll; elsewhere RocksDB and trio do their work

# The largest first: it takes longest, and the others fit beside it.
sources = sorted(Path("_ext").glob("*.pyx"), key=lambda path: (-path.stat().st_size, path))
# The load generator runs without the interpreter's lock, where the debug build's checks cannot raise.
if IN_PLACE and not DEBUG and sys.platform == "linux" and Path("bench").is_dir():
    sources += sorted(Path("_ext/bench").glob("*.pyx"))
extensions = [
    Extension(
        f"{'dynafast' if path.parent.name == '_ext' else 'bench'}._ext.{path.stem}",
        [path.as_posix()],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    for path in sources
    if not PREBUILT and (sys.platform == "linux" or path.stem not in LINUX_ONLY)
]

# A module holds the shape of the classes that it cimports: after a change of any header all are made anew.
headers = [path.as_posix() for path in Path().glob("dynafast/_ext/*.pxd")]
newest = max((Path(header).stat().st_mtime for header in headers), default=0)
made = [path.with_suffix(".c") for path in sources]
STALE = any(path.exists() and path.stat().st_mtime < newest for path in made)
for extension in extensions:
    extension.depends = headers

setup(
    ext_modules=cythonize(
        extensions,
        force=STALE,
        include_path=["."],
        nthreads=JOBS,
        annotate=os.environ.get("DYNAFAST_ANNOTATE") == "1",
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "nonecheck": DEBUG,
            "overflowcheck": False,
            "cdivision": True,
            "embedsignature": False,
            "freethreading_compatible": False,
        },
    ),
    cmdclass={"build_ext": ParallelBuild},
)
