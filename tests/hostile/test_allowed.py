# SPDX-License-Identifier: Apache-2.0
"""What may be unpickled at all is a list: gadgets are refused by name, honest models of the known libraries pass."""

from __future__ import annotations

import bz2
import functools
import gzip
import importlib
import importlib.util
import inspect
import io
import json
import lzma
import pickle
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

from packager import plugins, scanners
from packager.actions.runner import Runner
from packager.sandbox.sandbox import default_limits
from packager.scanners import _allowlist, _reading, allowed
from packager.steps import scan as step
from packager.store.store import Store
from tests.conftest import Run
from tests.hostile import search
from tests.hostile.gadgets import GADGETS, plain

COMPRESSIONS = (None, "zlib", "gzip", "bz2", "lzma", "xz")


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    files = [path.name for path in folder.iterdir()]
    return {
        name: step.run({"source": folder}, folder, {"scanner": name, "files": files, "own": []})
        for name in plugins.list_names("scanners")
    }


@pytest.mark.parametrize("name", GADGETS)
def test_no_gadget_is_clean(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.pkl").write_bytes(GADGETS[name]())
    answer = outcomes(tmp_path)["allowed"]["m.pkl"]
    assert answer["outcome"] in ("infected", "failed"), answer
    assert answer["words"]


FOUND = sorted(_allowlist._names((Path(__file__).parent / "found.txt").read_text()))


def test_what_a_search_through_sources_found_is_not_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each by itself, called with a text; nothing of it is imported."""
    assert len(FOUND) >= 200 and not set(FOUND) & _allowlist.ALLOWED
    for index, (module, name) in enumerate(FOUND):
        (tmp_path / f"{index}.pkl").write_bytes(plain(module, name, "1")())
    answers = outcomes(tmp_path)
    assert {seen["outcome"] for seen in answers["allowed"].values()} == {"infected"}
    clean = {
        FOUND[int(file.removesuffix(".pkl"))]
        for file in answers["allowed"]
        if all(answers[other][file]["outcome"] == "clean" for other in ("fickling", "picklescan"))
    }
    with capsys.disabled():
        print(f"\n{len(FOUND)} found by search; clean for both others: {len(clean)}")


def test_no_listed_name_runs_what_it_is_given() -> None:
    """Read in the sources of the installed versions: neither a listed function nor a method that a pickle reaches."""
    looked, harmful = 0, []
    for module in sorted({module for module, _ in _allowlist.ALLOWED}):
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            continue
        if spec is None or not (spec.origin or "").endswith(".py"):
            continue
        for name, functions in search.definitions(Path(str(spec.origin)).read_text()):
            if (module, name) in _allowlist.ALLOWED:
                looked += 1
                harmful += [(module, name) for function in functions if next(search.harms(function), None)]
    assert looked > 700
    assert not harmful


def test_all_that_torch_itself_takes_for_weights_is_listed() -> None:
    from torch._weights_only_unpickler import _get_allowed_globals

    taken = {tuple(name.rsplit(".", 1)) for name in _get_allowed_globals()}
    assert len(taken) > 100
    assert not taken - _allowlist.ALLOWED


def test_there_are_gadgets_that_the_others_call_clean(tmp_path: Path) -> None:
    """The control: else the list would not be needed."""
    for name, make in GADGETS.items():
        (tmp_path / f"{name}.pkl").write_bytes(make())
    answers = outcomes(tmp_path)
    clean = {
        file
        for file in answers["allowed"]
        if all(answers[other][file]["outcome"] == "clean" for other in ("fickling", "picklescan"))
    }
    print("clean for both others:", sorted(clean))
    assert len(clean) >= 3


def estimators() -> Iterator[tuple[str, Any]]:
    """Fit every estimator of scikit-learn on toy data."""
    from sklearn.utils import all_estimators

    from tests.hostile.toys import fitted

    for name, kind in all_estimators():
        yield from ((name, model) for model in fitted(name, kind))


@pytest.mark.slow
def test_every_estimator_scans_clean(tmp_path: Path) -> None:
    models = dict(estimators())
    assert len(models) > 180
    for index, (name, model) in enumerate(models.items()):
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(model, 2 + index % 4))
        form = COMPRESSIONS[index % len(COMPRESSIONS)]
        joblib.dump(model, tmp_path / f"{name}.joblib", compress=(form, 3) if form else 0)
    for scanner, answer in outcomes(tmp_path).items():
        unclean = {file: seen for file, seen in answer.items() if seen["outcome"] != "clean" or seen["words"]}
        assert not unclean, (scanner, unclean)


def test_what_honest_pipelines_bring_besides_is_clean(tmp_path: Path) -> None:
    import cloudpickle
    import lightgbm
    import pandas as pd
    import xgboost
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.preprocessing import FunctionTransformer
    from sklearn.tree import DecisionTreeClassifier

    features, labels = np.random.default_rng(0).random((60, 3)), np.arange(60) % 2
    honest = {
        "generator": np.random.default_rng(0),
        "state": np.random.RandomState(0),
        "ufunc": FunctionTransformer(np.log1p),
        "partial": FunctionTransformer(functools.partial(np.clip, a_min=0, a_max=1)),
        "categories": HistGradientBoostingClassifier(categorical_features=[0]).fit(np.c_[labels, features], labels),
        "masked": np.ma.masked_array([1.0, 2.0], [True, False]),
        "structured": np.zeros(3, dtype=[("a", "f8"), ("b", "i4", 2)]),
        "nested": np.zeros(3, dtype=np.dtype([("a", "f8"), ("b", [("c", "U3"), ("d", "O")])], align=True)),
        "dates": np.array(["2024-01-01", "NaT"], dtype="M8[D]"),
        "durations": np.array([1, 2], dtype="m8[ns]"),
        "kinds": [np.zeros(2, kind) for kind in ("?", "i1", "u8", "f2", ">f4", "c16", "S5", "U7", "V3", "O")],
        "padded": np.zeros(2, dtype={"names": ["a"], "formats": ["f8"], "offsets": [8], "itemsize": 32}),
        "nodes": DecisionTreeClassifier().fit(features, labels).tree_.__getstate__()["nodes"],
        "objects": np.array(["a", None, 1], dtype=object),
        "fortran": np.asfortranarray(np.ones((300, 4))),
        "empty": np.zeros((0, 4)),
        "scalar": np.float32(1),
        "frame": pd.DataFrame({"a": [1.0], "b": pd.Categorical(["x"])}),
        "lightgbm": lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(features, labels),
        "xgboost": xgboost.XGBClassifier(n_estimators=3).fit(features, labels),
    }
    for name, value in honest.items():
        (tmp_path / f"{name}.pkl").write_bytes(cloudpickle.dumps(value))
        for form in COMPRESSIONS:
            joblib.dump(
                {"model": value, "more": np.arange(5)}, tmp_path / f"{name}.{form}.joblib", (form, 3) if form else 0
            )
    for scanner, answer in outcomes(tmp_path).items():
        assert {seen["outcome"] for seen in answer.values()} == {"clean"}, (scanner, answer)


@pytest.mark.parametrize("protocol", range(6))
def test_joblib_is_read_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    joblib.dump({"a": np.arange(7), "b": np.array([None, "x"], dtype=object)}, tmp_path / "m.joblib", protocol=protocol)
    for scanner, answer in outcomes(tmp_path).items():
        assert answer["m.joblib"]["outcome"] == "clean", (scanner, answer)


def test_numbers_are_left_out_and_nothing_else(tmp_path: Path) -> None:
    joblib.dump([np.full(1000, 7.0), "kept", np.array([{"inner": 1}], dtype=object)], tmp_path / "m.joblib")
    found = dict(scanners.find_pickles(tmp_path / "m.joblib"))
    assert list(found) == ["m.joblib", "m.joblib[0]"]
    assert b"kept" in found["m.joblib"] and len(found["m.joblib"]) < 1000
    assert pickle.loads(found["m.joblib[0]"]).tolist() == [{"inner": 1}]


def test_an_array_longer_than_the_file_is_not_clean(tmp_path: Path) -> None:
    sink = io.BytesIO()
    joblib.dump(np.arange(100.0), sink)
    (tmp_path / "m.joblib").write_bytes(sink.getvalue()[:-300])
    assert {answer["m.joblib"]["outcome"] for answer in outcomes(tmp_path).values()} == {"failed"}


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress, bz2.compress, lzma.compress])
def test_bombs_and_second_streams_are_not_clean(tmp_path: Path, pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from packager.scanners import _packed

    monkeypatch.setattr(_packed, "_SLACK", 1 << 20)
    honest, hostile = pickle.dumps([1, 2, 3]), GADGETS["os.system"]()
    (tmp_path / "two.pkl").write_bytes(pack(honest[:-1]) + pack(b"0" + hostile[2:]))
    (tmp_path / "bomb.pkl").write_bytes(pack(honest + bytes(64 << 20)))
    (tmp_path / "cut.pkl").write_bytes(pack(honest * 100)[:-9])
    for answer in outcomes(tmp_path).values():
        assert {seen["outcome"] for seen in answer.values()} == {"failed"}


def test_packed_text_is_no_pickle(tmp_path: Path) -> None:
    (tmp_path / "vocabulary.txt.gz").write_bytes(gzip.compress(b"the\nand\n" * 100))
    assert scanners.is_candidate("vocabulary.txt.gz", (tmp_path / "vocabulary.txt.gz").read_bytes()[: scanners.HEAD])
    assert {answer["vocabulary.txt.gz"]["outcome"] for answer in outcomes(tmp_path).values()} == {"clean"}
    (tmp_path / "vocabulary.txt.gz").write_bytes(gzip.compress(pickle.dumps(print, 4)))
    assert outcomes(tmp_path)["allowed"]["vocabulary.txt.gz"]["outcome"] == "infected"


def test_source_code_never_replaces_a_library(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(b"\x80\x02cnet\nCnn\n)R.")
    assert allowed.judge(tmp_path / "m.pkl", ()) == (
        ["net.Cnn, a name of a module that is not on the list of what models need"],
        [],
    )
    assert allowed.judge(tmp_path / "m.pkl", ("net",)) == ([], ["net.Cnn, code of the source's own"])
    assert allowed.judge(tmp_path / "m.pkl", ("net", "sklearn"))[0]


def test_allowed_names_exist_and_are_plain() -> None:
    """Names of the installed versions resolve; not one is a module, and none comes from where text is run."""
    found = 0
    for module, name in _allowlist.ALLOWED:
        assert not module.startswith(("scipy.stats", "numpy.testing", "torch.hub", "sklearn.externals.array", "mlflow"))
        try:
            value = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
        found += 1
        assert not inspect.ismodule(value)
    assert found > 800


def test_sixty_megabytes_take_less_than_two_seconds(tmp_path: Path) -> None:
    joblib.dump([np.random.default_rng(i).random(10_000) for i in range(800)], tmp_path / "m.joblib")
    assert (tmp_path / "m.joblib").stat().st_size > 60e6
    for scanner in plugins.list_names("scanners"):
        start = time.process_time()
        answer = step.run({"source": tmp_path}, tmp_path, {"scanner": scanner, "files": ["m.joblib"]})
        print(scanner, f"{time.process_time() - start:.2f} s")
        assert answer["m.joblib"]["outcome"] == "clean"
        assert time.process_time() - start < 4, "two seconds, twice for a busy processor"


@pytest.mark.slow
def test_a_large_vocabulary_is_no_attack(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({f"word {index}": index for index in range(150_000)}))
    for scanner, answer in outcomes(tmp_path).items():
        assert answer["m.pkl"]["outcome"] == "clean", (scanner, answer)


def test_a_reader_that_fails_says_so_and_runs_nothing() -> None:
    """Every prefix of a pickle that calls a shell."""
    data = GADGETS["os.system"]()
    for length in range(len(data)):
        assert _reading.read(data[:length], joblib=True).fault is not None


def test_the_source_tree_says_which_modules_are_its_own(tmp_path: Path) -> None:
    from packager.actions import scan

    runner = Runner(Store(tmp_path / "store"), default_limits(), jobs=2)
    files = {"code/net/__init__.py": b"", "code/tools.py": b"", "m.pkl": b"\x80\x02cnet\nCnn\n)R."}
    tree = runner.store.put_tree(scan.Tree.of({path: runner.store.put(data) for path, data in files.items()}))
    seen = scan.scan(tree, runner, "sklearn_pickle", None)["files"]["m.pkl"]
    assert seen[f"allowed {allowed.VERSION}"] == {"outcome": "clean", "words": ["net.Cnn, code of the source's own"]}


@pytest.mark.slow
def test_a_joblib_file_is_released_and_a_gadget_in_one_is_not(packager: Run, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    features = np.random.default_rng(0).random((50, 4)).astype("float32")
    joblib.dump(LogisticRegression().fit(features, features[:, 0] > 0.5), tmp_path / "model.joblib", ("gzip", 3))
    (tmp_path / "bundle.yaml").write_text("name: m\nversion: 1.0.0\nsource: ./model.joblib\nallow-pickle: true\n")
    built = json.loads(packager("build", "--json").stdout)
    assert built["verdict"]["ok"], built
    (tmp_path / "model.joblib").write_bytes(GADGETS["behind compressed numbers"]())
    packager("lock")
    refused = json.loads(packager("build", "--json", code=1).stdout)
    assert {finding["rule"] for finding in refused["findings"]} == {"scanned"}


def test_file_with_joblib_inside_scikit_learn_opens(tmp_path: Path) -> None:
    from packager.exporters._files import pickled

    joblib.dump({"a": np.arange(5.0)}, tmp_path / "new.pkl", protocol=3)
    data = (tmp_path / "new.pkl").read_bytes()
    (tmp_path / "old.pkl").write_bytes(data.replace(b"cjoblib.numpy", b"csklearn.externals.joblib.numpy"))
    (tmp_path / "new.pkl").unlink()
    assert {answer["old.pkl"]["outcome"] for answer in outcomes(tmp_path).values()} == {"clean"}
    assert pickled.load(tmp_path, "old.pkl")["a"].tolist() == [0, 1, 2, 3, 4]


def test_code_by_value_is_said_once_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(GADGETS["code by value"]())
    found = allowed.scan(tmp_path / "m.pkl")
    assert sum("by value" in words for words in found) == 1
    assert "log its module with `code_paths` instead" in found[0]
