# SPDX-License-Identifier: Apache-2.0
"""The main job, start to end: a registered model becomes a signed bundle that verifies, installs and answers.

Usage: demo.py [FOLDER] [--cnn]. The model is scikit-learn's, or with `--cnn` one of torch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import tritonclient.http as triton

HERE = Path(__file__).resolve().parent
ABOUT = """license: Apache-2.0
description: Classifies 8x8 images of handwritten digits
authors: [The packager authors]
datasets: [{name: digits, license: CC-BY-4.0, uri: "https://archive.ics.uci.edu/dataset/80"}]
"""
MEANING = {
    "structure": "it is a bundle: sizes, names and records are as they must be",
    "trust": "the customer's own trust has not expired",
    "signature": "a key that the customer trusts signed it",
    "statement": "what was signed is this bundle and no other",
    "revocation": "nothing of it was revoked",
    "rollback": "it is no older than what was accepted before",
    "files": "every file is the one that was signed, and none was added",
    "formats": "no file has a format that can hold a program",
}  # of the checks of `packager verify`, in their order
sys.path.insert(0, str(HERE.parent))

from walk import Walk  # noqa: E402


def classify(address: str, images: np.ndarray) -> np.ndarray:
    """Classify images through NVIDIA's client, in batches of 64: the labels of a classifier, or the largest score."""
    client = triton.InferenceServerClient(address)
    metadata = client.get_model_metadata("digits")
    name, output = metadata["inputs"][0]["name"], metadata["outputs"][0]["name"]
    found = []
    for start in range(0, len(images), 64):
        batch = images[start : start + 64]
        request = triton.InferInput(name, list(batch.shape), "FP32")
        request.set_data_from_numpy(batch)
        answer = client.infer("digits", [request]).as_numpy(output)
        found.append(answer if answer.ndim == 1 else answer.argmax(1))
    return np.concatenate(found)


def main(folder: Path, *, cnn: bool = False) -> None:
    walk = Walk(folder)
    library = "torch" if cnn else "scikit-learn"
    walk.step(f"train a model of {library} on handwritten digits and register it in MLflow")
    facts = walk.program(HERE / ("train_cnn.py" if cnn else "train.py"), folder)
    walk.proved(
        f"models:/digits/{facts['version']} is `champion`; accuracy on {facts['held_out']} held-out images: {facts['accuracy']:.4f}"
    )

    walk.step("write a recipe from the registered model")
    walk.packager("init", "models:/digits@champion", "--force")
    with (folder / "bundle.yaml").open("a") as recipe:
        recipe.write(ABOUT)
    walk.proved("a person adds the licence, who made it, and the data it was made from")

    walk.step("pin everything that can move")
    lock = walk.packager("lock")
    walk.proved(f"source is {lock['source']['uri']}, files {lock['tree'][:19]}")

    walk.step(f"build: fetch, export, measure against {library}, judge, assemble")
    built = walk.packager("build", "--locked")
    walk.proved(f"{built['name']}:{built['version']} = {built['digest']}")
    walk.proved(
        f"{built['files']} files, {built['size']} bytes; rules that hold: {', '.join(built['verdict']['held'])}"
    )
    if later := built["verdict"]["deferred"]:
        walk.proved(f"not asked yet, for want of a signature and what is said of it: {', '.join(later)}")

    walk.step("what is in it: every file and wheel with its hash, licence and edges")
    report = walk.packager("sbom", f"digits:{built['version']}", "--report")
    walk.proved(f"licences of {report['licensed_share']:.0%} of {sum(report['licences'].values())} components")
    assert report["licensed_share"] >= 0.95, report["unlicensed"]

    walk.step("build again: nothing is left to do, and the digest is the same")
    again = walk.packager("build", "--locked")
    assert again["executed"] == 0
    assert again["digest"] == built["digest"]
    walk.proved(f"{again['executed']} steps run, {again['digest'][:19]}")

    walk.step("make a key, sign, write one file")
    for old in (folder / "release.pem", folder / "release.pub"):
        old.unlink(missing_ok=True)
    walk.packager("keygen", "release")
    name = f"{built['name']}-{built['version']}.bundle.tar"
    walk.packager("sign", f"digits:{built['version']}", "--key", "release.pem", "-o", name)
    walk.proved(f"{name}: {(folder / name).stat().st_size} bytes")

    walk.step("verify the file with the public key alone, as a customer would")
    verdict = walk.packager("verify", name, "--key", "release.pub")
    for check in verdict["checks"]:
        walk.proved(f"{MEANING[check['check']]:60} {check['detail'].partition(';')[0]:.70}")

    walk.step("install: unpack, isolated environment from the hashed lock")
    installed = walk.packager("install", name, "site", "--key", "release.pub")
    walk.proved(f"{installed['target']} in {Path(installed['release']).name}")

    walk.step("serve and classify the held-out images through tritonclient")
    held_out = np.load(folder / "held-out.npz")
    with walk.serving("site") as address:
        accuracy = float((classify(address, held_out["images"]) == held_out["labels"]).mean())
    walk.proved(f"accuracy before {facts['accuracy']:.4f}, after {accuracy:.4f}")
    assert accuracy == facts["accuracy"], "the served bundle must classify exactly as the trained model did"
    walk.step("done: what was trained is what answers, and every step in between can be checked")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--cnn", action="store_true", help="a CNN of torch instead of scikit-learn's classifier")
    args = parser.parse_args()
    main((args.folder or Path(".demo", "digits-cnn" if args.cnn else "digits")).resolve(), cnn=args.cnn)
