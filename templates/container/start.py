# SPDX-License-Identifier: Apache-2.0
"""Start the server of this image: `python3 -I start.py MODEL/serve.json [--knobs=…]`.

Before that: the interpreter must be the one that the wheels in `app/` are for, and every file of the model must be the
signed one. Exit code 4 and one sentence otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "app"))


def main() -> None:
    """Check, then become the server."""
    import deployed

    try:
        record = deployed.read(Path(sys.argv[1]).resolve().parent)
    except (OSError, ValueError, KeyError, IndexError) as error:
        refuse(str(error))
    here, wanted = f"cp{sys.version_info[0]}{sys.version_info[1]}", record["options"]["platform"].rpartition("-")[2]
    if here != wanted:
        refuse(f"this image has Python {here}, its wheels are for {wanted}: choose another base image")
    from packager.server.__main__ import main as serve

    serve()


def refuse(reason: str) -> None:
    """End with a reason."""
    sys.stderr.write(f"error: {reason}\n")
    sys.exit(4)


if __name__ == "__main__":
    main()
