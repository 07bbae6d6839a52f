# SPDX-License-Identifier: Apache-2.0
"""`packager run` over a long table or many pictures, unbroken and killed at random: rows a second, memory, equal bytes.

    python tests/benchmarks/soak_batches.py [ROWS [KILLS]]             10,000,000 rows and 20 kills by default
    python tests/benchmarks/soak_batches.py PICTURES KILLS --pictures  a folder of PNGs of 32x32 pixels

Pictures are scikit-learn's digits, each with other noise, for a seeded image classifier; a script that decodes and
resizes with Pillow and runs ONNX Runtime in its own process does the same. A kill is SIGKILL to the whole process group after a time drawn from a seed. Memory is the sum of the resident sets of
the command and its workers; it is flat where the second half of an unbroken run has no more than the first.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.unit.deploy.test_mlflow import AGES, ages  # noqa: E402
from tests.unit.pipelines.test_run import installation  # noqa: E402

CHUNK = 8192
EVERY = 0.5  # seconds between two looks


def write_table(path: Path, rows: int) -> Path:
    with path.open("w") as sink:
        sink.write("id,age,unit\n")
        for number in range(rows):
            sink.write(f"{number},{number % 977 / 8},{1 if number % 3 else 0.5}\n")
    return path


def write_pictures(folder: Path, count: int) -> Path:
    numpy, image = importlib.import_module("numpy"), importlib.import_module("PIL.Image")
    digits = importlib.import_module("sklearn.datasets").load_digits().images
    draw = numpy.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        large = digits[number % len(digits)].repeat(4, 0).repeat(4, 1) * 15 + draw.integers(0, 15, (32, 32))
        image.fromarray(large.astype(numpy.uint8)).save(folder / f"{number:06d}.png")
    return folder


SCRIPT = """
import json, pathlib, sys
import numpy, onnxruntime, PIL.Image
graph, source, target = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
mean, deviation = (numpy.array(list, "f4")[:, None, None] for list in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
names = ["cat", "dog", "owl"]
files = sorted(pathlib.Path(source).glob("*.png"))
with open(target, "w") as sink:
    for start in range(0, len(files), 64):
        part = files[start : start + 64]
        pictures = [PIL.Image.open(file).convert("RGB").resize((24, 24), PIL.Image.BICUBIC) for file in part]
        pixels = numpy.stack([numpy.asarray(one, "f4").transpose(2, 0, 1) / 255 for one in pictures])
        (logits,) = session.run(["logits"], {"pixel_values": (pixels - mean) / deviation})
        scores = numpy.exp(logits - logits.max(1, keepdims=True))
        scores /= scores.sum(1, keepdims=True)
        for file, row in zip(part, scores):
            best = int(row.argmax())
            answer = [{"label": names[best], "score": float(row[best])}]
            sink.write(json.dumps({"file": file.name, "answer": answer}) + "\\n")
"""


def picture_site(folder: Path) -> tuple[Path, Path]:
    """Return an installation of an image classifier, and its graph."""
    models = importlib.import_module("tests.support.raw_models")
    made = models.make_pictures_model(folder)
    made.step(folder / "pipeline", {"task": "image-classification", "top": 1})
    return installation(folder, made), made.graph / "model" / "model.onnx"


def table_site(folder: Path) -> Path:
    graph = folder / "graph" / "model"
    graph.mkdir(parents=True)
    (graph / "model.onnx").write_bytes(ages())
    interface = {**AGES, "dimensions": {"rows": {"min": 1, "max": 4096}}}
    made: Any = SimpleNamespace(graph=folder / "graph", interface=interface)
    return installation(folder, made, raw=False)


def command(site: Path, source: Path, out: Path) -> list[str]:
    chunk = ["--chunk", 256] if source.is_dir() else ["--chunk", CHUNK]
    words = ["run", site, source, "-o", out, *chunk, "--processes", 2, "--json"]
    return [sys.executable, "-m", "packager", *map(str, words)]


def children(pid: int) -> Iterator[int]:
    """Yield a process and those below it."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from children(int(child))
    except OSError:
        return


def resident(pid: int) -> int:
    """Return the bytes that a process and those below it hold."""
    total = 0
    for one in children(pid):
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return total


def unbroken(words: list[str]) -> tuple[float, list[int]]:
    """Return the seconds of a run, and the memory over time."""
    begun, looks = time.monotonic(), []
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    while process.poll() is None:
        looks.append(resident(process.pid))
        time.sleep(EVERY)
    assert process.returncode == 0
    return time.monotonic() - begun, looks


def killed(words: list[str], out: Path, kills: int, seconds: float) -> int:
    """Kill a run until it was killed so often, then let it end; return how many kills met a running process."""
    draw, met = random.Random(22), 0
    for _ in range(kills):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(draw.uniform(0.5, max(1.0, 2 * seconds / kills)))
        met += process.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if out.exists():
            break
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    return met


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def alone(folder: Path, graph: Path, source: Path) -> float:
    """Return the seconds of the script that answers pictures in one process."""
    (folder / "script.py").write_text(SCRIPT)
    begun = time.monotonic()
    words = [sys.executable, folder / "script.py", graph, source, folder / "plain.jsonl"]
    subprocess.run([str(word) for word in words], check=True)
    return time.monotonic() - begun


def measure(folder: Path, rows: int, kills: int, *, pictures: bool = False) -> dict[str, Any]:
    suffix, script = "jsonl" if pictures else "csv", {}
    if pictures:
        site, graph = picture_site(folder)
        source = write_pictures(folder / "in", rows)
        script = {"seconds_of_the_script": round(alone(folder, graph, source), 1)}
    else:
        site, source = table_site(folder), write_table(folder / "in.csv", rows)
    whole, out = folder / f"whole.{suffix}", folder / f"out.{suffix}"
    seconds, looks = unbroken(command(site, source, whole))
    met = killed(command(site, source, out), out, kills, seconds)
    half = len(looks) // 2
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        **script,
        "rows_a_second": round(rows / seconds),
        "kills": met,
        "equal": digest(whole) == digest(out),
        "largest_mib": [round(max(part, default=0) / 2**20) for part in (looks[:half], looks[half:])],
        "looks": len(looks),
    }


def main(arguments: list[str]) -> int:
    pictures = "--pictures" in arguments
    words = [word for word in arguments if word != "--pictures"]
    rows, kills = (int(value) for value in [*words, *("10000000", "20")[len(words) :]])
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), rows, kills, pictures=pictures)
    print(json.dumps(found))
    return 0 if found["equal"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
