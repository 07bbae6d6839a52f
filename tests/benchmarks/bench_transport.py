# SPDX-License-Identifier: Apache-2.0
"""How fast bundles move, against the machine's limit and against other tools, in one run on the same data.

    python tests/benchmarks/bench_transport.py [MEGABYTES] [ROUNDS]

Incompressible data in 8 files. Wall and CPU seconds and peak memory of each program's own process (children included);
the median of the rounds, which take turns so that a slow minute hurts everyone. Other tools run where they are installed;
Python packages that are not part of the development environment get one of their own. BentoML compresses what it exports, at
about 6 MB/s, so it only takes part up to 256 MB.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from packager import keys, transport  # noqa: E402
from packager.sign import sign  # noqa: E402
from packager.store import Store  # noqa: E402
from tests import bundles, distribution  # noqa: E402

PARALLEL_SHA256 = """
import sys, hashlib; from concurrent.futures import ThreadPoolExecutor
def one(path):
    with open(path, 'rb', buffering=0) as file: hashlib.file_digest(file, 'sha256')
with ThreadPoolExecutor() as pool: list(pool.map(one, sys.argv[1:]))
"""
# The least that packing can cost: every byte read and hashed on all cores, and written once, at the same time.
LIMIT = """
import sys, os, hashlib; from concurrent.futures import ThreadPoolExecutor
out = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
def one(item):
    number, path = item; view = memoryview(bytearray(1 << 20)); state = hashlib.sha256(); at = number * os.stat(path).st_size
    with open(path, 'rb', buffering=0) as file:
        while count := file.readinto(view): state.update(view[:count]); os.pwrite(out, view[:count], at); at += count
with ThreadPoolExecutor() as pool: list(pool.map(one, enumerate(sys.argv[2:])))
os.fsync(out)
"""
MLFLOW = """
import sys, mlflow
mlflow.set_tracking_uri(f"sqlite:///{sys.argv[1]}/m.db"); mlflow.create_experiment("e", artifact_location=f"file://{sys.argv[1]}/a")
mlflow.set_experiment("e")
with mlflow.start_run() as run: mlflow.log_artifacts(sys.argv[2])
mlflow.artifacts.download_artifacts(run_id=run.info.run_id, dst_path=sys.argv[3])
"""
ORAS = """
import sys, os, oras.client
client = oras.client.OrasClient(hostname=sys.argv[1], insecure=True); os.chdir(sys.argv[3])
if sys.argv[4] == "push": client.push(target=f"{sys.argv[1]}/{sys.argv[2]}", files=sorted(os.listdir()), do_chunked=True)
else: client.pull(target=f"{sys.argv[1]}/{sys.argv[2]}", outdir=sys.argv[5])
"""
BENTOML = """
import sys, os, shutil
import bentoml
with bentoml.models.create("bench") as model:
    for name in os.listdir(sys.argv[1]): shutil.copy(os.path.join(sys.argv[1], name), model.path_of(name))
