# SPDX-License-Identifier: Apache-2.0
"""Which verifier judges which signature rightly: tools x kinds of signature x things, twenty or more attacks each.

    python -m tests.matrix.signature_verifiers                    every tool that is here; writes record and page
    python -m tests.matrix.signature_verifiers packager cosign    some of them; prints only

A tool that accepts an attack without a reason beside it, or refuses what is sound, is wrong, and the run fails. So does a
reason that no longer holds. The record is `docs/measurements/signature-verifiers.jsonl`, the page
`docs/measurements/signature-verifiers.md`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.attacks.stage import Stage
from tests.matrix.signature_attacks import KINDS, THINGS, Case, Makers
from tests.matrix.signature_tools import TOOLS, Answer, Place, Tool, cells
from tests.sigstore import Sigstore
from tests.support import stub_registry

RECORD = Path(__file__).parents[2] / "docs" / "measurements" / "signature-verifiers.jsonl"
PAGE = Path(__file__).parents[2] / "docs" / "measurements" / "signature-verifiers.md"
Row = dict[str, Any]


@contextmanager
def opened(folder: Path) -> Iterator[Place]:
    """Make signers, a Sigstore instance, and a registry with the bundle and the image."""
    (folder / "instance").mkdir()
    with Sigstore(folder / "instance") as instance, stub_registry.serving(referrers_api=True) as stub:
        makers = Makers(Stage(folder, instance), folder)
        place = Place(makers, folder, stub)
        place.prepare()
        try:
            yield place
        finally:
            makers.close()


def judge(tool: Tool, cases: Iterable[Case]) -> Row:
    """Return the row of a cell: what the tool said of the sound document, and how many attacks it refused.

    `cannot` has the attacks that it cannot judge, with the reason; `wrong` is what must be empty.
    """
    sound, *attacks = cases
    row: Row = {"tool": tool.name, "version": tool.version, "thing": sound.thing, "kind": sound.kind}
    row |= {"refused": 0, "cannot": {}, "wrong": []}
    first = tool.judge(sound)
    if why := tool.cannot(sound):
        accepted = [case.name for case in (sound, *attacks) if tool.judge(case).accepted]
        return row | {"cannot": {"all": why}, "wrong": [f"{name}: accepted, though: {why}" for name in accepted]}
    if not first.accepted:
        row["wrong"].append(f"sound: {first.reason}")
    for case in attacks:
        _count(row, case, tool.judge(case), tool.cannot(case))
    return row


def _count(row: Row, case: Case, answer: Answer, why: str) -> None:
    if why and answer.accepted:
        row["cannot"][case.name] = why
    elif why and case.group not in ("files", "statement"):
        row["wrong"].append(f"{case.name}: refused, though: {why}")
    elif answer.accepted:
        row["wrong"].append(f"{case.name}: accepted")
    else:
        row["refused"] += 1


def run(
    place: Place, names: Sequence[str], things: tuple[str, ...] = THINGS, kinds: tuple[str, ...] = KINDS
) -> list[Row]:
    """Let the tools of these names judge every cell."""
    tools = [TOOLS[name](place) for name in names]
    try:
        rows = []
        for cell in cells(place.makers, things, kinds):
            cases = list(cell.cases())
            rows += [judge(tool, cases) for tool in tools]
        return rows
    finally:
        for tool in tools:
            tool.close()


# the page

HEAD = """# Verifiers and signatures

Written by `python -m tests.matrix.signature_verifiers`. Bundle, image and directory are signed in four ways, and judged
by five verifiers that are told to trust exactly that signer. Each cell has one sound signature and 23 to 39 attacks: on
the envelope (rewritten statements, borrowed, cut and empty signatures, other forms of the document, log entries and time
stamps of others), on the signer (strangers, look-alike names, certificates of other purposes, periods and authorities,
other Sigstore instances), on the statement (about something else, without a subject, of another type), and, for a
directory, on its files. `tests/matrix/signature_attacks.py` has them all.

*n of n* says that the sound signature was accepted and so many attacks were refused. An attack that a tool cannot judge
is listed below the table with the reason; **no other attack was accepted by any tool**.

"""
TAIL = """
sigstore-js and sigstore (Python) say who signed which bytes. What these are about is compared by the caller: the
statement's type and the digest of its subject, twenty lines in `tests/matrix/sigstore_js.mjs`. cosign compares both
itself (`verify-attestation --type`).
"""
NAMES = {"key": "key P-256", "p384": "key P-384", "certificate": "certificate", "keyless": "identity"}


def page(rows: Sequence[Row]) -> str:
    """Return the page of a record."""
    tools = list(dict.fromkeys(row["tool"] for row in rows))
    versions = {row["tool"]: row["version"] for row in rows}
    text = HEAD + "| thing | signed by | " + " | ".join(f"{tool} {_version(versions[tool])}" for tool in tools) + " |\n"
    text += "| --- | --- |" + " --- |" * len(tools) + "\n"
    found = {(row["tool"], row["thing"], row["kind"]): row for row in rows}
    for thing in THINGS:
        for kind in KINDS:
            shown = [_shown(found[tool, thing, kind]) for tool in tools]
            text += f"| {thing} | {NAMES[kind]} | " + " | ".join(shown) + " |\n"
    return text + "\n## What a tool cannot judge\n\n" + _reasons(rows) + TAIL


def _version(text: str) -> str:
    return "" if text == "this version" else text


def _shown(row: Row) -> str:
    if "all" in row["cannot"]:
        return "cannot"
    total = row["refused"] + len(row["cannot"]) + len(row["wrong"])
    return f"{row['refused']} of {total}" + (" **wrong**" if row["wrong"] else "")


def _reasons(rows: Sequence[Row]) -> str:
    listed: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for attack, why in row["cannot"].items():
            where = listed.setdefault((row["tool"], why), [])
            what = f"{row['thing']}, {NAMES[row['kind']]}" if attack == "all" else f"`{attack}`"
            if what not in where:
                where.append(what)
    rows = (f"- {tool} {why}: {'; '.join(where)}." for (tool, why), where in listed.items())
    return "".join(textwrap.fill(row, 118, subsequent_indent="  ", break_on_hyphens=False) + "\n" for row in rows)


def summary(rows: Sequence[Row]) -> Mapping[str, int]:
    """Return the sums over all cells."""
    sums: Counter[str] = Counter(cells=len(rows))
    for row in rows:
        sums["refused"] += row["refused"]
        sums["cannot"] += sum(name != "all" for name in row["cannot"])
        sums["cells that a tool cannot judge"] += "all" in row["cannot"]
        sums["wrong"] += len(row["wrong"])
    return sums


def main(names: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as place:
        rows = run(place, names or list(TOOLS))
    for row in rows:
        for text in row["wrong"]:
            print(f"WRONG {row['tool']} {row['thing']} {row['kind']}: {text}")
    print(dict(summary(rows)))
    if not names and not any(row["wrong"] for row in rows):
        RECORD.write_text("".join(json.dumps(row) + "\n" for row in rows))
        PAGE.write_text(page(rows))
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
