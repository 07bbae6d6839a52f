# SPDX-License-Identifier: Apache-2.0
"""Scanners of build inputs: what runs code is found by both, honest models are clean, and what hangs is stopped."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packager import plugins, scanners
from packager.actions import scan
from packager.actions.runner import Runner
from packager.errors import StepError
from packager.sandbox.sandbox import Limits, default_limits
from packager.steps import scan as step
from packager.store.store import Store
from packager.types import Tree
from tests.conftest import Run
from tests.hostile.samples import SAMPLES

PICKLES = [name for name, sample in SAMPLES.items() if name.startswith(("pickle", "torch", "pt2"))]
TORCH = {"torch-save", "torch-legacy", "torch-legacy-allowed", "pt2-with-a-pickle"}
BLIND = {  # what a scanner cannot read, which is not clean either
    ("pickle-bad-crc", "fickling"),
    ("pickle-broken-tail", "fickling"),
    ("pickle-bad-crc", "allowed"),
}


def written(name: str, folder: Path) -> dict[str, bytes]:
    SAMPLES[name].write(folder, "/nonexistent/canary")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """Ask every scanner in this process about each candidate: no sample is ever unpickled by one."""
    files = [
        path.name for path in folder.iterdir() if scanners.is_candidate(path.name, path.read_bytes()[: scanners.HEAD])
    ]
    return {
        name: step.run({"source": folder}, folder, {"scanner": name, "files": files})
        for name in plugins.list_names("scanners")
    }


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in TORCH else n for n in PICKLES])
def test_both_see_what_every_hostile_pickle_does(tmp_path: Path, name: str) -> None:
    SAMPLES[name].write(tmp_path, str(tmp_path / "PWNED"))
    for scanner, answer in outcomes(tmp_path).items():
        assert answer, "no file of it is a candidate"
        expected = "failed" if (name, scanner) in BLIND else "infected"
        assert {seen["outcome"] for seen in answer.values()} == {expected}, (scanner, answer)
    assert not (tmp_path / "PWNED").exists()


def honest(folder: Path) -> None:
    """Write what honest sources hold: arrays, estimators, archives of arrays, plain data in a pickle."""
    import cloudpickle
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression().fit(np.eye(4), [0, 1, 0, 1])
    (folder / "estimator.pkl").write_bytes(pickle.dumps(estimator))
    (folder / "cloud.pkl").write_bytes(cloudpickle.dumps(RandomForestClassifier(3).fit(np.eye(4), [0, 1, 0, 1])))
    (folder / "bytes.pkl").write_bytes(pickle.dumps([bytearray(b"model" * 9), np.zeros(9)], 5))
    (folder / "old.pkl").write_bytes(pickle.dumps(OrderedDict(a=[1, "x"]), 0))
    np.save(folder / "numbers.npy", np.zeros(4))
    np.savez(folder / "numbers.npz", a=np.zeros(4), b=np.arange(3))


def test_honest_sources_are_clean(tmp_path: Path) -> None:
    honest(tmp_path)
    answers = outcomes(tmp_path)
    assert set(answers) >= {"picklescan", "fickling"}
    for answer in answers.values():
        assert sorted(answer) == ["bytes.pkl", "cloud.pkl", "estimator.pkl", "numbers.npy", "numbers.npz", "old.pkl"]
        assert {seen["outcome"] for seen in answer.values()} == {"clean"}, answer


@pytest.mark.slow
def test_honest_torch_files_are_clean(tmp_path: Path) -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.BatchNorm2d(2)).eval()
    torch.save(module.state_dict(), tmp_path / "state.pt")
    torch.save(module, tmp_path / "module.pth")
    torch.jit.script(module).save(str(tmp_path / "script.pt"))
    torch.export.save(torch.export.export(module, (torch.zeros(1, 1, 8, 8),)), tmp_path / "program.pt2")
    for answer in outcomes(tmp_path).values():
        assert len(answer) == 4
        assert {seen["outcome"] for seen in answer.values()} == {"clean"}, answer


def test_a_bytearray_hides_nothing(tmp_path: Path) -> None:
    """The opcode that one scanner does not know is read as another one; what follows it is still seen."""
    hostile = written("pickle-eval", tmp_path)["m.pkl"]
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(bytearray(b"x" * 99), 5)[:-1] + b"0" + hostile[2:])
    assert {answer["m.pkl"]["outcome"] for answer in outcomes(tmp_path).values()} == {"infected"}


def test_nested_pickles_are_found_up_to_a_depth(tmp_path: Path) -> None:
    data = written("pickle-os-system", tmp_path)["m.pkl"]
    (tmp_path / "m.pkl").unlink()
    for depth, expected in ((3, "infected"), (6, "failed")):
        inner, name = data, "data.pkl"
        for _ in range(depth):
            sink = io.BytesIO()
            with zipfile.ZipFile(sink, "w") as archive:
                archive.writestr(name, inner)
            inner, name = sink.getvalue(), "inner.zip"
        (tmp_path / "m.pt").write_bytes(inner)
        assert {answer["m.pt"]["outcome"] for answer in outcomes(tmp_path).values()} == {expected}


def test_bytes_before_an_archive_hide_nothing(tmp_path: Path) -> None:
    data = written("pickle-in-zip", tmp_path)["m.pt"]
    (tmp_path / "m.pt").write_bytes(b"\x89PNG" + bytes(60) + data)
    assert "infected" in {answer["m.pt"]["outcome"] for answer in outcomes(tmp_path).values()}


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x80\x04\x95", b"PK\x03\x04 not really", b"\x93NUMPY\x01\x00"])
def test_what_is_no_pickle_is_not_clean(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.pkl").write_bytes(data)
    assert "failed" in {answer["m.pkl"]["outcome"] for answer in outcomes(tmp_path).values()}


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "config.json", "tokenizer.model", "weights.bin"])
def test_formats_that_hold_data_are_no_candidates(name: str) -> None:
    assert not scanners.is_candidate(name, b"\x08\x08\x12\x07py")
    assert scanners.is_candidate(name, pickle.dumps([1])[:8]) or len(pickle.dumps([1])) > 8


# in the worker


def source(runner: Runner, **files: bytes) -> Tree:
    blobs = {}
    for name, data in files.items():
        blobs[name.replace("__", ".")] = runner.store.put(data)
    return runner.store.put_tree(Tree.of(blobs))


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(Store(tmp_path / "store"), default_limits(), jobs=2)


def test_a_source_without_programs_starts_no_worker(runner: Runner) -> None:
    answer = scan.scan(source(runner, model__onnx=b"\x08\x08\x12\x07pytorch"), runner, "onnx", None)
    assert (answer["files"], runner.executed) == ({}, 0)


def bomb(kind: str) -> bytes:
    """A small file that is large once somebody reads it."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        if kind == "opcodes":
            archive.writestr("archive/data.pkl", b"\x80\x02" + b"(" * (200 << 20))
        else:  # more than the memory limit, in an archive in an archive
            inner = io.BytesIO()
            with (
                zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as deeper,
                deeper.open("data.pkl", "w", force_zip64=True) as member,
            ):
                for _ in range(24):
                    member.write(bytes(64 << 20))
            archive.writestr("inner.pt", inner.getvalue())
    return sink.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["opcodes", "nested"])
