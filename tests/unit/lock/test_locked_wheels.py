# SPDX-License-Identifier: Apache-2.0
"""Locked wheels: the forms other tools read, platforms, licences, other projects' locks, and how conflicts are told."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.markers import Marker
from packaging.pylock import Pylock
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import sys_tags

from packager.deploy.wheels import choose
from packager.errors import IntegrityError, NegativeAnswerError, UsageError
from packager.formats import licences, platforms, project_locks, wheel_locks
from packager.formats.index_addresses import find_public
from packager.formats.wheel_locks import Dependencies, DistributionMetadata, Wheel
from packager.lock import runtime_wheels
from packager.lock.lockers import NoSolutionError, _conflict
from tests.support.breadth import examples

NAMES = ("linux_x86_64-cp311", "linux_x86_64-cp312", "linux_aarch64-cp313")


def wheel(name: str, version: str, platform: str, pure: bool) -> Wheel:
    there = platforms.parse(platform)
    python = f"cp{there.python[0]}{there.python[1]}"
    tags = "py3-none-any" if pure else f"{python}-{python}-manylinux_2_28_{there.machine}"
    file = f"{name.replace('-', '_')}-{version}-{tags}.whl"
    return Wheel(name, version, file, file.encode().hex().ljust(64, "0")[-64:])


pins = st.dictionaries(
    st.from_regex(r"[a-z]{1,6}(-[a-z]{1,4})?", fullmatch=True),
    st.tuples(st.sampled_from(["1.0", "2.4.6", "2.9.0+cu128"]), st.booleans()),
    min_size=1,
    max_size=5,
)
sets = st.dictionaries(st.sampled_from(NAMES), pins, min_size=1).map(
    lambda value: {
        name: tuple(sorted(wheel(pin, version, name, pure) for pin, (version, pure) in listed.items()))
        for name, listed in value.items()
    }
)


@settings(max_examples=examples(30), deadline=None)
@given(sets)
def test_any_lock_is_a_valid_pylock(value: dict[str, tuple[Wheel, ...]]) -> None:
    """The judge is `packaging`, which pip and others read PEP 751 with."""
    text = wheel_locks.write_pylock(value, (), ())
    parsed = Pylock.from_dict(tomllib.loads(text))
    parsed.validate()
    judged = {
        (item.name, str(item.version), str(item.marker or ""), frozenset(file.hashes["sha256"] for file in item.wheels))
        for item in parsed.packages
        if item.wheels
    }
    own = project_locks.parse(text.encode(), "pylock.toml").pins
    assert {(pin.name, pin.version, str(Marker(pin.marker)) if pin.marker else "", pin.hashes) for pin in own} == judged
    for name, wheels in value.items():
        there = platforms.parse(name)
        chosen = parsed.select(tags=there.tags(), environment=there.environment())
        assert {file.filename for _, file in chosen} == {item.file for item in wheels}


@settings(max_examples=examples(30), deadline=None)
@given(sets)
def test_both_requirements_forms_name_the_same(value: dict[str, tuple[Wheel, ...]]) -> None:
    merged = project_locks.parse(wheel_locks.merged_requirements(value).encode(), "requirements.txt")
    for name, wheels in value.items():
        there = platforms.parse(name).environment()
        alone = project_locks.parse(wheel_locks.write_requirements(wheels).encode(), "requirements.txt")
        here = {
            pin.line.partition(" ;")[0]
            for pin in merged.pins
            if pin.marker is None or Requirement(pin.line).marker.evaluate(there)
        }  # type: ignore[union-attr]
        assert here == {pin.line for pin in alone.pins} == {item.pin for item in wheels}
        for item in wheels:
            assert alone.hashes(item.name, item.version) == {item.sha256}
            assert item.sha256 in merged.hashes(item.name, item.version)


@settings(max_examples=examples(30), deadline=None)
@given(sets)
def test_a_lock_is_plain_data(value: dict[str, tuple[Wheel, ...]]) -> None:
    about = {item.pin: DistributionMetadata("MIT") for wheels in value.values() for item in wheels}
    one = Dependencies({"onnxruntime": ("a", "b")}, {"onnxruntime": value}, about, ("https://a.example",))
    assert Dependencies.from_json(one.to_json()) == one


def test_platforms_choose_as_pip_does() -> None:
    files = [
        "protobuf-7.36.2-cp310-abi3-manylinux2014_x86_64.whl",
        "protobuf-7.36.2-py3-none-any.whl",
        "protobuf-7.36.2-cp310-abi3-manylinux2014_aarch64.whl",
    ]
    assert platforms.parse("linux_x86_64-cp312").best(files) == files[0]
    assert platforms.parse("linux_aarch64-cp312").best(files) == files[2]
    new = "onnxruntime-1.31.1-cp311-cp311-manylinux_2_28_x86_64.whl"
    assert platforms.parse("linux_x86_64-cp311").best([new]) == new
    with pytest.raises(UsageError, match="none of"):
        platforms.parse("manylinux_2_17_x86_64-cp311").best([new])


def test_this_platform_is_among_those_that_can_be_named() -> None:
    here = platforms.parse(platforms.name_host())
    ours = {tag for tag in sys_tags() if tag.abi == "none" and tag.interpreter == "py3"}
    assert ours & set(here.tags())


@pytest.mark.parametrize(
    "name", ["musllinux_1_2_x86_64-cp311", "linux_x86_64", "win_amd64-cp311", "manylinux_2_05_x86_64-cp311"]
)
def test_other_platforms_are_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        platforms.parse(name)
    assert ("musl" in caught.value.message) == ("musl" in name)


@pytest.mark.parametrize(
    ("expression", "field", "classifiers", "expected"),
    [
        ("mit", None, [], "MIT"),
        (
            "MPL-2.0 AND (Apache-2.0 OR MIT)",
            None,
            ["License :: OSI Approved :: MIT License"],
            "MPL-2.0 AND (Apache-2.0 OR MIT)",
        ),
        (None, "Apache 2.0", [], "Apache-2.0"),
        (None, "Apache License, Version 2.0", [], "Apache-2.0"),
        (None, "MIT License", ["License :: OSI Approved :: MIT License"], "MIT"),
        (None, "3-Clause BSD License", [], "BSD-3-Clause"),
        (None, "BSD-3-Clause", ["License :: OSI Approved :: BSD License"], "BSD-3-Clause"),
        (None, "Copyright (c) 2020\nlong text\n", ["License :: OSI Approved :: ISC License (ISCL)"], "ISC"),
        (None, "BSD", ["License :: OSI Approved :: BSD License"], None),
        (
            None,
            None,
            ["License :: OSI Approved :: Apache Software License", "License :: OSI Approved :: MIT License"],
            None,
        ),
        (None, None, [], None),
        ("not a licence", None, [], None),
    ],
)
def test_licences_are_read_and_never_guessed(
    expression: str, field: str, classifiers: list[str], expected: str
) -> None:
    found, words = licences.from_metadata(expression, field, classifiers)
    assert found == expected
    assert (words is not None) == (expected is None and bool(field or classifiers))


UV_LOCK = """version = 1
[[package]]
name = "project"
version = "0.1"
source = { virtual = "." }
[[package]]
name = "Torch"
version = "2.9.0+cu128"
source = { registry = "https://download.pytorch.org/whl/cu128" }
resolution-markers = ["sys_platform == 'linux'"]
wheels = [{ url = "https://download.pytorch.org/x.whl", hash = "sha256:abababababababababababababababababababababababababababababababab" }]
[[package]]
name = "numpy"
version = "2.4.6"
source = { registry = "https://pypi.org/simple" }
sdist = { url = "https://files.pythonhosted.org/x.tar.gz", hash = "sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd" }
"""
PYLOCK = """lock-version = "1.0"
[[packages]]
name = "torch"
version = "2.9.0+cu128"
index = "https://download.pytorch.org/whl/cu128"
marker = "sys_platform == 'linux'"
wheels = [{ name = "torch.whl", path = "torch.whl", hashes = { sha256 = "abababababababababababababababababababababababababababababababab" } }]
[[packages]]
name = "numpy"
version = "2.4.6"
sdist = { name = "n.tar.gz", path = "n.tar.gz", hashes = { sha256 = "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd" } }
"""
REQUIREMENTS = """# made by pip-compile
--index-url https://pypi.org/simple
--extra-index-url https://download.pytorch.org/whl/cu128
Torch==2.9.0+cu128 ; sys_platform == 'linux' \\
    --hash=sha256:abababababababababababababababababababababababababababababababab
    # via the project
