# SPDX-License-Identifier: Apache-2.0
"""A worker with other tools than the lock names: refused, with a remedy that exists."""

from __future__ import annotations

import importlib.metadata

import pytest

from packager.errors import StepError
from packager.sandbox import worker


@pytest.mark.parametrize(
    ("name", "version", "remedy"),
    [
        ("machine", "linux-riscv64", "build on a machine of `linux-riscv64`"),
        ("python", "3.2", "run it with Python 3.2"),
        ("packaging", "1.0", 'install it (`pip install "packaging==1.0"`)'),
    ],
)
def test_another_toolchain_is_refused_with_a_remedy_that_exists(name: str, version: str, remedy: str) -> None:
    with pytest.raises(StepError, match=f"expected {name} {version}, got ") as refused:
        worker.check_toolchain({name: version})
    assert refused.value.hint == f"{remedy}, or accept this host with `packager lock`"


def test_the_same_toolchain_is_taken() -> None:
    here = {name: worker.host_version(name) for name in ("machine", "python")}
    worker.check_toolchain(here | {"packaging": importlib.metadata.version("packaging")})
