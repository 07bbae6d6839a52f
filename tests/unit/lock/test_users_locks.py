# SPDX-License-Identifier: Apache-2.0
"""Files that users bring: used, or refused with what would do; and what an index says no to, with a real one."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager.deploy import served_environment
from packager.deploy.wheels import Supply
from packager.errors import SourceError, UsageError, WrongContentError
from packager.events import Warned
from packager.formats import platforms, project_locks
from packager.formats.wheel_locks import Dependencies
from packager.lock import origins, runtime_wheels, toolchains
from packager.lock.lockers import _pip
from packager.recipe import recipe
from tests.support import package_index
from tests.support.package_index import PASSWORD, PackageIndex
from tests.unit.formats.test_index_addresses import HERE, lock, variables, wanted

A, B = "ab" * 32, "cd" * 32
POETRY = f"""[[package]]
name = "Torch"
version = "2.9.0+cu128"
files = [{{file = "torch.whl", hash = "sha256:{A}"}}]
markers = "sys_platform == 'linux'"

[package.source]
type = "legacy"
url = "https://download.pytorch.org/whl/cu128"
reference = "pytorch"

[[package]]
name = "numpy"
version = "2.4.6"
files = [{{file = "numpy.tar.gz", hash = "sha256:{B}"}}]

[[package]]
name = "ours"
version = "1.0"
files = []

[package.source]
type = "git"
url = "https://example.org/ours.git"
resolved_reference = "0123456789abcdef"

[metadata]
lock-version = "2.1"
content-hash = "00"
"""
OLD_POETRY = f"""[[package]]
name = "numpy"
version = "2.4.6"
category = "main"

[metadata]
lock-version = "1.1"

[metadata.files]
numpy = [{{file = "numpy.tar.gz", hash = "sha256:{B}"}}]
"""
PIPFILE = json.dumps(
    {
        "_meta": {
            "sources": [
                {"name": "pypi", "url": "https://pypi.org/simple", "verify_ssl": True},
                {"name": "torch", "url": "https://download.pytorch.org/whl/cu128", "verify_ssl": True},
            ]
        },
        "default": {
            "torch": {
                "version": "==2.9.0+cu128",
                "hashes": [f"sha256:{A}"],
                "index": "torch",
                "markers": "sys_platform == 'linux'",
            },
            "numpy": {"version": "==2.4.6", "hashes": [f"sha256:{B}", "md5:0"], "index": "pypi"},
            "ours": {"git": "https://example.org/ours.git", "ref": "0123"},
        },
        "develop": {"pytest": {"version": "==9.0"}},
    },
    indent=1,
)


@pytest.mark.parametrize(("text", "file"), [(POETRY, "poetry.lock"), (PIPFILE, "Pipfile.lock")])
def test_poetrys_and_pipenvs_locks_are_read(text: str, file: str) -> None:
    found = project_locks.parse(text.encode(), file)
    assert [(pin.name, pin.version) for pin in found.pins] == [("numpy", "2.4.6"), ("torch", "2.9.0+cu128")]
    assert found.hashes("torch", "2.9.0+cu128") == {A}
    assert found.hashes("numpy", "2.4.6") == {B}
    assert found.indexes == ("https://download.pytorch.org/whl/cu128",)
    assert "linux" in str(found.pins[1].marker)


def test_an_old_lock_of_poetry_keeps_its_hashes() -> None:
    assert project_locks.parse(OLD_POETRY.encode(), "poetry.lock").hashes("numpy", "2.4.6") == {B}


PDM = f"""[metadata]
groups = ["default"]
strategy = ["inherit_metadata"]
lock_version = "4.5.0"

[[package]]
name = "numpy"
version = "2.4.6"
marker = 'python_version >= "3.12"'
files = [{{file = "numpy.tar.gz", hash = "sha256:{B}"}}]

[[package]]
name = "numpy"
version = "1.26.4"
marker = 'python_version < "3.12"'
files = [{{file = "numpy.tar.gz", hash = "sha256:{A}"}}]

