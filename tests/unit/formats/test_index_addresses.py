# SPDX-License-Identifier: Apache-2.0
"""Credentials of package indexes are in no lock, no bundle and no message. Against a real index."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager.errors import LockError, PackagerError, SourceError, UsageError
from packager.events import Event
from packager.formats import index_addresses, platforms, project_locks, secrets, wheel_locks
from packager.formats.wheel_locks import Dependencies
from packager.lock import environments, runtime_wheels, toolchains
from packager.lock.lock import of_json
from packager.lock.lockers import _pip
from packager.lock.runtime_wheels import LockRequest
from tests.support import package_index
from tests.support.breadth import some_of
from tests.support.package_index import PASSWORD, TOKEN, PackageIndex

HERE = platforms.name_host()
SECRETS = (TOKEN, PASSWORD, "ada:", "ada@")


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with package_index.serving() as found:
        found.add("acme-widget", "1.0")
        yield found


def variables(**more: str) -> dict[str, str]:
    """The environment of this process without the indexes it may name."""
    names = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX")
    return {**{name: value for name, value in os.environ.items() if name not in names}, "UV_NO_CACHE": "1", **more}


def lock(wanted: LockRequest, environment: dict[str, str]) -> tuple[Dependencies, list[Event]]:
    events: list[Event] = []
    return runtime_wheels.lock(wanted, environment, lambda key, ask: ask(), events.append), events


def wanted(*lines: str, engine: str = "uv", own: project_locks.OwnLock | None = None) -> LockRequest:
    return LockRequest({"onnxruntime": lines}, required=(HERE,), own=own, engine=engine)


def closed(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text


VARIABLES = (("UV_INDEX", "acme"), ("UV_EXTRA_INDEX_URL", None), ("PIP_EXTRA_INDEX_URL", None))
RARE = [(row, "pip-tools") for row in VARIABLES[1:]]  # the variables of each engine are held for the other one


@pytest.mark.parametrize(
    ("variable", "name", "engine"),
    [
        pytest.param(*row, engine, marks=pytest.mark.slow if (row, engine) in RARE else [])
        for row in VARIABLES
        for engine in ("uv", "pip-tools")
    ],
)
def test_environment_index_is_recorded_by_name_or_not(
    index: PackageIndex, engine: str, variable: str, name: str | None
) -> None:
    """Whichever tool it was named to, both ask it."""
    address = index.address(login=f"ada:{PASSWORD}@")
    environment = variables(**{variable: f"{name}={address}" if name else address})
    found, events = lock(wanted("acme-widget", engine=engine), environment)
    assert found.indexes == ((name,) if name else ())
    (made,) = found.wheels["onnxruntime"][HERE]
    assert (made.name, made.version, made.url) == ("acme-widget", "1.0", None)
    files = wheel_locks.write_lock_files(found.wheels["onnxruntime"], found.indexes, ())
    closed(json.dumps(found.to_json()) + "".join(files.values()) + repr(events))
    assert ("# also needs the index acme\n" in files["requirements.txt"]) == (name is not None)
    assert any("is not recorded" in str(event) for event in events) == (name is None)


def test_an_index_that_gave_nothing_is_not_recorded(index: PackageIndex) -> None:
    index.files.clear()
    own = project_locks.parse(b"--extra-index-url http://127.0.0.1:9/simple\nsix==1.17.0\n", "requirements.txt")
    found, events = lock(wanted("six"), variables(UV_INDEX=f"acme={index.address()}"))
    assert found.indexes == ()
    assert index.asked, "it was asked"
    assert not any("is not recorded" in str(event) for event in events)
    assert (
        index_addresses.list_used([row.url or "" for row in found.wheels["onnxruntime"][HERE]], own.indexes, {}) == ()
    )


def test_pip_gets_the_index_credentials_of_uv_variables(index: PackageIndex) -> None:
    index.password = True
    environment = variables(
        UV_INDEX=f"acme={index.address()}", UV_INDEX_ACME_USERNAME="ada", UV_INDEX_ACME_PASSWORD=PASSWORD
    )
    found, _ = lock(wanted("acme-widget"), environment)
    assert found.indexes == ("acme",)


def test_wheels_are_fetched_from_a_named_index(index: PackageIndex, tmp_path: Path) -> None:
    environment = variables(UV_INDEX=f"acme={index.address()}")
    found, _ = lock(wanted("acme-widget"), environment)
    rows = found.wheels["onnxruntime"][HERE]
    _pip.download(rows, platforms.parse(HERE), found.addresses, environment, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [rows[0].file]


@pytest.mark.parametrize("engine", ["uv", "pip-tools"])
@pytest.mark.parametrize("line", some_of(["acme-widget==9", "acme-widget", "acme-missing"], "acme-widget"))
@pytest.mark.parametrize("token", [TOKEN, f"wrong{TOKEN}"])
def test_no_message_contains_index_credentials(index: PackageIndex, engine: str, line: str, token: str) -> None:
    index.files[next(iter(index.files))] = b"no wheel"  # what both tools quote with its address
    address = index.address(token, login=f"ada:{PASSWORD}@")
    with pytest.raises(PackagerError) as caught:
        lock(wanted(line, engine=engine), variables(UV_INDEX=f"acme={address}"))
    closed(f"{caught.value.message} {caught.value.hint}")


def test_a_toolchain_names_no_address(index: PackageIndex, tmp_path: Path) -> None:
    """Whatever uv's settings say about writing addresses."""
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "uv.toml").write_text("[pip]\nemit-index-url = true\nemit-index-annotation = true\n")
    python = HERE.rpartition("cp")[2]
    environment = variables(UV_INDEX=f"acme={index.address()}", XDG_CONFIG_HOME=str(tmp_path))
    made = toolchains.resolve(["acme-widget"], f"{python[0]}.{python[1:]}", (), environment, lambda event: None)
    assert made.requirements.startswith("acme-widget==1.0")
    assert "://" not in made.requirements
    with pytest.raises(SourceError) as caught:
        toolchains.resolve(["acme-missing"], f"{python[0]}.{python[1:]}", (), environment, lambda event: None)
    closed(caught.value.message)
    index.files.clear()
    with pytest.raises(SourceError) as caught:
        environments.ensure_environment(
            [made.requirements], f"{python[0]}.{python[1:]}", tmp_path, environment=environment
        )
    closed(f"{caught.value.message} {caught.value.hint}")


