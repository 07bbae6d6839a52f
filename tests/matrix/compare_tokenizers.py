# SPDX-License-Identifier: Apache-2.0
"""Token ids of many strings, in the source's own library and in those of runtimes: one line per difference.

    python -m tests.matrix.compare_tokenizers FOLDER FAMILY=DIR … [--strings 100000] [--seed 0]

Each DIR holds a tokenizer as transformers saves it. `FOLDER/FAMILY.jsonl` gets a row per thousand strings, and a
second start goes on behind the last; the table of all families is printed at the end. What is compared with
transformers' own class: the `tokenizers` library with `tokenizer.json` as bundles carry it, and onnxruntime-genai with
the folder that our compiler writes, where it is installed. `cut` counts strings with a NUL, at which that library ends.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from packager.exporters._generation import files
from packager.pipelines.strings import draw_strings
from packager.server.generation.tokenizer import Tokenizer

Encode = Callable[[str], Sequence[int]]
_CHUNK = 1000


def theirs(folder: Path) -> Any:
    """Return the source's own tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def ours(folder: Path, place: Path) -> Tokenizer:
    """Return the tokenizer that a bundle would carry, written to `place` and read from there."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "tokenizer.json").write_bytes(files.tokenizer_json(folder, folder))
    return Tokenizer.open(place / "tokenizer.json")


def of_genai(place: Path) -> tuple[Encode, Callable[[Sequence[int]], str]] | None:
    """Return onnxruntime-genai's tokenizer of a folder, None without the library."""
    try:
        import onnxruntime_genai as genai
    except ImportError:
        return None
    from packager.runtimes.onnxruntime_genai import compile as compiler

    special = {"bos": None, "eos": [], "pad": None}
    wanted = compiler._tokenizer_config(place / "tokenizer.json", special)
    (place / "tokenizer_config.json").write_text(json.dumps(wanted))
    about = {"model": {"type": "decoder", "vocab_size": 1, "context_length": 2, "decoder": {}}, "search": {}}
    (place / "genai_config.json").write_text(json.dumps(about))
    opened = genai.Tokenizer(str(place))
    return (lambda text: opened.encode(text).tolist()), (lambda ids: str(opened.decode(list(ids))))


def rows(folder: Path, place: Path, count: int, seed: int, begin: int, *, genai: bool) -> Iterator[dict[str, Any]]:
    """Yield one row per thousand strings from `begin` on: how many differ, and the first that does, by library."""
    source, own = theirs(folder), ours(folder, place)
    third = of_genai(place) if genai else None
    special = [str(token) for token in source.all_special_tokens]
    row: dict[str, Any] = {}
    for number, text in enumerate(draw_strings(count, seed, special)):
        if number < begin:
            continue
        if number % _CHUNK == 0:
            row = {"begin": number, "strings": 0, "ids": 0, "own": 0, "decoded": 0, "genai": 0, "cut": 0, "first": {}}
        ids = list(source(text).input_ids)
        row["strings"] += 1
        row["ids"] += len(ids)
        _count(row, "own", ids == own.encode(text), number, text)
        told = source.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        _count(row, "decoded", told == own.decode(ids), number, text)
        if third is not None:
            plain = list(source(text, add_special_tokens=False).input_ids)
            same = plain == list(third[0](text))
            _count(row, "cut" if "\x00" in text else "genai", same, number, text)
        if (number + 1) % _CHUNK == 0 or number + 1 == count:
            yield row


def _count(row: dict[str, Any], name: str, same: bool, number: int, text: str) -> None:
    if not same:
        row[name] += 1
        row["first"].setdefault(name, [number, text[:80]])


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("families", nargs="+")
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-genai", action="store_true", help="for families that it does not read")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    total = []
    for family in args.families:
        name, _, source = family.partition("=")
        log = args.folder / f"{name}.jsonl"
        done = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
        begin = sum(row["strings"] for row in done)
        with log.open("a") as out:
            if begin < args.strings:
                for row in rows(
                    Path(source), args.folder / name, args.strings, args.seed, begin, genai=not args.without_genai
                ):
                    done.append(row)
                    print(json.dumps(row), file=out, flush=True)
        total.append((name, done))
    print("| family | strings | ids | tokenizers: ids | decoded | onnxruntime-genai: ids | strings with NUL |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, done in total:
        sums = [sum(row[key] for row in done) for key in ("strings", "ids", "own", "decoded", "genai", "cut")]
        print(f"| {name} | {' | '.join(f'{value:,}' for value in sums)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
