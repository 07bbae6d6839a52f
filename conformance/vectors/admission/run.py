# SPDX-License-Identifier: Apache-2.0
"""Let the tools that are here judge signed and forged bundles, and print a table. Python alone, nothing to install.

    python conformance/vectors/admission/run.py                 starts `docker-registry`, if it is on PATH
    python conformance/vectors/admission/run.py HOST:PORT       uses a registry without TLS that is there

Each bundle here is an OCI layout in a tar, with its signatures. They are pushed to `HOST/admission/NAME/tiny:1.0.0`,
and every tool of `expected.json` that is on PATH is run. The exit status is 1 if one says something else.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONFIG = """version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def main(words: list[str]) -> int:
    expected = json.loads((HERE / "expected.json").read_text())
    with tempfile.TemporaryDirectory() as name, registry(words, Path(name)) as host:
        digests = {case: push(HERE / f"{case}.tar", host, f"admission/{case}/tiny") for case in expected["bundles"]}
        rows, wrong = [], 0
        for tool, about in expected["tools"].items():
            if shutil.which(about["command"][0]) is None:
                rows.append([tool, *["not here" for _ in digests], ""])
                continue
            row = [tool]
            for case, digest in digests.items():
                said = ask(about["command"], Path(name), host, case, digest)
                row.append(said if said == about["expected"][case] else f"{said}, EXPECTED {about['expected'][case]}")
                wrong += said != about["expected"][case]
            rows.append([*row, about["note"]])
    table([["tool", *expected["bundles"], "note"], *rows])
    return int(wrong > 0)


def ask(command: list[str], scratch: Path, host: str, case: str, digest: str) -> str:
    """Return `accepted` or `refused`; words of the command name the place, and files of this folder with it in them."""
    folder = scratch / f"{case}-files"
    folder.mkdir(exist_ok=True)
    known = {"@HOST@": host, "@CASE@": case, "@DIGEST@": digest, "@OUT@": str(folder / "out")}
    for file in HERE.glob("*.yaml"):
        (folder / file.name).write_text(filled(file.read_text(), known))
    for file in HERE.glob("*.pub"):
        shutil.copy(file, folder)
    words = [filled(word, known) for word in command]
    done = subprocess.run(["env", f"HOME={folder}", *words], cwd=folder, capture_output=True, check=False)
    return "refused" if done.returncode else "accepted"


def filled(text: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        text = text.replace(name, value)
    return text


def push(file: Path, host: str, name: str) -> str:
    """Push every manifest and blob of a layout; return the digest of the bundle."""
    base = f"http://{host}/v2/{name}"
    with tarfile.open(file) as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
    index = json.loads(content["index.json"])["manifests"]
    manifests = {row["digest"] for row in index}
    for path, data in content.items():
        digest = f"sha256:{Path(path).name}"
        if path.startswith("blobs/") and digest not in manifests:
            place = call("POST", f"{base}/blobs/uploads/").headers["Location"]
            call("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", data, "application/octet-stream")
    for row in sorted(index, key=lambda row: "index" in row["mediaType"]):
        data = content["blobs/sha256/" + row["digest"].removeprefix("sha256:")]
        tags = [row.get("annotations", {}).get("org.opencontainers.image.ref.name"), row["digest"]]
        for what in filter(None, tags):
            call("PUT", f"{base}/manifests/{what}", data, row["mediaType"])
    return str(next(row["digest"] for row in index if row.get("annotations")))


def call(method: str, address: str, data: bytes = b"", kind: str = "application/octet-stream") -> Any:
    request = urllib.request.Request(address, data, {"Content-Type": kind}, method=method)
    return urllib.request.urlopen(request, timeout=30)


@contextlib.contextmanager
def registry(words: list[str], folder: Path) -> Iterator[str]:
    """Yield the address of a registry: the one that is named, or one that runs while the block lasts."""
    if words:
        yield words[0]
        return
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        raise SystemExit("there is no `docker-registry` on PATH: name a registry without TLS, HOST:PORT")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config.yml").write_text(CONFIG.format(root=folder / "data", port=port))
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=quiet, stderr=quiet)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def table(rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