def test_hanging_scanner_is_stopped_and_reports_failure(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(scan, "LIMITS", Limits(1 << 30, 10))  # a minute and 4 GiB are what a person has
    data = bomb(kind)
    assert len(data) < 6 << 20
    answer = scan.scan(source(runner, m__pt=data), runner, "torch_pickle", None)
    seen = answer["files"]["m.pt"]
    assert len(seen) == 3
    assert {outcome["outcome"] for outcome in seen.values()} == {"failed"}
    print(kind, json.dumps(seen))


def test_a_scanner_that_does_not_end_is_stopped(runner: Runner) -> None:
    """The limit itself, with a second: the step is given more work than that."""
    files = source(runner, m__pkl=pickle.dumps(list(range(3_000_000))))
    with pytest.raises(StepError, match="did not end within 1 seconds"):
        action = step_action(files)
        runner(action, "x", limits=Limits(4 << 30, 1))


def step_action(files: Tree) -> Any:
    from packager.sandbox.worker import host_version
    from packager.types import Action

    tools = {name: host_version(name) for name in ("python", "fickling")}
    return Action("scan", step.VERSION, {"source": files.digest}, {"scanner": "fickling", "files": ["m.pkl"]}, tools)


@pytest.mark.slow
def test_an_infected_source_is_not_opened(packager: Run, tmp_path: Path) -> None:
    """The recipe allows pickles, the scanners do not: the build ends before any step that opens it."""
    (tmp_path / "model").mkdir()
    written("pickle-runpy", tmp_path / "model")
    (tmp_path / "model" / "side.py").unlink()
    recipe = "name: m\nversion: 1.0.0\nsource: ./model/model.pkl\nallow-pickle: true\n"
    (tmp_path / "bundle.yaml").write_text(recipe + "inputs: {x: {dtype: float32, shape: [batch, 4]}}\n")
    done = packager("build", "--json", code=1)
    findings = json.loads(done.stdout)["findings"]
    assert {(finding["rule"], finding["subject"]) for finding in findings} == {("scanned", "model.pkl")}
    assert "runpy" in done.stderr
    assert "export" not in done.stderr