bentoml.models.export_model(model.tag, sys.argv[2])
"""
MEASURE = """
import sys, os, resource, subprocess, time, json
start = time.perf_counter(); done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
wall, use = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([wall, use.ru_utime + use.ru_stime, use.ru_maxrss / 1024, done.returncode, done.stderr.decode()[-500:]]))
"""


@dataclass
class Bench:
    """The data, a registry, and what was measured."""

    work: Path
    registry: distribution.Registry | None
    measured: dict[str, list[tuple[float, float, float]]]
    number: int = 0

    def time(self, label: str, command: list[object], **environment: str) -> None:
        given = {**os.environ, "HOME": str(self.work), "PACKAGER_STORE": str(self.work / "store"),
                 "MLFLOW_DISABLE_TELEMETRY": "true", "BENTOML_DO_NOT_TRACK": "True", **environment}  # fmt: skip
        done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, command)], env=given, capture_output=True,
                              text=True, check=True)  # fmt: skip
        wall, cpu, memory, code, told = json.loads(done.stdout)
        if code:
            print(f"{label}: failed: {told.strip().splitlines()[-1:]}", flush=True)
            return
        self.measured.setdefault(label, []).append((wall, cpu, memory))

    def fresh(self, name: str) -> Path:
        self.number += 1
        path = self.work / f"out-{self.number}-{name}"
        return path


def own_environment(work: Path, *packages: str) -> Path | None:
    """Return a Python with `packages`, or None where they cannot be installed."""
    home = work / f"env-{packages[0]}"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    command = [
        Path(sys.executable).parent / "uv",
        "pip",
        "install",
        "--quiet",
        "--python",
        home / "bin" / "python",
        *packages,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"not measured: {packages[0]}: {done.stderr.strip().splitlines()[-1:]}", flush=True)
    return home / "bin" / "python" if not done.returncode else None


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory(prefix="bench-transport-") as name:
        work = Path(name)
        data = work / "data"
        data.mkdir()
        store, key = Store(work / "store"), keys.generate("p256")
        keys.save(key, work / "k.pem", work / "k.pub", None)
        files = {}
        for number in range(1, 9):
            path = f"model/weights-{number:04}.bin"
            files[path] = os.urandom((size << 20) // 8)
            (data / Path(path).name).write_bytes(files[path])
        bundle = sign(bundles.make(store, files), key)
        del files
        transport.update_referrers(bundle)
        transport.save(bundle, work / "lay")
        store.release()
        program = shutil.which("docker-registry")
        tools = {"oras": own_environment(work, "oras==0.2.43") if program else None,
                 "model_signing": own_environment(work, "model-signing==1.1.1", "pyOpenSSL"),
                 "bentoml": own_environment(work, "bentoml") if size <= 256 else None}  # fmt: skip
        if not program:
            print("not measured: push and pull: docker-registry is not installed")
            run(Bench(work, None, {}), data, tools, rounds, size)
            return
        with distribution.registry(program, work / "registry") as registry:
            run(Bench(work, registry, {}), data, tools, rounds, size)


def run(bench: Bench, data: Path, tools: dict[str, Path | None], rounds: int, size: int) -> None:
    for _ in range(rounds):
        local(bench, data, tools)
        if bench.registry:
            remote(bench, data, tools, bench.registry.host)
    report(bench.measured, size)


def local(bench: Bench, data: Path, tools: dict[str, Path | None]) -> None:
    python, work, files = sys.executable, bench.work, sorted(data.iterdir())
    packager = [python, "-m", "packager"]
    out = bench.fresh("x")
    out.mkdir()
    bench.time("hash: limit (parallel SHA-256)", [python, "-c", PARALLEL_SHA256, *files])
    bench.time("hash: packager verify", [*packager, "verify", work / "lay", "--key", work / "k.pub"])
    bench.time("hash: sha256sum", ["sha256sum", *files])
    if tools["model_signing"]:
        sign_it = [tools["model_signing"], "-m", "model_signing", "sign", "key", "--private_key", work / "k.pem",
                   "--signature", out / "s.json", data]  # fmt: skip
        bench.time("hash: model_signing sign", sign_it)
    bench.time("pack: limit (SHA-256 + one copy)", [python, "-c", LIMIT, out / "limit", *files])
    (out / "limit").unlink()
    bench.time("pack: packager export .tar", [*packager, "export", "tiny:1.0.0", out / "b.bundle.tar"])
    bench.time("pack: packager import", [*packager, "import", work / "lay", "--store", out / "store"])
    bench.time("pack: tar", ["tar", "-cf", out / "plain.tar", "-C", data, "."])
    for leftover in ("b.bundle.tar", "plain.tar"):
        (out / leftover).unlink(missing_ok=True)
    bench.time("pack: mlflow log + download", [python, "-c", MLFLOW, out, data, out / "down"])
    if tools["bentoml"]:
        bench.time("pack: bentoml create + export", [tools["bentoml"], "-c", BENTOML, data, out / "b.bentomodel"],
                   BENTOML_HOME=str(out / "bentoml"))  # fmt: skip
    shutil.rmtree(out)


def remote(bench: Bench, data: Path, tools: dict[str, Path | None], host: str) -> None:
    packager, out = [sys.executable, "-m", "packager"], bench.fresh("r")
    out.mkdir()
    name = out.name
    bench.time("push: packager", [*packager, "push", "tiny:1.0.0", f"oci://{host}/{name}"])
    bench.time("pull: packager", [*packager, "pull", f"oci://{host}/{name}:1.0.0", "--store", out / "store"])
    shutil.rmtree(out / "store")
    if skopeo := shutil.which("skopeo"):
        there = f"docker://{host}/{name}-skopeo:1"
        bench.time(
            "push: skopeo", [skopeo, "copy", "--quiet", "--dest-tls-verify=false", f"oci:{bench.work}/lay:1.0.0", there]
        )
        bench.time("pull: skopeo", [skopeo, "copy", "--quiet", "--src-tls-verify=false", there, f"oci:{out}/skopeo:1"])
        shutil.rmtree(out / "skopeo")
    if tools["oras"]:
        bench.time("push: oras (Python)", [tools["oras"], "-c", ORAS, host, f"{name}-oras:1", data, "push"])
        bench.time(
            "pull: oras (Python), unchecked", [tools["oras"], "-c", ORAS, host, f"{name}-oras:1", data, "pull", out]
        )
    shutil.rmtree(out)
    assert bench.registry
    bench.registry.stop()
    shutil.rmtree(bench.registry.folder / "data")
    bench.registry.start()


def report(measured: dict[str, list[tuple[float, float, float]]], size: int) -> None:
    def median(label: str) -> tuple[float, ...]:
        return tuple(statistics.median(column) for column in zip(*measured[label], strict=True))

    baselines: dict[str, Callable[[str], bool]] = {
        "hash": lambda label: label.startswith("hash: limit"), "pack": lambda label: label.startswith("pack: limit"),
        "push": lambda label: label == "push: packager", "pull": lambda label: label == "pull: packager",
    }  # fmt: skip
    print(f"{size} MiB in 8 files; median of {len(next(iter(measured.values())))} rounds")
    print(f"{'':36}{'wall s':>8}{'CPU s':>8}{'MB/s':>8}{'RSS MB':>8}{'ratio':>8}")
    for kind, is_base in baselines.items():
        rows = {label: median(label) for label in measured if label.startswith(kind)}
        base = next((row[0] for label, row in rows.items() if is_base(label)), None)
        for label, (wall, cpu, memory) in rows.items():
            rate, ratio = (size << 20) / 1e6 / wall, wall / base if base else 0
            print(f"{label:36}{wall:8.2f}{cpu:8.2f}{rate:8.0f}{memory:8.0f}{ratio:8.2f}")


if __name__ == "__main__":
    main()
