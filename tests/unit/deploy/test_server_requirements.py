# SPDX-License-Identifier: Apache-2.0
"""What a rendered Bento and a model of MLServer install: exact versions with hashes, of the bundle's lock first, and nothing twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from packager.errors import UsageError
from packager.store.store import Store
from tests.support import deployments


def rows(text: str) -> list[tuple[Requirement, int]]:
    """Return the requirements, each with the number of its hashes."""
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line and not line.startswith("#")]
    return [(Requirement(line.partition("--hash")[0]), line.count("--hash=sha256:")) for line in lines]


KINDS = {"bentoml": "schema", "mlserver": "aiofiles"}
"""Each kind with a package of its server that nothing limits."""


def requirements(kind: str, folder: Path, **versions: str) -> str:
    wheels = {name: deployments.installable(name, "1.0", {f"{name}/__init__.py": b""}) for name in versions}
    bundle = deployments.carrier(Store(folder / "store"), **wheels)
    return (deployments.rendered(kind, bundle, folder / "out") / "requirements.txt").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_every_requirement_is_one_version_with_hashes(kind: str, tmp_path: Path) -> None:
    found = rows(requirements(kind, tmp_path, kleines="1.0"))
    names = [each.name for each, _ in found]
    assert {"kleines", kind, "starlette", "uvicorn"} <= set(names) and len(found) > 50
    for each, hashes in found:
        assert hashes and [one.operator for one in each.specifier] == ["=="], each
    twice = {name for name in names if names.count(name) > 1}
    assert all(each.marker for each, _ in found if each.name in twice)


@pytest.mark.parametrize(("kind", "name"), KINDS.items())
def test_the_lock_of_the_bundle_comes_first(kind: str, name: str, tmp_path: Path) -> None:
    """Its version 1.0 is installed, and not the one that was chosen for the server."""
    found = [str(each) for each, _ in rows(requirements(kind, tmp_path, **{name: "1.0"})) if each.name == name]
    assert found == [f"{name}==1.0"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_version_that_the_server_does_not_take_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"locks `attrs` 1\.0, and `\w+` .* takes >="):
        requirements(kind, tmp_path, attrs="1.0")
