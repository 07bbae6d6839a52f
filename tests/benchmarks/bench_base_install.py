# SPDX-License-Identifier: Apache-2.0
"""What a customer installs to verify, inspect and unpack: size and number of packages, and that it does the job."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).parent / "uv"
MAKE_BUNDLE = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.support import bundles
from packager.transport import copy as transport; from packager.trust import keys; from packager.release.sign import sign; from packager.store.store import Store
out = Path(sys.argv[2]); key = keys.generate_key("p256"); keys.save(key, out / "k.pem", out / "k.pub", None)
transport.save(sign(bundles.make(Store(out / "store")), key), out / "tiny.bundle.tar")
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        subprocess.run([sys.executable, "-c", MAKE_BUNDLE, str(ROOT), str(work)], check=True)
        subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", work / "dist", ROOT], check=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", work / "env"], check=True)
        python = work / "env" / "bin" / "python"
        wheel = next((work / "dist").glob("*.whl"))
        subprocess.run([UV, "pip", "install", "--quiet", "--python", python, wheel], check=True)
        listed = subprocess.run(
            [UV, "pip", "list", "--python", python, "--format", "freeze"], capture_output=True, text=True, check=True
        )
        packages = listed.stdout.split()
        size = sum(path.stat().st_size for path in (work / "env" / "lib").rglob("*") if path.is_file())
        print(f"base install: {size / 1e6:.1f} MB, {len(packages)} packages: {', '.join(packages)}")
        environment = {"PATH": os.environ["PATH"], "HOME": name, "PYTHONDONTWRITEBYTECODE": "1"}
        program = work / "env" / "bin" / "packager"
        for arguments in (
            ["verify", "tiny.bundle.tar", "--key", "k.pub"],
            ["inspect", "tiny.bundle.tar"],
            ["unpack", "tiny.bundle.tar", "tree", "--key", "k.pub"],
        ):
            subprocess.run([program, *arguments], cwd=work, env=environment, check=True, stdout=subprocess.DEVNULL)
            print(f"packager {' '.join(arguments)}: ok")
        assert size < 60e6, "aim: under 60 MB"
        assert len(packages) < 25, "aim: under 25 packages"


if __name__ == "__main__":
    main()
