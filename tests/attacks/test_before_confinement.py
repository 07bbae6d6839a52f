# SPDX-License-Identifier: Apache-2.0
"""Nothing of a source runs before it is confined, and none of its own code without consent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import textwrap
import venv
from pathlib import Path

import pytest

from packager.sandbox import sandbox
from packager.sandbox.sandbox import Confinement, Limits, Step
from packager.scanners import _code
from tests.conftest import Run

LEVELS = ("bubblewrap", "namespaces")
HIDE = ("unshare", "--mount", "sh", "-c", 'mount --bind /dev/null "$(command -v bwrap)"; exec "$@"', "sh")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment as a locked toolchain has it, with a wheel that runs code whenever its Python starts."""
    place = tmp_path_factory.mktemp("environment") / "env"
    for above in (place.parent, place.parent.parent):
        above.chmod(0o755)
    venv.create(place, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(place), "platbase": str(place)}))
    mark = "import os, sys; open(os.environ.get('MARK', '/'), 'w').write(str(os.getuid()))"
    (packages / "early.pth").write_text(mark + "\n")
    (packages / "sitecustomize.py").write_text("import os; open(os.environ['MARK'] + '2', 'w').write('x')\n")
    return place


@pytest.mark.parametrize("level", LEVELS)
def test_an_environment_is_opened_only_inside(tmp_path: Path, environment: Path, level: str) -> None:
    if level == "bubblewrap" and sandbox.find_confinement().level != level:
        pytest.skip("bubblewrap does not work here")
    outside, scratch = tmp_path / "outside", tmp_path / "scratch"
    outside.mkdir()
    outside.chmod(0o777)
    scratch.mkdir()
    python = sandbox.environment_interpreter(environment, scratch / "code")

    def started(mark: Path) -> sandbox.Outcome:
        step = Step(scratch, python, ("-c", "print('here')"), Limits(0, 60), {"MARK": str(mark)})
        return sandbox.run_confined(step, Confinement(level, seccomp=True, landlock=True, limits="step"), set())

    done = started(scratch / "home" / "mark")
    assert done.log.endswith(b"here\n")
    assert (scratch / "home" / "mark").exists() and (scratch / "home" / "mark2").exists(), "the control: it does run"
    assert os.getuid() != 0 or (scratch / "home" / "mark").read_text() != "0"
    assert b"No such file" in started(outside / "mark").log
    assert list(outside.iterdir()) == []


SHIM = """
import os, sys
class Marker:
    pass
try:
    open("CANARY", "w").write("ran")
except OSError:
    pass
"""
RECIPE = "name: m\nversion: 1.0.0\nsource: ./model\nallow-pickle: true\n"
TRAIN = """
import sys, pickle, numpy
sys.path.insert(0, sys.argv[1] + "/code")
import shim
from sklearn.linear_model import LogisticRegression
x = numpy.random.RandomState(0).randn(80, 3)
model = LogisticRegression().fit(x, (x[:, 0] > 0).astype(int))
model.note = shim.Marker()
pickle.dump(model, open(sys.argv[1] + "/model.pkl", "wb"))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    (model / "code").mkdir(parents=True)
    (model / "code" / "shim.py").write_text("class Marker:\n    pass\n")
    subprocess.run([sys.executable, "-B", "-c", TRAIN, model], check=True)
    (model / "code" / "shim.py").write_text(SHIM.replace("CANARY", str(tmp_path / "out" / "PWNED")))
    (tmp_path / "bundle.yaml").write_text(RECIPE)
    return model


def test_code_of_the_source_needs_consent_to_exactly_this_code(packager: Run, tmp_path: Path, source: Path) -> None:
    refused = packager("build", "--json", code=1)
    (found,) = [row for row in json.loads(refused.stdout)["findings"] if row["level"] == "error"]
    assert (found["rule"], found["subject"]) == ("source-code", "source")
    assert "code/shim.py" in found["message"]
    actions = [json.loads(path.read_bytes())["action"] for path in (tmp_path / "store/v1/actions").iterdir()]
    assert "export" not in {action["step"] for action in actions}, "nothing was opened"
    consent = next(word for word in found["hint"].split() if word.startswith("sha256:")).strip("`")
    drafted = packager("init", "./model", "-o", "draft.yaml")
    assert (
        "decide about `allow-code`" in drafted.stdout + drafted.stderr
        and f"# allow-code: {consent} " in (tmp_path / "draft.yaml").read_text()
    )
    (tmp_path / "bundle.yaml").write_text(RECIPE + f"allow-code: {consent}\n")
    built = json.loads(packager("build", "--json").stdout)["verdict"]
    assert built["ok"]
    (noted,) = [row for row in built["findings"] if row["rule"] == "source-code"]
    assert noted["level"] == "note" and "calls open" in noted["message"] and "imports sys" in noted["message"]
    with (source / "code" / "shim.py").open("a") as file:
        file.write("\n# another word\n")
    assert "without consent" in packager("build", code=1).stdout + packager("build", code=1).stderr


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("import os, packager.steps\nfrom ctypes import CDLL", ["imports ctypes", "imports packager.steps"]),
        ("eval('1'); x.eval('2')", ["calls eval"]),
        ("def f(:", ["cannot be read as Python: SyntaxError"]),
        ("(" * 5000, ["cannot be read as Python: "]),
        ("a\0b", ["cannot be read as Python: "]),
        ("x = 1", []),
    ],
)
def test_code_is_described_by_its_imports(data: str, expected: list[str]) -> None:
    found = _code.list_remarks("a.py", textwrap.dedent(data).encode())
    assert len(found) == len(expected) and all(map(str.startswith, found, expected))
    assert _code.list_remarks("a.so", b"\x7fELF") == ["a compiled module"]
