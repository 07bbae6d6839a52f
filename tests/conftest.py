# SPDX-License-Identifier: Apache-2.0
"""Fixtures that everything shares."""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Collecting imports some fifteen thousand modules, which stay: no search for cycles, then or in a test, needs to visit them.
gc.disable()
# What tests import writes nothing into the home directory and tells nobody.
os.environ |= {"ORT_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
# Tests run beside each other: two pools of as many threads as cores would wait for each other, and do it busily.
for _pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_pool, "1")
# A busy machine is no fault of what is tested.
from tests.support.breadth import ALL, examples  # noqa: E402

settings.register_profile(
    "packager", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=examples(100)
)
settings.load_profile("packager")

from packager.store.store import Store  # noqa: E402
from tests.support import forks, outputs, translations  # noqa: E402
from tests.support.once import shared_directory  # noqa: E402
from tests.support.warm_store import WARM  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", metavar="SEED", help="run files, and the tests of each, in an order made of SEED")


@pytest.hookimpl(tryfirst=True)  # pytest then puts together again what shares a fixture with parameters
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle, the same way in every worker: files, and the tests of each."""
    seed = config.getoption("--shuffle")
    if seed is not None:
        drawn = {
            text: hashlib.sha256(f"{seed} {text}".encode()).digest()
            for item in items
            for text in (item.nodeid, file_of(item))
        }
        items.sort(key=lambda item: (drawn[file_of(item)], drawn[item.nodeid]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


def file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    hostile = file_of(item).startswith(("tests/attacks/", "tests/hostile/"))
    WARM.lends = not hostile and item.get_closest_marker("cold") is None


@pytest.fixture(scope="session", autouse=True)
def _warm_store(tmp_path_factory: pytest.TempPathFactory) -> None:
    WARM.folder = shared_directory(tmp_path_factory) / "warm"


@pytest.fixture(scope="session", autouse=True)
def _remembered_translations() -> Iterator[None]:
    """In `make test-all` every export reads them itself."""
    with pytest.MonkeyPatch.context() as patch:
        if "torch" in sys.modules and not ALL:
            translations.remember(patch)
        yield


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def packager(tmp_path: Path) -> Run:
    """Run the real command line in `tmp_path`, with a store of its own."""

    def run(
        *arguments: str | Path, cwd: Path | None = None, code: int | None = 0, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {**forks.variables(tmp_path), "PACKAGER_STORE": str(tmp_path / "store"), **extra}
        place, builds = Path(environment["PACKAGER_STORE"]), bool({"build", "lock"} & {*arguments})
        if builds and not place.exists():
            WARM.lend(place)
        done = forks.RUNNER.run([*map(str, arguments)], cwd or tmp_path, environment)
        if builds and done.returncode == 0:
            WARM.collect(place)
        if code is not None:
            assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        if "--json" in arguments and done.stdout:
            outputs.check(arguments, done.stdout)
        return done

    return run