@pytest.mark.parametrize(
    "address",
    [
        f"https://ada:{PASSWORD}@wheels.example.org/simple",
        f"https://{TOKEN}@wheels.example.org/simple",
        f"https://wheels.example.org/simple?token={TOKEN}",
        f"https://wheels.example.org/{TOKEN}/simple",
        "https://dl.cloudsmith.io/aB3dE5gH7jK9mN1p/org/repo/python/simple/",
        "https://packagecloud.io/priv/0123456789abcdef0123456789abcdef0123456789abcdef/org/pypi/simple",
    ],
)
@pytest.mark.parametrize("form", ["requirements.txt", "pylock.toml", "uv.lock"])
def test_project_lock_with_index_credentials_is_refused(address: str, form: str) -> None:
    text = {
        "requirements.txt": f"--extra-index-url {address}\nnumpy==1.0\n",
        "pylock.toml": f'lock-version = "1.0"\n[[packages]]\nname = "numpy"\nversion = "1.0"\nindex = "{address}"\n',
        "uv.lock": f'[[package]]\nname = "numpy"\nversion = "1.0"\nsource = {{ registry = "{address}" }}\n',
    }[form]
    with pytest.raises(UsageError, match="credentials for the index at") as caught:
        project_locks.parse(text.encode(), form)
    closed(f"{caught.value.message} {caught.value.hint}")


