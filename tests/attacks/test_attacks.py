# SPDX-License-Identifier: Apache-2.0
"""Every attack of the table in docs/explanation/security.md fails, and for the right reason: the type of the error is asserted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager.errors import PackagerError
from packager.trust.verify import verify
from tests.attacks.hostile import ATTACKS
from tests.attacks.stage import Attempt, Stage
from tests.sigstore import Sigstore
from tests.sigstore.stamping import crafted
from tests.support import pki

TABLE = Path(__file__).parents[2] / "docs" / "explanation" / "security.md"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    with Sigstore(folder) as instance:
        yield Stage(folder, instance)


def refusal(attempt: Attempt) -> PackagerError | None:
    try:
        shown = attempt.show()
        return verify(shown, attempt.trust, now=attempt.now, seen=attempt.seen).failure
    except PackagerError as error:
        return error


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(stage: Stage, tmp_path: Path, name: str) -> None:
    attack = ATTACKS[name]
    assert attack.why, "say why it must fail"
    got = refusal(attack.make(stage, tmp_path))
    assert type(got) is attack.error, f"expected {attack.error.__name__}, got {type(got).__name__}: {got}"
    assert got.code in (1, 5)


@pytest.mark.parametrize("kind", ["key", "certificate", "identity"])
def test_what_is_sound_is_accepted(stage: Stage, tmp_path: Path, kind: str) -> None:
    """The same stage and the same verifier: only the attack makes the difference."""
    signer = {"key": stage.key, "certificate": stage.certificate(), "identity": stage.identity()}[kind]
    assert refusal(stage.attempt(stage.signed(signer), tmp_path)) is None


def test_timestamp_keeps_an_expired_certificate_valid(stage: Stage, tmp_path: Path) -> None:
    """And a crafted stamp of a sound authority is accepted, so what the attacks bend is what they are refused for."""
    leaf = stage.middle.signer(start=pki.NOW - 100 * pki.DAY, end=pki.NOW - 50 * pki.DAY)
    authority = stage.instance.stamping[1].issue(
        "tsa", purposes=[pki.STAMPING], critical=True, start=pki.NOW - 200 * pki.DAY
    )
    for days, accepted in ((75, True), (101, False), (49, False)):
        at = pki.NOW - days * pki.DAY
        signer = stage.certificate(leaf, stamp=lambda signature, at=at: [crafted(authority, signature, at)])
        assert (refusal(stage.attempt(stage.signed(signer), tmp_path / str(days))) is None) is accepted


def rows() -> list[tuple[str, str]]:
    """Return (error, attack) of every row of the table."""
    return re.findall(r"^\|.*\| `(\w+)` \| ((?:`\w+`(?:, )?)+) \|$", TABLE.read_text(), re.MULTILINE)


def test_the_table_names_every_attack_and_nothing_else() -> None:
    listed = {name: error for error, names in rows() for name in re.findall(r"`(\w+)`", names)}
    assert listed == {attack.name: attack.error.__name__ for attack in ATTACKS.values()}


def test_the_table_covers_the_numbered_list() -> None:
    """Rows 25 to 57 of the list of bad inputs that a verifier must survive."""
    numbers = {
        int(n) for found in re.findall(r"^\| ([\d, ]+) \|", TABLE.read_text(), re.MULTILINE) for n in found.split(",")
    }
    assert numbers == set(range(25, 58))
