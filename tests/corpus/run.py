# SPDX-License-Identifier: Apache-2.0
"""What becomes of other people's ONNX files: `init`, `lock`, `build` untouched, then served and asked at many sizes.

`make corpus`, or `python -m tests.corpus.run [PART OF A NAME …]`: one line per model, kept in
`tests/matrix/results/corpus.jsonl`, from which `docs/reference/models.md` is written; a model that has a line is not run again
unless it is named. The judge is the file itself in ONNX Runtime as it comes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from packager.bundle.bundle import CONTRACT, open_bundle
from packager.bundle.bundle import no_network as nowhere
from packager.contract import contract as contracts
from packager.deploy.install import Index, install
from packager.store.store import Store
from tests.corpus import asked, files

RESULTS = Path(__file__).parents[1] / "matrix" / "results" / "corpus.jsonl"
_LIMIT = 900  # seconds of one command
_FOREIGN = ("Traceback", "github.com", "raise an issue")


@dataclass(frozen=True, slots=True)
class Row:
    """A verdict as the page reads it; `seconds` and `megabytes` are those of init, lock and build together."""

    family: str
    model: str
    verdict: str
    max_abs: float | None = None
    reason: str = ""
    seconds: float | None = None
    megabytes: int | None = None
    sizes: int | None = None

    def line(self) -> str:
        return json.dumps({key: value for key, value in asdict(self).items() if value not in (None, "")})


@dataclass(slots=True)
class Desk:
    """A folder with one model, a store, and what the commands there cost."""

    folder: Path
    seconds: float = 0.0
    megabytes: int = 0

    def run(self, *words: str) -> tuple[int, str]:
        """Run a verb of the product; return its status and what it says on stderr and stdout."""
        command = [sys.executable, "-m", "packager", *words, "--store", str(self.folder / "store")]
        started = time.monotonic()
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(command, cwd=self.folder, stdout=said, stderr=subprocess.STDOUT)
            status, used = _waited(process)
            said.seek(0)
            text = said.read().decode("utf-8", "replace")
        self.seconds += time.monotonic() - started
        self.megabytes = max(self.megabytes, used // 1024)
        return status, text


def _waited(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Return the status of a process, and the largest memory of it or of a process that it waited for, in KiB."""
    end = time.monotonic() + _LIMIT
    while time.monotonic() < end:
        found, status, used = os.wait4(process.pid, os.WNOHANG)
        if found:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, used.ru_maxrss
        time.sleep(0.05)
    process.kill()
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = -9
    return -9, used.ru_maxrss


def judge(file: files.File, shared: Path) -> Row:
    """Take one model through the product as a newcomer would."""
    original = files.fetch(file)
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        for path in file.digests:
            shutil.copy(original.parent / Path(path).name, folder)
        for words in (["init", original.name], ["lock"], ["build"]):
            status, said = desk.run(*words)
            if status:
                return _refused(file, desk, words[0], status, said)
        store = Store(desk.folder / "store")
        ((name, version),) = store.bundles()
        bundle = open_bundle(f"{name}:{version}", lambda: store, nowhere)
        install(bundle, desk.folder / "site", None, Index(None, shared), dict(os.environ))
        contract = contracts.parse(bundle.read(CONTRACT))
        found = asked.compare(original, contract, name, desk.folder / "site")
    cost = (round(desk.seconds, 1), desk.megabytes, found.sizes)
    return Row("corpus", file.title, found.verdict, found.max_abs, found.reason[:400], *cost)


def _refused(file: files.File, desk: Desk, verb: str, status: int, said: str) -> Row:
    rows = [row for row in said.splitlines() if row.strip()]
    start = next((place for place, row in enumerate(rows) if row.startswith(("error", "refused", "FAIL"))), -4)
    words = " ".join(rows[start:])
    poor = "hint:" not in said or any(word in said for word in _FOREIGN)
    verdict = "crash" if status in (70, -9) or "Traceback" in said else "refused-poor" if poor else "refused-clear"
    return Row("corpus", file.title, verdict, None, f"{verb}: {words}"[:400], round(desk.seconds, 1), desk.megabytes)


def main(wanted: list[str]) -> None:
    kept = {row["model"]: row for row in map(json.loads, RESULTS.read_text().splitlines())} if RESULTS.exists() else {}
    shared = files.CACHE / "served"
    for file in files.listed():
        chosen = any(part in file.title for part in wanted) if wanted else file.title not in kept
        if not chosen:
            continue
        row = judge(file, shared)
        kept[file.title] = json.loads(row.line())
        RESULTS.write_text("".join(f"{json.dumps(kept[title])}\n" for title in sorted(kept)))
        print(row.line(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
