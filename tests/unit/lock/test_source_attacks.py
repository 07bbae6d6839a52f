# SPDX-License-Identifier: Apache-2.0
"""What verifiers are attacked with, as a source that a recipe wants signed: no attack is locked, each has its error.

Artifacts signed by a key, a P-384 key, a certificate and an identity, and directories signed so; the attacks are those of
the matrix of verifiers. A sample runs at once, all in the slow run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager.errors import IntegrityError, NegativeAnswerError, PackagerError
from packager.transport.copy import save
from tests.attacks.stage import Stage
from tests.conftest import Run
from tests.matrix.signature_attacks import CI, KINDS, Case, Cell, Makers
from tests.sigstore import Sigstore
from tests.support import pki
from tests.unit.lock.test_source_trust import checked

FORMS = {"bundle": "bundle", "directory": "openssf-model-signing"}


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Makers]:
    folder = tmp_path_factory.mktemp("attacks")
    (folder / "instance").mkdir()
    with Sigstore(folder / "instance") as instance:
        made = Makers(Stage(folder, instance), folder)
        yield made
        made.close()


def trust_of(makers: Makers, kind: str, folder: Path) -> dict[str, str]:
    """Write what a recipe names, and return its `trust`."""
    stage = makers.stage
    (folder / "release.pub").write_bytes((makers.wide if kind == "p384" else stage.key).public.pem)
    (folder / "root.pem").write_bytes(stage.corp.pem)
    (folder / "between.pem").write_bytes(stage.middle.pem)
    (folder / "tsa.pem").write_bytes(stage.instance.stamping[1].pem)
    (folder / "trust_config.json").write_bytes(stage.instance.trust_config.read_bytes())
    corp = {"ca": "root.pem", "ca-intermediates": "between.pem", "identity": pki.EMAIL, "tsa-ca": "tsa.pem"}
    known = {
        "certificate": corp,
        "keyless": {"identity": CI, "issuer": stage.instance.url, "trust-config": "trust_config.json"},
    }
    return known.get(kind, {"key": "release.pub"})


def placed(makers: Makers, case: Case, folder: Path) -> str:
    """Write a case as a source, and return its address."""
    if case.thing == "bundle":
        save(makers.stage.bundle.with_statement(case.document, "any"), folder / "layout")
        return "oci:layout"
    for path, data in {**case.files, "model.sig": case.document}.items():
        (folder / "model" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "model" / path).write_bytes(data)
    return "model"


def judge(makers: Makers, thing: str, kind: str, folder: Path) -> Counter[str]:
    """Lock every case of a cell; return how often each error was the reason."""
    errors: Counter[str] = Counter()
    for case in Cell(makers, thing, kind).cases():
        here = folder / case.name
        here.mkdir()
        trust = trust_of(makers, kind, here)
        ref = placed(makers, case, here)
        if case.name == "sound":
            assert checked(here, ref, trust)["form"] == FORMS[thing]
            continue
        with pytest.raises(PackagerError) as caught:
            checked(here, ref, trust)
        assert isinstance(caught.value, NegativeAnswerError | IntegrityError), (case.name, caught.value)
        assert caught.value.message, case.name
        errors[type(caught.value).__name__] += 1
    return errors


def test_no_attack_on_a_key_is_locked(makers: Makers, tmp_path: Path) -> None:
    errors = judge(makers, "bundle", "key", tmp_path)
    assert sum(errors.values()) == 23
    assert {"BadSignatureError", "UntrustedSignerError", "UnsignedError"} <= set(errors), errors


@pytest.mark.slow
@pytest.mark.parametrize("thing", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_attack_is_locked(makers: Makers, tmp_path: Path, thing: str, kind: str) -> None:
    errors = judge(makers, thing, kind, tmp_path)
    assert sum(errors.values()) >= 23
    assert len(errors) >= 3, errors


@pytest.mark.slow  # some twenty calls for each of eight conventions
@pytest.mark.parametrize("thing", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_verb_locks_no_attack(makers: Makers, packager: Run, tmp_path: Path, thing: str, kind: str) -> None:
    """For every convention `lock` ends with the exit code of its reason, one sentence and a remedy, and no lock."""
    reasons = set()
    for case in Cell(makers, thing, kind).cases():
        here = tmp_path / case.name
        here.mkdir()
        trust = trust_of(makers, kind, here)
        recipe = {"name": "net", "version": "1.0.0", "source": placed(makers, case, here), "trust": trust}
        (here / "bundle.yaml").write_text(json.dumps(recipe))
        done = packager("lock", "bundle.yaml", cwd=here, code=None)
        if case.name == "sound":
            assert done.returncode == 0 and "the source is signed by" in done.stderr, done.stderr
            continue
        assert not (here / "bundle.lock").exists(), case.name
        assert done.returncode in (1, 5), (case.name, done.stderr)
        assert done.stderr.count("error: ") == 1 and "hint: " in done.stderr, (case.name, done.stderr)
        reasons.add(done.stderr.partition("error: ")[2].partition("\n")[0])
    assert len(reasons) >= 5, reasons