@pytest.mark.parametrize(
    "address",
    [
        "https://download.pytorch.org/whl/cu128",
        "https://pypi.nvidia.com",
        "https://gitlab.example.com/api/v4/projects/12345678/packages/pypi/simple",
        "https://pkgs.dev.azure.com/acme/2f0c7b1e-9d4a-4b57-8c3d-5e6f7a8b9c0d/_packaging/feed/pypi/simple/",
        "https://us-central1-python.pkg.dev/acme-prod-2024/models/simple/",
        "https://artifactory.example.org/artifactory/api/pypi/pypi-release-local/simple",
        "https://acme-123456789012.d.codeartifact.eu-west-1.amazonaws.com/pypi/models/simple/",
    ],
)
def test_an_ordinary_address_is_no_secret(address: str) -> None:
    assert project_locks.check_address(address, "requirements.txt") == address
    assert not list(secrets.scan(f"# also needs the index {address}\n".encode()))


def test_older_lock_with_a_token_is_relocked(index: PackageIndex) -> None:
    value = {
        "format": 2,
        "recipe": "r",
        "source": {"tree": "", "files": []},
        "export": {},
        "toolchain": {},
        "dependencies": {"runtimes": {}, "packages": {}, "indexes": [index.address()]},
    }
    with pytest.raises(ValueError, match="it contains credentials for the index"):
        Dependencies.from_json(value["dependencies"])
    with pytest.raises(LockError) as caught:
        of_json(value, "bundle.lock")
    closed(f"{caught.value.message} {caught.value.hint}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("404 for url https://ada:pw@h.example/t0k3n/simple/x/.", "404 for url https://h.example/…."),
        ("(http://h:8080/t/files/a-1.0-py3-none-any.whl?sig=1)", "(http://h:8080/…/a-1.0-py3-none-any.whl)"),
        (
            "see https://pypi.org/simple/numpy/ and https://h.example",
            "see https://pypi.org/simple/numpy/ and https://h.example",
        ),
        ("git+https://oauth2:pw@h/team/x.git@v1", "git+https://h/…"),
        ("git+ssh://git@h/team/x.git", "git+ssh://h/…/x.git"),
        ("https://ada:pa/ss@h/simple", "https://…"),
        ("file:///srv/wheels", "file:///srv/wheels"),
    ],
)
def test_messages_name_only_the_host_of_an_address(text: str, shown: str) -> None:
    assert index_addresses.redact_addresses(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        f"# also needs the index https://wheels.example.org/{TOKEN}/simple",
        f'index = "https://h/{TOKEN}/simple"',
        f'{{"name":"packager:index","value":"https://h/{TOKEN}/simple"}}',
        f"--extra-index-url=https://h/{TOKEN}/simple",
        f'source = {{ registry = "https://h/{TOKEN}/simple" }}',
        f"https://{TOKEN}@h.example/simple",
        "https://h/x?access_token=a1b2c3d4e5f6",
        "https://dl.cloudsmith.io/aB3dE5gH7jK9mN1p/org/repo/",
    ],
)
def test_the_search_for_secrets_reads_addresses(text: str) -> None:
    found = list(secrets.scan(f"first line\n{text}\n".encode()))
    assert [item.line for item in found] == [2]
    assert "address" in found[0].kind


def test_an_open_address_does_not_hide_the_next_one() -> None:
    text = f"# also needs the index https://a.example/\n# also needs the index https://b.example/{TOKEN}/\n"
    assert [item.line for item in secrets.scan(text.encode())] == [2]


@pytest.mark.parametrize(
    "text",
    [
        "https://files.pythonhosted.org/packages/b7/ce/149a00dd41f10bc29e5921b496af8b574d8413afcd5e30dfa0ed46c2cc5e/six.whl",
        "see https://github.com/acme/x/blob/0123456789abcdef0123456789abcdef01234567/README.md",
        "git+ssh://git@github.com/x",
        "https://example.org/?token=YOUR_TOKEN",
        "https://registry.example.org/index.html",
        "an index of https://example.org/a",
    ],
)
def test_other_addresses_are_no_secrets(text: str) -> None:
    assert not list(secrets.scan(text.encode()))
