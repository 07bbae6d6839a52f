# SPDX-License-Identifier: Apache-2.0
"""A hub on this machine that speaks the API of Hugging Face's: model information, files, and redirects to a CDN.

`huggingface_hub` itself reads it (`test_the_stub_is_what_the_hub_s_own_client_reads`), so it is no invention of ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from tests.support.hub_servers import Handler, serve_hub

TOKEN = "hf_verysecrettoken"
NAME = "acme/tiny"


def object_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class StubHub:
    """One repository: `revisions` name commits, `commits` hold files, `large` are those in large storage.

    `faults` are answers to give instead, in turn: to paths that contain the key, (status, headers) or a number of bytes
    after which the connection ends. `seen` are (who, path, authorization, range).
    """

    name: str = NAME
    called: str = NAME
    revisions: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    gated: bool = False
    faults: dict[str, list] = field(default_factory=dict)
    served: dict[str, bytes] = field(default_factory=dict)  # instead of what the commit holds
    answer: bytes | None = None
    seen: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    url: str = ""
    cdn: str = ""

    def put(self, files: dict[str, bytes], revision: str = "main", large: set[str] | None = None) -> str:
        """Add a commit, and let a branch be there."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[commit] = files
        self.revisions[revision] = commit
        self.large |= large or set()
        return commit

    def about(self, revision: str) -> bytes | None:
        commit = self.revisions.get(revision, revision)
        if commit not in self.commits:
            return None
        rows = [self._row(path, data) for path, data in self.commits[commit].items()]
        return json.dumps({"id": self.called, "modelId": self.called, "sha": commit, "siblings": rows}).encode()

    def _row(self, path: str, data: bytes) -> dict:
        row = {"rfilename": path, "size": len(data), "blobId": object_id(data)}
        if path in self.large:
            sha = hashlib.sha256(data).hexdigest()
            row |= {"lfs": {"sha256": sha, "size": len(data), "pointerSize": 134}}
        return row


class _Handler(Handler):
    hub: StubHub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.seen.append((self.who, path, self.headers.get("authorization"), self.headers.get("range")))
        for part, faults in self.hub.faults.items():
            if part in path and faults and not (isinstance(faults[0], int) and self.who == "hub" and self._away(path)):
                self._fault(path, faults.pop(0))
                return
        if self.who == "cdn":
            self._bytes(path)
        elif self.hub.gated and self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.send_answer(401, b"", **{"X-Error-Code": "GatedRepo"})
        elif path == f"/api/models/{self.hub.name}":
            self._about("main")
        elif path.startswith(f"/api/models/{self.hub.name}/revision/"):
            self._about(path.rpartition("/revision/")[2])
        elif f"/{self.hub.name}/resolve/" in path:
            self._file(path)
        else:
            self.send_answer(401, b"", **{"X-Error-Code": "RepoNotFound"})

    def _away(self, path: str) -> bool:
        return path.rpartition("/")[2] in self.hub.large

    def _about(self, revision: str) -> None:
        found = self.hub.answer or self.hub.about(revision)
        if found is None:
            self.send_answer(404, b"", **{"X-Error-Code": "RevisionNotFound"})
        else:
            self.send_answer(200, found, **{"Content-Type": "application/json"})

    def _file(self, path: str) -> None:
        commit, _, name = path.partition("/resolve/")[2].partition("/")
        files = self.hub.commits.get(self.hub.revisions.get(commit, commit))
        if files is None or name not in files:
            code = "RevisionNotFound" if files is None else "EntryNotFound"
            self.send_answer(404, b"", **{"X-Error-Code": code})
            return
        about = {"X-Repo-Commit": commit, "ETag": f'"{object_id(files[name])}"'}
        if name in self.hub.large:
            about |= {
                "X-Linked-Etag": f'"{hashlib.sha256(files[name]).hexdigest()}"',
                "X-Linked-Size": str(len(files[name])),
            }
            self.send_answer(302, b"", Location=f"{self.hub.cdn}/blobs/{commit}/{name}?Signature=verysecret", **about)
        else:
            self.send_answer(200, self.hub.served.get(name, files[name]), **about)

    def _bytes(self, path: str) -> None:
        commit, _, name = path.removeprefix("/blobs/").partition("/")
        data = self.hub.served.get(name, self.hub.commits[commit][name])
        start = int((self.headers.get("range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start > len(data) or (start and start == len(data)):
            self.send_answer(416, b"")
        else:
            self.send_answer(206 if start else 200, data[start:])

    def _fault(self, path: str, fault: int | tuple[int, dict[str, str]]) -> None:
        if isinstance(fault, tuple):
            self.send_answer(fault[0], b"\x1b[31mits own words", **fault[1])
            return
        name = path.rpartition("/")[2]
        data = next(files[name] for files in self.hub.commits.values() if name in files)
        self.break_off(data, fault)


@contextlib.contextmanager
def stub_hub() -> Iterator[StubHub]:
    """Run a hub, and its CDN on another port."""
    hub = StubHub()
    with serve_hub(hub, _Handler):
        yield hub
