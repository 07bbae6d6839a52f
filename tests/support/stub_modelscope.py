# SPDX-License-Identifier: Apache-2.0
"""A hub on this machine that speaks ModelScope's API: listings of a revision, files, and redirects to a CDN.

`modelscope_hub` itself reads it (`test_the_stub_is_what_the_hub_s_own_client_reads`), so it is no invention of ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.support.hub_servers import Handler, serve_hub

TOKEN = "ms-verysecrettoken"
NAME = "acme/tiny"


@dataclass
class StubModelScope:
    """One repository: `revisions` hold files, `large` are those that the CDN serves, `unhashed` those without a digest.

    `faults` are answers to give instead, in turn: to addresses that contain the key, (status, headers) or a number of
    bytes after which the connection ends. `seen` are (who, address, authorization, cookie, range).
    """

    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    unhashed: set[str] = field(default_factory=set)
    private: bool = False
    faults: dict[str, list] = field(default_factory=dict)
    answer: bytes | None = None
    seen: list[tuple[str, str, str | None, str | None, str | None]] = field(default_factory=list)
    url: str = ""
    cdn: str = ""

    def listing(self, revision: str) -> bytes:
        rows = [self._row(path, data) for path, data in self.revisions[revision].items()]
        folders = [
            {"Path": folder, "Name": folder, "Size": 0, "Type": "tree", "Sha256": ""}
            for folder in sorted({path.partition("/")[0] for path in self.revisions[revision] if "/" in path})
        ]
        return json.dumps({"Code": 200, "Success": True, "Data": {"Files": folders + rows}}).encode()

    def _row(self, path: str, data: bytes) -> dict:
        stated = "" if path in self.unhashed else hashlib.sha256(data).hexdigest()
        row = {"Path": path, "Name": path.rpartition("/")[2], "Size": len(data), "Type": "blob", "Sha256": stated}
        return {**row, "IsLFS": path in self.large, "Revision": hashlib.sha1(data).hexdigest(), "CommittedDate": 1}


class _Handler(Handler):
    hub: StubModelScope

    def do_GET(self) -> None:
        sent = (self.headers.get(name) for name in ("authorization", "cookie", "range"))
        self.hub.seen.append((self.who, self.path, *sent))
        fault = next((queue for part, queue in self.hub.faults.items() if part in self.path and queue), None)
        split = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        redirected = self.who == "hub" and query.get("FilePath") in self.hub.large
        if fault and not (redirected and isinstance(fault[0], int)):
            self._fail(query, fault.pop(0))
        elif self.who == "cdn":
            self._send_part(self._find(query) or b"")
        elif self.hub.private and self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.send_answer(404, b'{"Code": 10010205001, "Message": "record not found"}')
        elif split.path == f"/api/v1/models/{NAME}/repo/files" and query["Revision"] in self.hub.revisions:
            self.send_answer(200, self.hub.answer or self.hub.listing(query["Revision"]))
        elif split.path == f"/api/v1/models/{NAME}/repo" and (found := self._find(query)) is not None:
            if redirected:
                self.send_answer(302, b"", Location=f"{self.hub.cdn}/blob?{split.query}&Signature=verysecret")
            else:
                self.send_answer(200, found)
        else:
            self.send_answer(404, b'{"Code": 10010205001, "Message": "record not found"}')

    def _find(self, query: dict[str, str]) -> bytes | None:
        return self.hub.revisions.get(query["Revision"], {}).get(query["FilePath"])

    def _send_part(self, data: bytes) -> None:
        start = int((self.headers.get("range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_answer(206 if start else 200, data[start:])

    def _fail(self, query: dict[str, str], fault: int | tuple[int, dict[str, str]]) -> None:
        if isinstance(fault, tuple):
            self.send_answer(fault[0], b"\x1b[31mits own words", **fault[1])
            return
        data = self._find(query) or b""
        self.break_off(data, fault)


@contextlib.contextmanager
def run_stub() -> Iterator[StubModelScope]:
    """Run a hub, and its CDN on another port."""
    hub = StubModelScope()
    with serve_hub(hub, _Handler):
        yield hub
