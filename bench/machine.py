"""What a benchmark says of the machine it ran on, and the processor time of other processes."""

import os
import platform
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

PACKAGES = ("dynafast", "trio", "rocksdict")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def describe() -> dict[str, object]:
    """Return the machine, its load, and the versions of what ran."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "load_average": round(os.getloadavg()[0], 2),  # of the minute before: other work makes numbers worse
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def sentence(machine: dict[str, object]) -> str:
    """Return the description as a person reads it."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB; {machine['system']}, "
        f"Python {machine['python']}; {machine['date']}, load average before: {machine['load_average']}"
    )


def cpu_s(pids: Iterable[int]) -> float:
    """Return the user and system time of processes so far, in seconds, exact to 10 ms; of one that is gone: 0."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == pid:
            found.append(int(path.parent.name))
    return found


def resident_mb(pid: int) -> float:
    """Return the memory that a process has in use, in 10^6 bytes."""
    return int((_field(f"/proc/{pid}/status", "VmRSS") or "0 kB").split()[0]) * 1024 / 1e6


def _field(path: str, name: str) -> str | None:
    """Return what a file of /proc says behind "NAME:"."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
