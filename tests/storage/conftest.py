from collections.abc import Iterator
from pathlib import Path

import pytest

from dynafast.storage.interface import Store
from tests.durability import ShimLog, build_shim
from tests.storage.rigs import MemoryRig, Rig, RocksRig


@pytest.fixture(params=["memory", "rocks"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    return MemoryRig() if request.param == "memory" else RocksRig(tmp_path / "store")


@pytest.fixture
def store(rig: Rig) -> Iterator[Store]:
    store = rig.open()
    yield store
    store.close()


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def shim(shim_library: Path, tmp_path: Path) -> ShimLog:
    """Notes what happens to the files in ``tmp_path / "data"``."""
    return ShimLog(shim_library, tmp_path / "shim", watch=tmp_path / "data", sockets=True)
