# SPDX-License-Identifier: Apache-2.0
"""No text of others acts: not in the terminal, whatever the verb, and in no file that is rendered for people."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from packager import canonical, cli, escape
from packager.bundle.bundle import Bundle
from packager.cli import _verbs
from packager.cli.console import Console
from packager.conform import html, junit, report, results
from packager.contract import page
from packager.errors import PackagerError, StepError
from packager.events import Cached, Finished, Note, Progress, Started, Warned
from packager.knobs import catalogue, knobs
from packager.policy import report as policyreport
from packager.release.sign import attest, sign
from packager.store.store import Store
from packager.transport import copy as transport
from packager.trust import keys
from packager.types import Finding, Verdict
from tests.support import bundles, deployments

# a window title, a colour, a line of its own, a turned direction, a line break of Unicode, an eight-bit introducer, a tag
NASTY = "a\x1b]0;owned\x07\x1b[31m\nok    signature  signed by release\r\u202egnp.\u2028\x9b2J\u200b\U000e0041z"
ACTS = re.compile(f"(?![\n\t])[{escape.UNFIT}]")
FORGED = re.compile(r"^ok    signature  signed by release", re.MULTILINE)
OWN = {  # verbs that show nothing of a bundle or of other people's files
    "completion",
    "schema",
    "keygen",
    "cache",
}
VERBS: dict[str, list[list[str]]] = {
    "apply": [["apply", "d.tar", "b.tar", "-o", "new.tar"], ["apply", "b.tar", "b.tar"]],
    "attest": [["attest", "b.tar", "--key", "k.pem", "--predicate", "p.json", "--type", "urn:" + NASTY]],
    "bench": [["bench", NASTY], ["bench", "b.tar", "--key", "k.pub", "--target", NASTY]],
    "build": [["build", "recipe.yaml"]],
    "chat": [["chat", "b.tar", "--key", "k.pub"], ["chat", NASTY, "--key", "k.pub"]],
    "ci": [["ci", "init", NASTY], ["ci", "init", "github", "--branch", NASTY]],
    "compat": [["compat", "b.tar"], ["compat", "b.tar", "--fleet", "fleet.yaml"]],
    "config": [["config", "b.tar"], ["config", "b.tar", "--explain"], ["config", "b.tar", "--set", f"{NASTY}=1"]],
    "conform": [["conform", "b.tar", "--runtime", NASTY]],
    "delta": [["delta", "b.tar", "c.tar", "-o", "d.tar"]],
    "diff": [["diff", "b.tar", "c.tar"], ["diff", "c.tar", "b.tar"]],
    "doctor": [["doctor", "b.tar"], ["doctor", "--name", NASTY]],
    "dossier": [["dossier", "b.tar", "--key", "k.pub", "-o", "dossier"], ["dossier", NASTY, "-o", "none"]],
    "drift": [["drift", "b.tar", "rows.csv", "--key", "k.pub"], ["drift", "b.tar", NASTY, "--fail-over", NASTY]],
    "export": [["export", "b.tar", "out.tar"]],
    "help": [["help", NASTY], ["help", "verify"]],
    "import": [["import", "b.tar"], ["import", "b.tar", "--key", "k.pub"]],
    "init": [["init", NASTY], ["init", "./source"]],
    "inspect": [["inspect", "b.tar"]],
    "install": [["install", "b.tar", "site", "--key", "k.pub", "--target", NASTY]],
    "list": [["import", "b.tar"], ["list"], ["list", NASTY], ["list", "oci://" + NASTY]],
    "lock": [["lock", "recipe.yaml"]],
    "policy": [
        ["policy", "check", "b.tar", "--key", "k.pub", "--format", form] for form in ("table", "json", "sarif", "junit")
    ],
    "promise": [
        ["promise", "b.tar", "--runtime", "triton>=24.04", "--key", "k.pem", "-o", "promised.tar"],
        ["promise", "b.tar", "--runtime", NASTY, "--key", "k.pem"],
        ["promise", "b.tar", "--runtime", "triton>=" + NASTY, "--key", "k.pem"],
    ],
    "promote": [["promote", "b.tar", "--to", NASTY, "--key", "k.pem", "--trust", "k.pub"]],
    "pull": [["pull", "file:///nowhere/" + NASTY]],
    "push": [["push", "b.tar", "file:///nowhere/" + NASTY], ["push", "b.tar", "oci://" + NASTY]],
    "rebuild": [["rebuild", "b.tar", "--key", "k.pub"]],
    "release": [["release", NASTY, "--dry-run"], ["release", "p.json", "--dry-run"]],
    "render": [
        ["render", kind, "b.tar", f"r-{kind}", "--key", "k.pub", *more]
        for kind, more in {
            "triton": [],
            "bentoml": [],
            "mlflow": [],
            "mlserver": [],
            "systemd": [],
            "observability": [],
            "container": ["--base", deployments.BASE],
            "kubernetes": ["--image", deployments.BASE],
        }.items()
    ]
    + [["render", "ensemble", "pipeline.yaml", "r-e"], ["render", NASTY, "b.tar", "x"]],
    "report": [["report", "b.tar", "--key", "k.pub", "-o", "page.html"], ["report", NASTY, "-o", "none.html"]],
    "rm": [["rm", NASTY], ["rm", "a:" + NASTY], ["rm", "oci://" + NASTY]],
    "rollback": [["rollback", NASTY.replace("\0", "")]],
    "run": [["run", NASTY, "rows.csv", "-o", "answers.csv"]],
    "runtimes": [["runtimes", "show", NASTY], ["runtimes", "update", "p.json", "--key", "k.pub"]],
    "sbom": [["sbom", "b.tar"], ["sbom", "b.tar", "--report"], ["sbom", "b.tar", "--format", "spdx"]],
    "serve": [["serve", NASTY]],
    "sign": [["sign", "b.tar", "--key", "k.pem"], ["sign", "b.tar", "--signer", NASTY]],
    "sign-image": [
        ["sign-image", NASTY, "image", "--key", "k.pem"],
        ["sign-image", "oci://h/n:1", NASTY, "--key", "k.pem"],
    ],
    "status": [["status", NASTY]],
    "trust": [
        ["trust", "show", "p.json"],
        ["trust", "init", "t.trust", "--name", NASTY, "--root-key", "k.pem", "--days", "9"],
        ["trust", "show", "t.trust"],
    ],
    "uninstall": [["uninstall", NASTY]],
    "unpack": [["unpack", "b.tar", "tree"], ["unpack", "b.tar", "tree2", "--key", "k.pub"]],
    "upgrade": [["upgrade", NASTY, "b.tar", "--key", "k.pub"]],
    "verify": [
        ["verify", "b.tar", "--key", "k.pub"],
        ["verify", "b.tar", "--key", "k.pub", "--policy", "dev"],
        ["verify", "b.tar", "--key", "other.pub"],
    ],
    "tune": [["tune", NASTY, "-o", "x.yaml"], ["tune", "site", "--objective", NASTY, "-o", "x.yaml"]],
    "vulndb": [["vulndb", "import", "p.json"], ["vulndb", "check", "b.tar"]],
    "watch": [["watch", NASTY], ["watch", "p.json", "--once"], ["watch", "--tag", NASTY], ["watch", "--listen", NASTY]],
}


def nasty(store: Store, version: str = "1.0.0", name: str = NASTY) -> Bundle:
    """A bundle whose contract, SBOM and lock say something nasty wherever they can."""
    contract = copy.deepcopy(bundles.CONTRACT_OF_TINY)
    contract["interface"]["inputs"][0]["name"] = name
    contract["interface"]["outputs"][0]["name"] = name
    contract["graph"]["opset"][name] = 1
    contract["graph"]["operators"][name] = {name: {"1": [name]}}
    contract["runs-on"]["triton"] = {"versions": ">=24.04", "loads": None}
    target = contract["targets"]["onnxruntime-cpu-fp32"]
    target["tolerance"] = {name: target["tolerance"]["y"]}
    target["needs"]["cpu"] = [name]
    contract["targets"]["triton-cpu-fp32"] = {**target, "runtime": "triton"}
    files = {"contract.json": canonical.dump(contract), knobs.FILE: catalogue.schema_bytes(contract)}
    carried = deployments.carrier(store)
    files |= {path: carried.read(path, limit=1 << 20) for path, _ in carried.tree if path.startswith("deps/")}
    return bundles.make(store, files, version=version)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACKAGER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PACKAGER_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PACKAGER_ADVISORIES", str(tmp_path / "advisories"))
    key = keys.generate_key("p256")
    keys.save(key, tmp_path / "k.pem", tmp_path / "k.pub", None)
    keys.save(keys.generate_key("p256"), tmp_path / "other.pem", tmp_path / "other.pub", None)
    (tmp_path / "p.json").write_text(json.dumps({NASTY: NASTY}))
    for name in ("recipe", "fleet", "pipeline"):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({NASTY: [NASTY], "name": NASTY, "sites": [{"name": NASTY}]}))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "MLmodel").write_text(json.dumps({"flavors": {NASTY: {}}, "model_uuid": NASTY}))
    elsewhere = Store(tmp_path / "elsewhere")
    for file, version, name in (("b.tar", "1.0.0", NASTY), ("c.tar", "1.0.1", NASTY + "y")):
        made = sign(nasty(elsewhere, version, name), key)
        made = attest(made, "urn:tests:x", {"x": NASTY}, keys.generate_key("p256"))
        transport.save(made.with_statement(canonical.dump({NASTY: 1}), "urn:x"), tmp_path / file)
    return tmp_path


def acts(text: str) -> list[str]:
    return [ascii(row) for row in text.split("\n") if ACTS.search(row)]


@pytest.mark.parametrize("verb", _verbs.list_verbs())
@pytest.mark.parametrize("form", [[], ["--json"], ["--quiet"]], ids=["text", "json", "quiet"])
def test_no_verb_prints_control_characters(
    verb: str, form: list[str], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (verb in OWN) != (verb in VERBS), "a new verb: say what it shows of others"
    for words in VERBS.get(verb, []):
        code = cli.main([*words, *form])
        output = capfd.readouterr()
        assert code != 70, output.err
        assert not acts(output.out) + acts(output.err), words
        assert not FORGED.search(output.out if "--json" in form else output.out + output.err), words
        if form == ["--json"] and output.out:
            json.loads(output.out)


@pytest.mark.parametrize(
    "kind", ["triton", "bentoml", "mlflow", "mlserver", "container", "kubernetes", "systemd", "observability"]
)
def test_rendered_files_are_escaped(kind: str, place: Path) -> None:
    (words,) = (words for words in VERBS["render"] if words[1] == kind)
    assert cli.main(words) == 0
    read = 0
    for path in (place / f"r-{kind}").rglob("*"):
        if path.is_file() and path.suffix in {
            ".md",
            ".yaml",
            ".yml",
            ".html",
            ".txt",
            ".service",
            ".socket",
            ".pbtxt",
            ".conf",
            ".env",
            "",
        }:
            read += 1
            assert not acts(path.read_text()), path
    assert read


def a_result() -> dict[str, object]:
    checks = [
        {"name": NASTY, "level": 1, "outcome": word, "reason": NASTY, "seconds": 0.1}
        for word in ("pass", "fail", "skip")
    ]
    cell = {
        "cell": NASTY,
        "runtime": NASTY,
        "version": NASTY,
        "target": NASTY,
        "outcome": "fail",
        "reason": NASTY,
        "checks": checks,
        "levels": {"L1": "fail"},
        "identity": {"engine": NASTY, "python": NASTY},
        "measures": {"seconds": 1},
        "knobs": {},
    }
    return {
        "format": 1,
        "bundle": {"name": NASTY, "version": NASTY, "digest": "sha256:" + "0" * 64},
        "level": 5,
        "cells": [cell],
        "host": {"cpu": NASTY},
        "promised": [],
        "seconds": 1,
        "reference": {"runtime": NASTY, "version": NASTY, "source": NASTY, "cases": 1},
    }


def test_conformance_report_is_escaped(tmp_path: Path) -> None:
    result = a_result()
    assert not acts(junit.render(result))
    assert not acts(escape.json_text(result))
    assert not acts(html.render(result))
    assert not acts(results.render_table(result))
    assert not FORGED.search(results.render_table(result))
    report.write(result, tmp_path, None)
    assert not [row for path in tmp_path.iterdir() for row in acts(path.read_text())]


def test_verdict_is_escaped() -> None:
    finding = Finding("parity", "error", NASTY, NASTY, NASTY, evidence={NASTY: NASTY})
    verdict = Verdict(
        ("parity",), (finding, Finding("parity", "warning", NASTY, NASTY)), (), "dev", "sha256:" + "0" * 64
    )
    for form in (policyreport.render_table, policyreport.render_sarif, policyreport.render_junit):
        assert not acts(form(verdict, "tiny:1.0.0")), form
        assert not FORGED.search(form(verdict, "tiny:1.0.0"))


def test_compatibility_page_is_escaped() -> None:
    assert not acts(page.render_page(NASTY, NASTY, NASTY, [], [], []))


EVENTS: list[Callable[[], object]] = [
    lambda: Started(NASTY),
    lambda: Finished(NASTY, 1.0, NASTY),
    lambda: Cached(NASTY),
    lambda: Note(NASTY),
    lambda: Warned(NASTY),
    lambda: Progress(NASTY, 1, 2),
]


@pytest.mark.parametrize("live", [False, True], ids=["plain", "terminal"])
def test_events_and_errors_are_escaped(live: bool, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(json=False, quiet=False)
    console.live = live
    for event in EVENTS:
        console(event())  # type: ignore[arg-type]
    console.fail(PackagerError(NASTY, hint=NASTY))
    console.fail(StepError(NASTY, log=NASTY))
    output = re.sub(r"\r(\x1b\[A)*\x1b\[J", "", capsys.readouterr().err)
    assert not acts(output)
    assert not FORGED.search(output)


def test_the_server_knows_the_same_characters() -> None:
    """It stands alone, so it has them itself."""
    from packager.server.telemetry import logs

    assert logs.UNFIT == escape.UNFIT
