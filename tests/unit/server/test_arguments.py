# SPDX-License-Identifier: Apache-2.0
"""The server's options and `--knobs` follow from one declaration, and so does the schema of a bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from packager.deploy import server_files
from packager.knobs import catalogue
from packager.server.__main__ import _option, _parse_arguments
from packager.server.knobs import KNOBS
from tests.support import bundles

DIGEST = "sha256:" + "0" * 64
NUMBERS = [knob for knob in KNOBS.values() if knob.kind in ("integer", "number")]


def parse(*words: str, **values: object):
    return _parse_arguments(["serve.json", f"--knobs={json.dumps({'digest': DIGEST, 'values': values})}", *words])


def test_defaults_are_those_of_the_declaration() -> None:
    arguments = _parse_arguments(["serve.json"])
    assert arguments.values == {name: knob.default for name, knob in KNOBS.items()}
    assert (arguments.config, arguments.knobs.digest, arguments.inherited) == (Path("serve.json"), "", None)


def test_option_overrides_knobs_and_knobs_override_defaults() -> None:
    knobs = {"server.port": 9000, "server.cors": ["https://a.example"], "triton.instances": 3}
    arguments = parse("--port", "9001", "--forwarded", "true", **knobs)
    assert arguments.values["server.port"] == 9001
    assert arguments.values["server.cors"] == ["https://a.example"]
    assert arguments.values["server.forwarded"] is True
    assert arguments.values["server.drain"] == 30
    assert "triton.instances" not in arguments.values
    assert arguments.knobs.to_json() == {"digest": DIGEST, "values": knobs}


@pytest.mark.parametrize("knob", NUMBERS, ids=lambda knob: knob.name)
def test_value_out_of_bounds_is_refused_as_option_and_in_knobs(knob, capsys: pytest.CaptureFixture[str]) -> None:
    over = int(knob.high) + 1
    for words, values in (((_option(knob), str(over)), {}), ((), {knob.name: over})):
        with pytest.raises(SystemExit) as ended:
            parse(*words, **values)
        assert ended.value.code == 2
        assert f"`{knob.name}`: expected" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["9000", 9000.5, True, [9000]])
def test_value_of_another_type_is_refused_in_knobs(value: object) -> None:
    with pytest.raises(SystemExit):
        parse(**{"server.port": value})


def test_bounds_of_a_bundle_lie_within_those_of_the_server() -> None:
    for knob in catalogue.knobs_for(bundles.CONTRACT_OF_TINY):
        own = KNOBS.get(knob.name)
        if own is not None:
            assert (knob.kind, knob.unit, knob.needs, knob.choices) == (own.kind, own.unit, own.needs, own.choices)
            assert own.low <= knob.low and knob.high <= own.high
            assert own.kind == "secret" or knob.default is None or own.allows(knob.default)


@pytest.mark.parametrize("words", [["--batch", "none.json", "1"], ["--help"]], ids=["rows", "server"])
def test_numpy_has_one_thread_where_nothing_else_is_set(words: list[str], tmp_path: Path) -> None:
    """Several wait for each other, milliseconds where other programs hold the cores."""
    program = tmp_path / "program.py"
    program.write_bytes(server_files.list_program("onnxruntime")["__main__.py"])
    code = (
        "import os, runpy, sys\nprogram, *sys.argv[1:] = sys.argv[1:]\n"
        "try:\n    runpy.run_path(program, run_name='__main__')\n"
        "except SystemExit as error:\n    print(os.environ['OPENBLAS_NUM_THREADS'], file=sys.stderr)"
    )
    for given, expected in (({}, "1"), ({"OPENBLAS_NUM_THREADS": "3"}, "3")):
        done = subprocess.run(
            [sys.executable, "-c", code, program, *words],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **given},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr.splitlines()[-1] == expected, done.stderr
