# SPDX-License-Identifier: Apache-2.0
"""What a locked toolchain is put together from: versions that fit a library's age, a second choice, one sentence."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from packager.lock import library_ages, origins, toolchains
from packager.lock.lock import Environment
from packager.lock.origins import Origin
from packager.store.store import Store

TOOLS = ("scikit-learn", "skl2onnx", "onnx", "numpy", "scipy")


def lines(origin: Origin, tools: tuple[str, ...] = TOOLS, *, more: bool = True) -> dict[str, SpecifierSet]:
    found = [Requirement(line) for line in origins.requirements_for(tools, origin, more=more)]
    assert next(item.name for item in found if item.name in tools) == tools[0], "the first gets its newest version"
    return {item.name: item.specifier for item in found}


@pytest.mark.parametrize(
    ("library", "version", "package", "allowed", "refused"),
    [
        ("scikit-learn", "1.2.2", "numpy", "1.26.4", "2.0.0"),
        ("scikit-learn", "1.4.1.post1", "numpy", "1.26.4", "2.0.0"),
        ("xgboost", "1.5.1", "setuptools", "80.9.0", "81.0.0"),
        ("xgboost", "2.0.3", "numpy", "1.26.4", "2.0.0"),
        ("keras", "3.3.3", "onnx", "1.18.0", "1.19.0"),
        ("tensorflow", "2.17.1", "onnx", "1.18.0", "1.19.0"),
    ],
)
def test_the_age_of_a_library_bounds_what_is_around_it(
    library: str, version: str, package: str, allowed: str, refused: str
) -> None:
    found = lines(Origin(None, {library: f"=={version}"}))
    assert found[package].contains(allowed) and not found[package].contains(refused)


def test_current_library_and_stated_bounds_are_kept() -> None:
    assert "numpy" in lines(Origin(None, {"scikit-learn": "==1.6.1"}))
    assert not lines(Origin(None, {"scikit-learn": "==1.6.1"}))["numpy"]
    stated = lines(Origin(None, {"scikit-learn": "==1.2.2", "numpy": "==1.23.5"}))
    assert str(stated["numpy"]) == "==1.23.5"
    assert "setuptools" not in lines(Origin(None, {"xgboost": "==3.0.0"}))
    assert "setuptools" not in lines(Origin(None, {"xgboost": "==1.5.1"}), more=False), "nor what is not installed"


def test_keras_2_file_locks_tensorflow_of_its_reader() -> None:
    found = origins.requirements_for(("tf-keras", "tensorflow", "onnx"), Origin(None, {}), more=False)
    assert found[0].startswith("tf-keras") and found[1].startswith("tensorflow>=")


def test_the_second_choice() -> None:
    old = Origin("3.11", {"xgboost": "==1.5.1"})
    assert [item.packages for item in origins.candidate_origins(old, ("xgboost",))] == [
        {"xgboost": "==1.5.1"},
        {"xgboost": ">=1.5.1"},
    ]
    pickled = Origin("3.11", {"scikit-learn": "==1.2.2"})
    assert [item.packages.get("numpy") for item in origins.candidate_origins(pickled, ())] == [None, "<2"]
    told = Origin("3.11", {"scikit-learn": "==1.2.2", "numpy": "==2.1.0"})
    assert (
        len(list(origins.candidate_origins(told, ())))
        == len(list(origins.candidate_origins(Origin(None, {}), ("keras",))))
        == 1
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "Because scikit-learn==0.24.2 has no usable wheels and you require",
            "`scikit-learn 0.24.2` has no build for Python 3.11",
        ),
        (
            "Because tensorflow-cpu==2.4.1 has no wheels with a matching Python ABI tag",
            "`tensorflow 2.4.1` has no build for Python 3.11",
        ),
        (
            "Because there is no version of mylib==9.9 and you require mylib==9.9",
            "the package index has no `mylib 9.9`",
        ),
        (
            "Because scipy==1.7.0 depends on numpy<1.23 and you require numpy>=2",
            (
                "the packages that the source requires do not fit together on Python 3.11: `numpy>=2` from the source and "
                "`numpy<1.23` from scipy 1.7.0 contradict each other"
            ),
        ),
        ("unheard-of words", "the packages that the source requires do not fit together on Python 3.11"),
    ],
)
def test_no_solution_is_one_sentence_of_ours(said: str, expected: str) -> None:
    assert toolchains._unresolved(["scipy==1.7.0", "numpy>=2"], "3.11", said) == expected


def test_a_release_from_before_a_python_has_no_build_for_it() -> None:
    for packages, python, expected in (
        ({"scikit-learn": "==0.24.2"}, "3.11", "scikit-learn 0.24.2"),
        ({"scikit-learn": "==1.2.2"}, "3.11", None),
        ({"scikit-learn": "==1.2.2"}, "3.13", "scikit-learn 1.2.2"),
        ({"tensorflow": "==2.4.1"}, "3.11", "tensorflow 2.4.1"),
        ({"xgboost": "==0.90"}, "3.11", None),
        ({"scikit-learn": ">=0.24"}, "3.11", None),
    ):
        assert library_ages.unbuilt_library(packages, python) == expected


def test_locked_environment_holds_bytecode(tmp_path: Path) -> None:
    """A worker may not write beside the libraries, and would compile every module each time that it starts."""
    wheel = "b6a85871a79d2e3b22d2d1b94ac2824226a63c6b741c88f7ae975f18b6778374"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    environment = Environment(python, f"iniconfig==2.0.0 --hash=sha256:{wheel}\n")
    place = toolchains.prepare(environment, (), Store(tmp_path), dict(os.environ), lambda _: None)
    (module,) = place.glob("lib/python*/site-packages/iniconfig/__init__.py")
    assert [*module.parent.glob("__pycache__/__init__.*.pyc")], "compiled when it was installed"
