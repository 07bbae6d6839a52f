# SPDX-License-Identifier: Apache-2.0
"""The command line as people and scripts meet it: where options stand, what it says alone, who is completed."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from packager import cli
from packager.cli import _verbs
from packager.contract import fleet
from packager.store.store import Store
from tests.conftest import Run
from tests.support import bundles

MODULES = {name: _verbs.load_verb(name) for name in _verbs.list_verbs()}


@pytest.mark.parametrize("words", [(), ("--help",), ("help",)])
def test_help_lists_every_verb_under_whose_work_it_is(packager: Run, words: tuple[str, ...]) -> None:
    said = packager(*words).stdout
    place = {title: said.index(f"\n{title}\n") for title in _verbs.GROUPS.values()}
    assert list(place.values()) == sorted(place.values())
    for name, module in MODULES.items():
        row = said.index(f"\n  {name} ")
        above = [title for title, start in place.items() if start < row][-1]
        assert above == _verbs.GROUPS[_verbs.group_of(module)]


def test_whose_work_a_verb_is_is_spelt_as_a_group() -> None:
    """One that says nothing is for everybody."""
    assert {
        name for name, module in MODULES.items() if getattr(module, "FOR", "everybody") not in _verbs.GROUPS
    } == set()
    assert _verbs.group_of(MODULES["sign"]) == "release" and _verbs.group_of(MODULES["rollback"]) == "site"


def test_a_verb_is_explained_by_help(packager: Run) -> None:
    assert packager("help", "verify").stdout == packager("verify", "--help").stdout
    assert "did you mean `verify`" in packager("help", "verfy", code=2).stderr
    told = json.loads(packager("help", "--json").stdout)
    assert set(told["verbs"]) == set(MODULES) and told["verbs"]["install"]["for"] == "site"


@pytest.mark.parametrize(
    "words",
    [
        ("--json", "cache", "size"),
        ("cache", "--json", "size"),
        ("cache", "size", "--json"),
        ("--quiet", "--json", "cache", "size"),
        ("--jobs", "2", "--json", "cache", "size"),
        ("--jobs=2", "--json", "cache", "size"),
    ],
    ids=" ".join,
)
def test_json_may_stand_anywhere(packager: Run, words: tuple[str, ...]) -> None:
    assert isinstance(json.loads(packager(*words).stdout), dict)


def test_a_store_may_stand_before_the_verb(packager: Run, tmp_path: Path) -> None:
    packager("--store", tmp_path / "other", "cache", "size")
    assert (tmp_path / "other").is_dir() and not (tmp_path / "store").exists()
    packager(f"--store={tmp_path / 'third'}", "cache", "size")
    assert (tmp_path / "third").is_dir()


def test_an_error_before_any_verb_is_json_too(packager: Run) -> None:
    assert json.loads(packager("--json", "verfy", code=2).stdout)["error"]["code"] == 2
    assert packager("--json", code=2).stderr.startswith("error:")


def pipe(tmp_path: Path, *words: str | Path) -> tuple[int, str]:
    """Run a command whose reader has gone; return its exit code and what it said on stderr."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PACKAGER_STORE": str(tmp_path / "store")}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "packager", *map(str, words)],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
    )
    os.close(writing)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "words", [("schema", "contract"), ("help",), ("--help",), (), ("runtimes", "list"), ("--version",)], ids=" ".join
)
def test_a_reader_who_leaves_hears_nothing_and_gets_no_yes(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert pipe(tmp_path, *words) == (cli.CUT_OFF, "")


def test_an_error_that_nobody_reads_is_quiet_too(tmp_path: Path) -> None:
    code, said = pipe(tmp_path, "help", "verfy", "--json")
    assert code == cli.CUT_OFF and said.startswith("error: `verfy`") and said.count("\n") == 2, said
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "packager", "verfy"], stderr=writing, stdout=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stdout) == (cli.CUT_OFF, "")


def test_a_full_disk_behind_the_answer_is_an_error(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "packager", "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 4 and "no space left" in done.stderr.lower()


def test_no_verdict_becomes_a_yes_because_nobody_reads_it(tmp_path: Path, store: Store) -> None:
    bundle = bundles.make(store)
    code, said = pipe(tmp_path, "inspect", f"{bundle.name}:{bundle.version}")
    assert (code, said) == (cli.CUT_OFF, "")


def completions(line: str, tmp_path: Path) -> list[str]:
    """Speak the protocol that the generated scripts speak."""
    environment = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_WORDBREAKS": " ",
        "PACKAGER_STORE": str(tmp_path / "store"),
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
    }
    script = Path(sys.executable).parent / "packager"
    done = subprocess.run(
        ["sh", "-c", f"{script} 8>&1 9>/dev/null"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    return [word.strip() for word in done.stdout.split("\n")]


def test_bundles_of_the_store_and_files_are_completed(tmp_path: Path, store: Store) -> None:
    bundle = bundles.make(store)
    (tmp_path / "other.bundle.tar").touch()
    for line in ("packager inspect ", "packager verify ", "packager diff ", "packager doctor ", "packager config "):
        found = completions(line, tmp_path)
        assert f"{bundle.name}:{bundle.version}" in found and "other.bundle.tar" in found, line
    assert completions(f"packager inspect {bundle.name}:", tmp_path) == [f"{bundle.name}:{bundle.version}"]
    assert completions("packager inspect nothing", tmp_path) == [""]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("packager render ", {"triton", "bentoml", "kubernetes"}),
        ("packager compat x --runtime onn", {"onnxruntime=="}),
        ("packager compat x --runtime onnxruntime==1.31", {"onnxruntime==1.31.0"}),
        ("packager help ver", {"verify"}),
        ("packager policy ", {"check", "explain"}),
        ("packager ro", {"rollback"}),
    ],
)
def test_kinds_runtimes_and_actions_are_completed(tmp_path: Path, line: str, wanted: set[str]) -> None:
    assert wanted <= set(completions(line, tmp_path))


def test_completion_makes_no_store(tmp_path: Path) -> None:
    completions("packager inspect ", tmp_path)
    assert not (tmp_path / "store").exists()


def test_a_verb_hides_no_name_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    """Once it is imported, a module `list` of this package stands where its own code would look for the function."""
    assert {"list", "help"} <= MODULES.keys() & vars(builtins).keys()
    assert cli.main(["help"]) == 0
    assert "release" in capsys.readouterr().out


def test_doctor_folds_the_features_of_the_processor_on_a_terminal_only(tmp_path: Path) -> None:
    """A fleet file needs each of them, a reader does not."""
    command = [sys.executable, "-m", "packager", "doctor", "--name", "here"]
    piped = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    ours, theirs = os.openpty()
    with open(ours, "rb", buffering=0) as screen:
        subprocess.run(command, cwd=tmp_path, stdout=theirs, stderr=subprocess.DEVNULL, check=True)
        os.close(theirs)
        shown = screen.read(1 << 16).decode()
    (site,) = fleet.parse(piped, "piped")
    (folded,) = fleet.parse(shown.replace("\r", ""), "shown")
    assert "# cpu" not in piped and folded.cpu == ()
    assert f"# cpu: {len(site.cpu)} feature" in shown or not site.cpu
    assert len(shown) < 2000, "it fits on a screen"
