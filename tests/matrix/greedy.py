# SPDX-License-Identifier: Apache-2.0
"""Greedy tokens of many prompts: the source in transformers against our graph in each runtime, step by step.

    python -m tests.matrix.greedy SOURCE BUNDLE OUT.jsonl [--prompts 200] [--steps 256] [--runtimes onnxruntime,…]
    python -m tests.matrix.greedy SOURCE - OUT.jsonl --artefact llama-cpp=model.gguf [--artefact …]

SOURCE is a directory of transformers or a GGUF file, BUNDLE an unpacked bundle made of it; `--artefact` names files of
runtimes without a bundle. One row per prompt and runtime: how many
tokens are equal until the first difference, and there the distance of both tokens in the source's logits. Rows that are
there are not made again, so that a long run may be interrupted. The table is printed at the end.

The source answers `--together` prompts in one batch, padded on the left. A runtime takes `--at-once` tokens per run: 1 is
what a conversation does; with more the logits of a run are those of several steps, which takes a part of the time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np

from packager import plugins
from packager.runtime import load_runtime
from packager.server.generation.decoder import open_decoder
from packager.server.generation.loop import prefill

TIE = 1e-3  # the tolerance of logits that a recipe with a task has by default


def prompts(count: int) -> Iterator[str]:
    """Yield texts of Python's own documentation, each a paragraph's first 200 characters."""
    found = 0
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            text = " ".join(paragraph.split())
            if len(text) > 60 and found < count:
                found += 1
                yield text[:200]


class Source:
    """The source in transformers."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self._torch = torch
        if folder.suffix == ".gguf":
            opened: Any = plugins.load("exporters", "gguf").load_generative(folder.parent, folder.name)
            self.tokenizer, self._model = opened.tokenizer, opened.decoder.model
            return
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self._model = AutoModelForCausalLM.from_pretrained(str(folder), local_files_only=True, dtype=torch.float32)

    def ids(self, text: str) -> list[int]:
        if not self.tokenizer.chat_template:
            return list(self.tokenizer(text).input_ids)
        asked = [{"role": "user", "content": f"Explain: {text}"}]
        rendered = self.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(rendered, add_special_tokens=False).input_ids)

    def answers(self, prompts: Sequence[Sequence[int]], steps: int) -> Iterator[tuple[list[int], Any]]:
        """Yield greedy tokens of each prompt, the one that ends the answer included, and the logits behind each."""
        width = max(map(len, prompts))
        ids, mask = (np.zeros((len(prompts), width), np.int64) for _ in range(2))
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, 1
        found = self._model.generate(
            self._torch.from_numpy(ids),
            attention_mask=self._torch.from_numpy(mask),
            max_new_tokens=steps,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        stated = self._model.generation_config.eos_token_id
        ends = {*(stated if isinstance(stated, list) else [stated])}
        for row in range(len(prompts)):
            tokens = [int(token) for token in found.sequences[row, width:]]
            length = next((step + 1 for step, token in enumerate(tokens) if token in ends), len(tokens))
            yield tokens[:length], np.stack([step[row].float().numpy() for step in found.logits[:length]])


def compared(decoder: Any, ids: Sequence[int], tokens: Sequence[int], logits: Any, at_once: int) -> dict[str, Any]:
    """Feed the source's tokens; return where another one is most likely, and how far the source was from it."""
    cache = decoder.empty()
    first = prefill(decoder, ids, cache)
    assert first is not None
    rows = [first]
    for begin in range(0, len(tokens) - 1, at_once):
        rows += [*decoder.step(np.array([tokens[begin : begin + at_once]], np.int64), cache)[0]]
    decoder.leave(cache)
    differences, furthest = [], 0.0
    for step, (token, row, wanted) in enumerate(zip(tokens, rows, logits, strict=False)):
        furthest = max(furthest, float(np.abs(row - wanted).max()))
        own = int(row.argmax())
        if own != token:
            differences.append([step, float(wanted[token] - wanted[own])])
    return {"steps": len(tokens), "at_once": at_once, "furthest": furthest, "differences": differences}


def artefacts(args: argparse.Namespace) -> dict[str, Path]:
    """Return the files to run, by runtime."""
    found = {name: Path(path) for name, _, path in (text.partition("=") for text in args.artefact)}
    if str(args.bundle) == "-":
        return found
    targets = json.loads((args.bundle / "contract.json").read_text())["targets"]
    for name in args.runtimes.split(","):
        target = next(value for key, value in targets.items() if key.startswith(f"{name}-cpu"))
        found[name] = args.bundle / target["path"]
    return found


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--together", type=int, default=8)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--runtimes", default="onnxruntime")
    parser.add_argument("--artefact", action="append", default=[])
    args = parser.parse_args(argv)
    decoders = {
        name: open_decoder(load_runtime(name).opener()(path, threads=1, device="cpu"))
        for name, path in artefacts(args).items()
    }
    done = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.is_file() else []
    there = {(row["prompt"], row["runtime"]) for row in done}
    source = Source(args.source)
    texts = [*prompts(args.prompts)]
    wanted = [number for number in range(len(texts)) if any((number, name) not in there for name in decoders)]
    with args.out.open("a") as out:
        for begin in range(0, len(wanted), args.together):
            block = wanted[begin : begin + args.together]
            ids = [source.ids(texts[number]) for number in block]
            for number, own, (tokens, logits) in zip(block, ids, source.answers(ids, args.steps), strict=True):
                for name in (name for name in decoders if (number, name) not in there):
                    found = compared(decoders[name], own, tokens, logits, args.at_once)
                    done.append({"prompt": number, "runtime": name, **found})
                    print(json.dumps(done[-1]), file=out, flush=True)
    print_table(done)
    return 0


def print_table(done: Sequence[dict[str, Any]]) -> None:
    """Print one row for each runtime and number of tokens that it took at once."""
    print("| runtime | tokens a run | prompts | steps | equal | within the tie | wrong | logits, furthest |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, at_once in sorted({(row["runtime"], row["at_once"]) for row in done}):
        rows = [row for row in done if (row["runtime"], row["at_once"]) == (name, at_once)]
        gaps = [gap for row in rows for _, gap in row["differences"]]
        steps = sum(row["steps"] for row in rows)
        ties = sum(gap <= TIE for gap in gaps)
        far = max(row["furthest"] for row in rows)
        counts = f"{steps} | {steps - len(gaps)} | {ties} | {len(gaps) - ties}"
        print(f"| {name} | {at_once} | {len(rows)} | {counts} | {far:.1e} |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
