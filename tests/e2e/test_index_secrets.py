# SPDX-License-Identifier: Apache-2.0
"""A token in the path of an index address: from lock to the signed file it is nowhere, and the policy looks for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from onnx import helper

from packager.formats import platforms
from tests.e2e.conftest import Project
from tests.support import package_index
from tests.support.package_index import PASSWORD, TOKEN, PackageIndex

HERE = platforms.name_host()
RECIPE = f"name: net\nversion: 1.0.0\nsource: ./model.onnx\nplatforms: [{HERE}]\n"


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    """It has a `flatbuffers` of its own, which ONNX Runtime asks for."""
    with package_index.serving() as found:
        found.add("flatbuffers", "99.0")
        yield found


@pytest.fixture
def made(tmp_path: Path, project: Callable[..., Project]) -> Project:
    x, y = (helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    found = project(RECIPE, **{"model.onnx": tmp_path / "model.onnx"})
    found.extra["UV_CACHE_DIR"] = str(found.folder / ".cache" / "uv")  # the index is another one for each test
    return found


@pytest.mark.slow  # units hold each message by default
def test_what_opens_an_index_is_in_no_file_and_no_message(made: Project, index: PackageIndex) -> None:
    opened = {"UV_INDEX": f"acme={index.address(login=f'ada:{PASSWORD}@')}"}
    said = [made.run("lock", **opened)]
    said.append(made.run("build", "--locked", "--vendor", HERE, **opened))
    said.append(made.run("sbom", "net:1.0.0", "--format", "spdx"))
    said.append(made.run("keygen", "release"))
    said.append(made.run("sign", "net:1.0.0", "--key", "release.pem", "-o", "net.bundle.tar"))
    said.append(made.run("export", "net:1.0.0", "copy"))
    said.append(made.run("lock", code=None, UV_INDEX=f"acme={index.address('wrong' + TOKEN)}", UV_NO_CACHE="1"))
    index.files.clear()
    (made.folder / "bundle.lock").unlink()
    said.append(made.run("lock", code=None, **opened, UV_NO_CACHE="1"))
    for done in said:
        assert not [secret for secret in (TOKEN, PASSWORD) if secret in done.stdout + done.stderr], done.args
    held = [path for folder in (made.folder, made.store) for path in folder.rglob("*") if path.is_file()]
    held = [path for path in held if ".cache" not in path.parts]  # uv's own, in the home directory
    assert len(held) > 30
    for path in held:
        data = path.read_bytes()
        assert not [secret for secret in (TOKEN, PASSWORD) if secret.encode() in data], path
    bom = made.run("sbom", "net:1.0.0", "--json")
    assert '"packager:index", "value": "acme"' in json.dumps(bom)
    assert "pkg:pypi/flatbuffers@99.0" in json.dumps(bom)


def test_a_site_is_told_which_index_it_lacks(made: Project, index: PackageIndex, tmp_path: Path) -> None:
    made.run("lock", UV_INDEX=f"acme={index.address()}")
    made.run("build", "--locked")
    made.run("keygen", "release")
    made.run("sign", "net:1.0.0", "--key", "release.pem")
    done = made.run("install", "net:1.0.0", tmp_path / "site", "--key", "release.pub", code=3)
    assert "flatbuffers==99.0" in done.stderr
    assert "also needs the index `acme`" in done.stderr