[[package]]
name = "ours"
version = "1.0"
git = "https://example.org/ours.git"
ref = "main"
revision = "0123456789abcdef"

[[package]]
name = "near"
version = "1.0"
path = "./near"

[[package]]
name = "far"
version = "1.0"
url = "https://example.org/far-1.0-py3-none-any.whl"
files = [{{url = "https://example.org/far-1.0-py3-none-any.whl", hash = "sha256:{A}"}}]
"""
PYLOCK = f"""lock-version = "1.0"
created-by = "x"

[[packages]]
name = "numpy"
version = "2.4.6"
archive = {{ url = "https://example.org/numpy-2.4.6-cp311-cp311-linux_x86_64.whl", hashes = {{ sha256 = "{B}" }} }}

[[packages]]
name = "ours"
version = "1.0"
vcs = {{ type = "git", url = "https://example.org/ours.git", commit-id = "0123456789abcdef" }}

[[packages]]
name = "near"
version = "1.0"
directory = {{ path = "." }}
"""
CONFLICTS = """version = 1

[[package]]
name = "click"
version = "8.1.7"
source = { registry = "https://pypi.org/simple" }

[[package]]
name = "click"
version = "8.2.1"
source = { registry = "https://pypi.org/simple" }
"""  # `uv lock` of a project with `tool.uv.conflicts`


def test_pdms_markers_are_kept_and_what_is_on_no_index_is_left_out() -> None:
    found = project_locks.parse(PDM.encode(), "pdm.lock")
    assert [pin.line for pin in found.pins] == [
        'numpy==1.26.4 ; python_version < "3.12"',
        'numpy==2.4.6 ; python_version >= "3.12"',
    ]


def test_a_pylock_with_a_revision_a_directory_and_an_archive() -> None:
    found = project_locks.parse(PYLOCK.encode(), "pylock.toml")
    assert [pin.line for pin in found.pins] == ["numpy==2.4.6"] and found.hashes("numpy", "2.4.6") == {B}


def test_versions_that_exclude_each_other_are_refused_with_the_export_of_one() -> None:
    with pytest.raises(UsageError, match="two versions of `click`") as caught:
        project_locks.parse(CONFLICTS.encode(), "uv.lock")
    assert "uv export --format pylock.toml --extra" in str(caught.value.hint)
    with pytest.raises(UsageError, match="two versions of `click`"):
        project_locks.parse(b"click==8.1.7\nclick==8.2.1\n", "requirements.txt")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_files_of_other_editors_are_read(encoding: str) -> None:
    """PowerShell's `pip freeze > requirements.txt` is UTF-16 with a mark; Notepad's UTF-8 has one too."""
    data = "numpy==2.4.6\r\nclick==8.5.1\r\n".encode(encoding)
    if encoding == "utf-16-be":
        data = codecs.BOM_UTF16_BE + data
    assert [pin.line for pin in project_locks.parse(data, "requirements.txt").pins] == ["click==8.5.1", "numpy==2.4.6"]


def test_a_wheel_at_an_address_is_its_version() -> None:
    text = f"numpy @ file:///build/numpy-2.4.6-cp311-cp311-linux_x86_64.whl#sha256={A}\nclick @ https://x.example/click-8.5.1-py3-none-any.whl\n"
    found = project_locks.parse(text.encode(), "requirements.txt")
    assert [pin.line for pin in found.pins] == ["click==8.5.1", "numpy==2.4.6"]
    assert found.hashes("numpy", "2.4.6") == {A}


@pytest.mark.parametrize(
    ("text", "file", "words", "remedy"),
    [
        (
            "numpy @ file:///home/conda/feedstock_root/build_artifacts/numpy_1/work",
            "requirements.txt",
            "an address",
            "pip list --format=freeze",
        ),
        (
            "x @ git+https://bob:s3cret@example.org/x.git@v1",
            "requirements.txt",
            "revision of a repository",
            "publish a wheel",
        ),
        ("git+https://bob:s3cret@example.org/x.git", "requirements.txt", "revision of a repository", "publish a wheel"),
        ("-r other.txt\nnumpy==1", "requirements.txt", "--requirement", "uv pip compile"),
        ("-cother.txt\nnumpy==1", "requirements.txt", "--constraint", "uv pip compile"),
        ("-e git+https://example.org/x#egg=x\nnumpy==1", "requirements.txt", "--editable", "--exclude-editable"),
        ("--find-links https://bob:s3cret@example.org/\nnumpy==1", "requirements.txt", "--find-links", "UV_FIND_LINKS"),
        ("numpy>=2", "requirements.txt", "exact version", "pip list --format=freeze"),
        (
            "name: x\nchannels: [conda-forge]\ndependencies: [numpy=2.4]",
            "environment.yml",
            "for conda",
            "pip list --format=freeze",
        ),
        ("version: 1\npackage: []\nmetadata: {}\n", "conda-lock.yml", "for conda", "pip list --format=freeze"),
        ("# platform: linux-64\n@EXPLICIT\nhttps://x/numpy.conda", "spec.txt", "for conda", "pip list --format=freeze"),
        ("[project]\nname = 'x'", "pyproject.toml", "names ranges", "uv.lock"),
        ("[packages]\nnumpy = '*'", "Pipfile", "names ranges", "Pipfile.lock"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_would_do(text: str, file: str, words: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        project_locks.parse(text.encode(), file)
    assert words in caught.value.message
    assert remedy in str(caught.value.hint)
    assert "s3cret" not in f"{caught.value.message} {caught.value.hint}"


def test_conda_file_is_refused_with_a_remedy() -> None:
    text = "name: m\nversion: 1.0.0\nsource: ./m.onnx\ndependencies: environment.yml\n"
    with pytest.raises(UsageError) as caught:
        recipe.parse(text, "bundle.yaml", ("onnxruntime",))
    assert "pip list --format=freeze" in str(caught.value.hint)


MLMODEL = b"flavors:\n  sklearn: {sklearn_version: 1.5.2, pickled_model: model.pkl}\n"


def origin(text: str | bytes, **more: bytes) -> origins.Origin:
    data = text if isinstance(text, bytes) else text.encode()
    files = {
        "MLmodel": MLMODEL,
        "requirements.txt": data,
        **{name.replace("__", "."): part for name, part in more.items()},
    }
    return origins.read(list(files), files.__getitem__, "model.pkl")


def test_requirements_beside_a_model_are_read() -> None:
    """MLflow writes indexes and constraints there; both choose no package."""
    found = origin(
        "\ufeff--extra-index-url https://bob:s3cret@wheels.example.org/simple\n-c constraints.txt\n-r more.txt\n"
        "numpy\nx @ https://example.org/x-1.5-py3-none-any.whl\n",
        constraints__txt=b"numpy==2.4.6\nunused==1\n",
        more__txt=b"-r requirements.txt\nclick>=8\n",
    )
    assert found.packages == {"scikit-learn": "==1.5.2", "click": ">=8", "numpy": "==2.4.6", "x": "==1.5"}
    assert found.aside == ()


@pytest.mark.parametrize(
    "line", ["x @ git+https://bob:s3cret@h.example/x.git", "git+https://h.example/y", "./x", "-e .", "-r absent.txt"]
)
def test_what_names_no_release_is_set_aside(line: str) -> None:
    found = origin(f"numpy==2.4.6\n{line}\n")
    assert found.packages["numpy"] == "==2.4.6"
    assert len(found.aside) == 1
    error = origins.refusal_of(found)
    assert "s3cret" not in error.message
    assert "toolchain: host" in str(error.hint)


def test_a_file_that_is_no_text_is_set_aside() -> None:
    assert origin(b"\xff\xff\xff").aside


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with package_index.serving() as found:
        found.add("acme-widget", "1.0")
        yield found


@pytest.mark.parametrize("engine", ["uv", "pip-tools"])
def test_a_withdrawn_release_is_noticed(index: PackageIndex, engine: str) -> None:
    index.yanked[next(iter(index.files))] = "it eats data"
    found, events = lock(wanted("acme-widget==1.0", engine=engine), variables(UV_INDEX=f"acme={index.address()}"))
    assert list(found.yanked) == ["acme-widget==1.0"]
    assert found.yanked["acme-widget==1.0"] == ("it eats data" if engine == "uv" else "")
    assert [event for event in events if isinstance(event, Warned) and "withdrawn" in event.message]
    assert Dependencies.from_json(json.loads(json.dumps(found.to_json()))) == found
    index.yanked.clear()
    again, _ = lock(wanted("acme-widget==1.0", engine=engine), variables(UV_INDEX=f"acme={index.address()}"))
    assert "yanked" not in again.to_json()


@pytest.mark.parametrize("engine", ["uv", "pip-tools"])
@pytest.mark.parametrize("login", [pytest.param("", marks=pytest.mark.slow), f"eve:{PASSWORD}@"])  # a wrong one is more
def test_an_index_that_refuses_a_login_says_so(index: PackageIndex, engine: str, login: str, tmp_path: Path) -> None:
    environment = variables(UV_INDEX=f"acme={index.address('wrong', login=login)}")
    with pytest.raises(SourceError) as caught:
        lock(wanted("acme-widget", engine=engine), environment)
    assert f"`127.0.0.1:{index.port}` (401) refuses the login" in caught.value.message
    assert "UV_INDEX" in str(caught.value.hint)
    rows = [package_wheel(index)]
    with pytest.raises(SourceError, match="refuses the login"):
        _pip.download(rows, platforms.parse(HERE), (), environment, tmp_path)


def test_a_locked_toolchain_says_it_too(index: PackageIndex) -> None:
    """A withdrawn release, and a login that is refused."""
    index.yanked[next(iter(index.files))] = "it eats data"
    python, events = f"{HERE.rpartition('cp')[2][0]}.{HERE.rpartition('cp')[2][1:]}", []
    environment = variables(UV_INDEX=f"acme={index.address()}")
    toolchains.resolve(["acme-widget==1.0"], python, (), environment, events.append)
    assert [event for event in events if isinstance(event, Warned) and "it eats data" in event.message]
    environment = variables(UV_INDEX=f"acme={index.address('wrong')}")
    with pytest.raises(SourceError, match=r"\(401\) refuses the login"):
        toolchains.resolve(["acme-widget==1.0"], python, (), environment, events.append)


def test_refused_index_login_is_reported(index: PackageIndex, tmp_path: Path) -> None:
    wheel = package_wheel(index)
    lock = tmp_path / "requirements.txt"
    lock.write_text(f"{wheel.pin} --hash=sha256:{wheel.sha256}\n")
    environment = variables(PIP_INDEX_URL=index.address("wrong"))
    with pytest.raises(SourceError, match=r"\(401\) refuses the login"):
        served_environment.make_environment(tmp_path / "env", Supply(lock, None), environment, None)


def package_wheel(index: PackageIndex) -> runtime_wheels.Wheel:
    (file, data), *_ = index.files.items()
    return runtime_wheels.Wheel("acme-widget", "1.0", file, hashlib.sha256(data).hexdigest())


def test_a_wheel_that_changed_under_its_name_is_named(index: PackageIndex, tmp_path: Path) -> None:
    before = package_wheel(index)
    index.add("acme-widget", "1.0", text="# another one\n")
    environment = variables(UV_INDEX=f"acme={index.address()}", PIP_NO_CACHE_DIR="1")
    with pytest.raises(WrongContentError) as caught:
        _pip.download([before], platforms.parse(HERE), (), environment, tmp_path)
    assert f"`{before.file}` is not what was locked: expected sha256:{before.sha256}" in caught.value.message
    assert caught.value.subject == before.file