numpy==2.4.6 --hash=sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd  # arrays
"""


@pytest.mark.parametrize(
    ("text", "file"), [(UV_LOCK, "uv.lock"), (PYLOCK, "pylock.toml"), (REQUIREMENTS, "requirements.txt")]
)
def test_three_kinds_of_lock_files_say_the_same(text: str, file: str) -> None:
    """Local versions are kept, indexes beyond PyPI recorded."""
    found = project_locks.parse(text.encode(), file)
    assert found.indexes == ("https://download.pytorch.org/whl/cu128",)
    assert [(pin.name, pin.version) for pin in found.pins] == [("numpy", "2.4.6"), ("torch", "2.9.0+cu128")]
    assert found.pins[1].marker is not None
    assert "linux" in found.pins[1].marker
    assert found.hashes("torch", "2.9.0+cu128") == {"ab" * 32}
    assert found.hashes("numpy", "2.4.6") == {"cd" * 32}


@pytest.mark.parametrize(
    ("text", "file", "words"),
    [
        ("numpy>=2", "requirements.txt", "exact version"),
        ("numpy==2.*", "requirements.txt", "exact version"),
        ("numpy @ https://example.org/numpy.whl", "requirements.txt", "exact version"),
        ("-r other.txt", "requirements.txt", "not followed"),
        ("-e .", "requirements.txt", "not followed"),
        (
            "--extra-index-url https://user:secret@wheels.example.org/simple\nnumpy==1.0",
            "requirements.txt",
            "credentials",
        ),
        ("--extra-index-url file:///somewhere\nnumpy==1.0", "requirements.txt", "others cannot reach"),
        ("", "requirements.txt", "locks nothing"),
        ("][", "uv.lock", "no lock file"),
        ("package = 3", "uv.lock", "no lock file"),
        ('lock-version = "1.0"\npackages = [1]', "pylock.toml", "no lock file"),
        ("!!", "requirements.txt", "not a requirement"),
    ],
)
def test_what_is_no_lock_is_refused(text: str, file: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        project_locks.parse(text.encode(), file)
    assert "secret" not in caught.value.message + str(caught.value.hint)


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["requirements.txt", "uv.lock", "pylock.toml"]))
def test_any_bytes_are_read_or_refused(data: bytes, file: str) -> None:
    try:
        project_locks.parse(data, file)
    except UsageError as refused:
        assert refused.message


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("<2", ">=2", True),
        ("<2", "==2.4.6", True),
        (">=1.21.6,<2", "==1.26.4", False),
        ("<2", ">=1.21", False),
        ("==3.20.3", ">=4.25.8", True),
        ("!=2.0", "==2.0", True),
        ("~=1.4", ">=2", True),
        ("~=1.4", ">=1.9", False),
        ("", ">=1", False),
        (">1", "<2", False),
        (">1.5", "<1.5.1", False),
        ("==2.*", "<2", True),
        ("==2.*", ">=2.3", False),
    ],
)
def test_ranges_that_exclude_each_other_are_found(one: str, other: str, expected: bool) -> None:
    assert _conflict.are_disjoint(SpecifierSet(one), SpecifierSet(other)) is expected


UV_SAYS = """error: No solution found when resolving dependencies
  cause: Because ml-dtypes>=0.5.4 depends on numpy{python_full_version >= '3.13'}>=2.1.0 and you require
         ml-dtypes>=0.5.4, we can conclude that you require numpy>=2.1.0.
         And because you require numpy==1.26.4, we can conclude that your requirements are unsatisfiable."""
PIP_SAYS = (
    "ResolutionImpossible: [RequirementInformation(requirement=SpecifierRequirement('numpy>=2.1.0'), "
    "parent=LinkCandidate('https://files.pythonhosted.org/packages/11/ml_dtypes-0.5.4-cp311-cp311-manylinux_2_27_x86_64.whl"
    "#sha256=5eec (from https://pypi.org/simple/ml-dtypes/)')), "
    "RequirementInformation(requirement=SpecifierRequirement('numpy==1.26.4'), parent=None)]"
)


@pytest.mark.parametrize("text", [UV_SAYS, PIP_SAYS])
def test_conflict_is_one_sentence_from_every_engine(text: str) -> None:
    own = project_locks.parse(b"numpy==1.26.4", "requirements.txt")
    wanted = runtime_wheels.LockRequest({"onnxruntime": ("ml-dtypes>=0.5.4",)}, ("linux_x86_64-cp313",), own=own)
    error = runtime_wheels._no_solution_error("onnxruntime", "linux_x86_64-cp313", NoSolutionError(text), wanted)
    assert "`numpy==1.26.4` from `requirements.txt` against `numpy>=2.1.0` from ml-dtypes" in error.message
    assert "try:" in str(error.hint)


def test_a_conflict_with_the_projects_own_lock_needs_no_index() -> None:
    own = project_locks.parse(b"numpy==2.4.6", "requirements.txt")
    wanted = runtime_wheels.LockRequest(
        {"onnxruntime": ("numpy<2", "onnxruntime==1.17.*")}, ("linux_x86_64-cp311",), own=own
    )
    with pytest.raises(
        UsageError, match=r"`numpy<2` from runtime `onnxruntime` .* against `numpy==2.4.6` from `requirements.txt`"
    ):
        runtime_wheels.lock(wanted, {}, lambda key, ask: ask(), lambda event: None)


def test_a_file_that_the_own_lock_does_not_accept_is_refused() -> None:
    own = project_locks.parse(f"numpy==2.4.6 --hash=sha256:{'00' * 32}".encode(), "requirements.txt")
    with pytest.raises(IntegrityError, match=r"not a file that `requirements.txt` accepts"):
        runtime_wheels._check_hash(wheel("numpy", "2.4.6", NAMES[0], pure=False), own)


def test_addresses_are_recorded_without_what_opens_them() -> None:
    index = "https://wheels.example.org/simple"
    given = "https://u:p@wheels.example.org/a.whl?token=x#sha256=1"
    assert find_public(given, [index], {}) == "https://wheels.example.org/a.whl"
    assert find_public(given, [index], {"PIP_EXTRA_INDEX_URL": "https://wheels.example.org/t0k3n/simple"}) is None
    assert find_public("https://mirror.internal/a.whl", [index], {}) is None
    assert find_public("file:///srv/a.whl", [index], {}) is None


def unpacked(folder: Path, names: list[str], vendored: list[str]) -> Path:
    deps = folder / "deps"
    (deps / "wheels").mkdir(parents=True)
    value = {name: (wheel("click", "8.5.1", name, pure=False),) for name in names}
    for name, text in wheel_locks.write_lock_files(value, (), ()).items():
        (deps / name).write_text(text)
    for name in vendored:
        (deps / "wheels" / value[name][0].file).write_bytes(b"")
    if not vendored:
        (deps / "wheels").rmdir()
    return deps


def test_an_installation_takes_the_lock_of_its_own_python(tmp_path: Path) -> None:
    here, other = platforms.name_host(), "linux_x86_64-cp399"
    deps = unpacked(tmp_path / "a", [here, other], [here])
    assert choose(deps, None).requirements.name == f"requirements-{here}.txt"
    assert choose(deps, None).place == deps / "wheels"
    assert choose(deps, tmp_path).place == tmp_path
    assert choose(unpacked(tmp_path / "b", [here], []), None).place is None


def test_other_python_error_lists_carried_ones(tmp_path: Path) -> None:
    here, other = platforms.name_host(), "linux_x86_64-cp399"
    with pytest.raises(NegativeAnswerError, match=rf"carries wheels for `{other}`, and this is `{here}`") as caught:
        choose(unpacked(tmp_path / "a", [here, other], [other]), None)
    assert "CPython 3.99" in str(caught.value.hint)
    with pytest.raises(NegativeAnswerError, match=rf"is locked for `{other}`"):
        choose(unpacked(tmp_path / "b", [other], []), None)


@pytest.mark.parametrize("engine", ["uv", "pip-tools"])
def test_the_engines_start_light(engine: str) -> None:
    code = f"from packager.lock import lockers; import sys; lockers.load({engine!r}); print('pip' in sys.modules, 'piptools' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
