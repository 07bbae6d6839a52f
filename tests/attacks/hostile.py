# SPDX-License-Identifier: Apache-2.0
"""Every attack on signatures, trust and manifests that docs/explanation/security.md lists, written out to try other verifiers on.

    python -m tests.attacks.hostile FOLDER      one folder for each, `NAME_fail`, with the reason why it must fail

Each is made by a function in the files beside this one; its decorator says with which type of error it must fail.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.attacks import manifests, signers, statements, times, withdrawn  # noqa: F401  they register what they make
from tests.attacks.registry import ATTACKS
from tests.attacks.stage import Stage
from tests.sigstore import Sigstore


def main(target: Path) -> None:
    """Write every attack that is a bundle below `target`, each with the reason why it must fail."""
    with tempfile.TemporaryDirectory() as name, Sigstore(Path(name)) as instance:
        stage = Stage(Path(name), instance)
        for attack in ATTACKS.values():
            folder = target / f"{attack.name}_fail"
            folder.mkdir(parents=True)
            attack.make(stage, folder)
            (folder / "README").write_text(f"{attack.why}\nexpected: {attack.error.__name__}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
