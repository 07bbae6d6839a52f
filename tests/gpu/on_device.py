# SPDX-License-Identifier: Apache-2.0
"""Prove the kit's bundles on this machine's GPU and write one JSON file; `--provider CPUExecutionProvider` rehearses it.

    python on_device.py KIT --out report.json [--provider NAME] [--budget 420] [--each 120] [--only NAME …]

KIT is the unpacked kit: `bundles/NAME.bundle.tar`, `keys/release.pub`, `kit.json`, and `models.py` beside this file.
Every measurement is a process of its own with a time limit, so that a crash or a hang of one loses nothing else; what
ran is written after each. Nothing is fetched. Failures are part of the report, with the library's own words.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
CUDA = "CUDAExecutionProvider"
RUNS, WARM = 60, 10
SERVED_SECONDS, CLIENTS = 10.0, 8


def main() -> int:
    """Run all measurements that fit into the budget; return 0 if each of them ran."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kit", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--provider", default=CUDA)
    parser.add_argument("--budget", type=float, default=420.0, help="seconds for everything (%(default)s)")
    parser.add_argument("--each", type=float, default=120.0, help="seconds for one measurement (%(default)s)")
    parser.add_argument("--only", nargs="*", default=[], help="names of models")
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.kit = options.kit.resolve()  # the server reads paths relative to its configuration
    if options.measure:
        kind, name = options.measure
        print(json.dumps(MEASUREMENTS[kind](options.kit, name, options.provider)))
        return 0
    report: dict[str, Any] = {"format": 1, "provider": options.provider, "started": time.time(), "rows": []}
    ends = time.monotonic() + options.budget
    for kind, name in _plan(options.kit, options.only):
        left = ends - time.monotonic()
        row: dict[str, Any] = {"measurement": kind, "model": name}
        row |= _measured(options, kind, name, left) if left > 5 else {"seconds": 0.0, "error": "no time was left"}
        report["rows"].append(row)
        _write(options.out, report)
        print(
            f"{kind:10} {name:10} {row['seconds']:6.1f} s  {row.get('error', 'ok').splitlines()[-1][:100]}", flush=True
        )
    return int(any("error" in row for row in report["rows"]))


def _plan(kit: Path, only: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (measurement, model), what proves most first."""
    names = [name for name in json.loads((kit / "kit.json").read_text())["models"] if not only or name in only]
    yield "facts", "-"
    for kind in ("verify", "parity", "conform", "latency", "served", "torch"):
        for name in names:
            yield kind, name
    yield "tensorrt", "-"


def _measured(options: argparse.Namespace, kind: str, name: str, left: float) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), str(options.kit), "--out", str(options.out)]
    command += ["--provider", options.provider, "--measure", kind, name]
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=min(left, options.each), check=False)
    except subprocess.TimeoutExpired as error:
        return {"seconds": time.monotonic() - started, "error": f"not done after {error.timeout:.0f} s"}
    seconds = round(time.monotonic() - started, 2)
    if done.returncode:
        return {"seconds": seconds, "error": f"{done.stderr.strip()[-2000:]}\nexit code {done.returncode}"}
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def _write(path: Path, report: dict[str, Any]) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(report, indent=1))
    aside.replace(path)


# what is measured


def facts(kit: Path, name: str, provider: str) -> dict[str, Any]:
    """Return the device, the driver and the versions of what computes."""
    import numpy
    import onnxruntime

    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "onnxruntime": onnxruntime.__version__,
        "numpy": numpy.__version__,
        "providers": onnxruntime.get_available_providers(),
        "cpus": os.cpu_count(),
    }
    query = "--query-gpu=name,driver_version,memory.total,compute_cap"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=False
        )
        found["gpu"] = done.stdout.strip()
    except OSError as error:
        found["gpu"] = f"none: {error.strerror}"
    try:
        import torch

        found |= {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    except ImportError as error:
        found["torch"] = f"none: {error}"
    return {"facts": found}


def verify(kit: Path, name: str, provider: str) -> dict[str, Any]:
    """Verify a bundle's signature and every file, and unpack it."""
    done = _packager("verify", str(_bundle(kit, name)), "--key", str(kit / "keys" / "release.pub"), "--json")
    told = json.loads(done)
    if not _files(kit, name).is_dir():
        _packager("unpack", str(_bundle(kit, name)), str(_files(kit, name)), "--key", str(kit / "keys" / "release.pub"))
    return {"digest": told["digest"], "ok": told["ok"]}


def parity(kit: Path, name: str, provider: str) -> dict[str, Any]:
    """Run every artefact on its signed reference inputs, on the CPU and on the device, and say how far they differ."""
    import numpy

    targets = {}
    for target, path in _artefacts(kit, name):
        truth, _ = _opened(path, "CPUExecutionProvider", strict=False)
        row: dict[str, Any] = {}
        before = _device_bytes()
        row["strict"] = _refusal(lambda path=path: _opened(path, provider, strict=True)) if provider == CUDA else "–"
        row["server"] = _refusal(lambda path=path: _as_served(path, provider))
        session, _ = _opened(path, provider, strict=False)
        row["nodes"] = _nodes(path, provider, next(_sizes(kit, name, session))[1])
        worst, cases = {}, 0
        for feeds in _cases(kit, name, session):
            cases += 1
            for port, here, there in zip(
                session.get_outputs(), session.run(None, feeds), truth.run(None, feeds), strict=True
            ):
                gap = numpy.abs(here.astype("f8") - there.astype("f8")) if here.size else numpy.zeros(1)
                scale = float(numpy.abs(there.astype("f8")).max()) if there.size else 0.0
                if not numpy.isfinite(gap).all():
                    raise ValueError(f"{target}: {port.name} is not finite where the CPU's answer is")
                old = worst.get(port.name, {"largest": 0.0, "of": 0.0})
                worst[port.name] = {"largest": max(old["largest"], float(gap.max())), "of": max(old["of"], scale)}
        after = _device_bytes()
        row |= {"cases": cases, "outputs": worst, "provider": session.get_providers()[0]}
        row["memory"] = {
            "device": None if before is None or after is None else after - before,
            **_stated(kit, name, target),
        }
        targets[target] = row
    return {"targets": targets}


def latency(kit: Path, name: str, provider: str) -> dict[str, Any]:
    """Time runs with tensors that come from and go to the host, and with inputs that stay on the device."""
    targets = {}
    for target, path in _artefacts(kit, name):
        session, _ = _opened(path, provider, strict=False)
        rows = []
        for label, feeds in _sizes(kit, name, session):
            row = {"size": label, "host": _timed(partial(session.run, None, feeds))}
            if provider == CUDA:
                row["device"] = _timed(_bound(session, feeds))
            rows.append(row)
        targets[target] = rows
    return {"targets": targets}


def torch_peers(kit: Path, name: str, provider: str) -> dict[str, Any]:
    """Time eager torch and `torch.compile` on the same device, weights and sizes, in the types that people use."""
    import torch

    sys.path.insert(0, str(HERE))
    import models

    stated = json.loads((kit / "kit.json").read_text())["models"][name]
    module = models.build(name)
    if models.digest(module) != stated["weights"]:
        raise ValueError("this version of torch or transformers makes other weights from the same seed")
    device = "cuda" if provider == CUDA else "cpu"
    rows = []
    for dtype in ("float32", "float16", "bfloat16") if device == "cuda" else ("float32",):
        copied = models.build(name).to(device, getattr(torch, dtype))
        for way in ("eager", "compile"):
            called = copied if way == "eager" else torch.compile(copied)
            for label, sizes in _wanted(models.MODELS[name].largest):
                if sizes.get("past") and way == "compile":
                    continue  # a cache that grows and is cut is compiled anew
                drawn = models.draw(name, sizes)
                feeds = {
                    k: v.to(device, getattr(torch, dtype)) if v.is_floating_point() else v.to(device)
                    for k, v in drawn.items()
                }
                run = partial(called, *feeds.values()) if name == "cnn" else partial(called, **feeds)
                ask = partial(_torch_run, _after(called, feeds, sizes["past"]) if sizes.get("past") else run, device)
                rows.append({"dtype": dtype, "way": way, "size": label, "device": _timed(ask)})
    return {"rows": rows}


def _after(module: Any, feeds: dict[str, Any], past: int) -> Callable[[], object]:
    """Return one step of a language model behind `past` tokens, whose cache is cut back after it."""
    import torch

    ids, mask = (torch.ones((1, past + more), dtype=torch.int64, device=feeds["input_ids"].device) for more in (0, 1))
    with torch.inference_mode():
        cache = module(input_ids=ids).past_key_values

    def step() -> None:
        module(input_ids=feeds["input_ids"], attention_mask=mask, past_key_values=cache)
        cache.crop(-1)  # tokens to take away

    return step


def _torch_run(step: Callable[[], object], device: str) -> None:
    import torch

    with torch.inference_mode():
        step()
    if device == "cuda":
        torch.cuda.synchronize()


def conform(kit: Path, name: str, provider: str) -> dict[str, Any]:
    """Run the conformance suite on this Python's ONNX Runtime."""
    runtime = "onnxruntime-gpu" if provider == CUDA else "onnxruntime"
    import onnxruntime

    folder = kit / "conform" / name
    arguments = ["conform", str(_bundle(kit, name)), "--runtime", f"{runtime}=={onnxruntime.__version__}"]
    arguments += ["--python", sys.executable, "--report", str(folder)]
    arguments += ["--key", str(kit / "keys" / "release.pub")]
    done = subprocess.run([sys.executable, "-m", "packager", *arguments], capture_output=True, text=True, check=False)
    try:
        told = json.loads((folder / "result.json").read_text())
    except FileNotFoundError:
        raise RuntimeError(done.stderr[-1500:]) from None
    cells = [
        {key: cell.get(key) for key in ("target", "runtime", "version", "device", "outcome", "reason", "levels")}
        for cell in told["cells"]
    ]
    return {"cells": cells, "exit": done.returncode}


def served(kit: Path, name: str, provider: str) -> dict[str, Any]:
    """Serve the bundle's directory on the device, load it with a few clients, and count what was answered."""
    found = {}
    device = "cuda" if provider == CUDA else "cpu"
    for target, row in _contract(kit, name)["targets"].items():
        if row["runtime"] != "onnxruntime" or row["device"] != device:
            continue
        session, _ = _opened(_files(kit, name) / row["path"], "CPUExecutionProvider", strict=False)
        _, feeds = next(_sizes(kit, name, session))
        inputs = [
            {
                "name": key,
                "shape": list(value.shape),
                "datatype": _NAMES[value.dtype.str[1:]],
                "data": value.flatten().tolist(),
            }
            for key, value in feeds.items()
        ]
        path, body = f"/v2/models/{name}/infer", json.dumps({"inputs": inputs}).encode()
        if _contract(kit, name).get("generation"):
            path = "/v1/completions"
            body = json.dumps({"model": name, "prompt": "A bundle is", "max_tokens": 16}).encode()
        with _server(kit, name, target, device) as port:
            found[target] = _load(port, path, body)
    return {"targets": found}


def tensorrt(kit: Path, name: str, provider: str) -> dict[str, Any]:
    """Say which TensorRT is here, if any."""
    import tensorrt

    return {"version": tensorrt.__version__}


# how


def _packager(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "packager", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"packager {words[0]}: {done.stderr[-1500:]}")
    return done.stdout


def _bundle(kit: Path, name: str) -> Path:
    return kit / "bundles" / f"{name}.bundle.tar"


def _files(kit: Path, name: str) -> Path:
    return kit / "files" / name


def _contract(kit: Path, name: str) -> dict[str, Any]:
    return json.loads((_files(kit, name) / "contract.json").read_text())


def _artefacts(kit: Path, name: str) -> list[tuple[str, Path]]:
    """Return every target of ONNX Runtime with its graph: those of the CPU run on the device as well."""
    targets = _contract(kit, name)["targets"]
    found = [(key, _files(kit, name) / row["path"]) for key, row in targets.items() if row["runtime"] == "onnxruntime"]
    return list({path: (key, path) for key, path in found}.values())


def _stated(kit: Path, name: str, target: str) -> dict[str, Any]:
    return {"stated": _contract(kit, name)["targets"][target]["needs"]["memory"]}


def _refusal(opened: Callable[[], object]) -> str:
    """Return `opens`, or why it does not; the library's own exceptions have no common base."""
    try:
        opened()
    except Exception as error:
        return f"refused: {str(error)[:300]}"
    return "opens"


def _as_served(path: Path, provider: str) -> object:
    """Open a graph as the server does: nodes that compute on data are on the device, or it refuses."""
    from packager.runtimes.onnxruntime.session import open_session

    return open_session(path, threads=1, device="cuda" if provider == CUDA else "cpu")


def _opened(path: Path, provider: str, *, strict: bool) -> tuple[Any, Any]:
    import onnxruntime

    if provider == CUDA and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls(directory="")  # CUDA and cuDNN out of the packages of NVIDIA
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if strict:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"expected {provider}, got {session.get_providers()}: a silent fall-back")
    return session, options


def _nodes(path: Path, provider: str, feeds: dict[str, Any]) -> dict[str, Any]:
    """Return how many nodes each provider ran in one profiled start, and which operators stayed on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(path.parent / "profile")
    session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    session.run(None, feeds)
    file = Path(session.end_profiling())
    events = [
        event
        for event in json.loads(file.read_text())
        if event.get("cat") == "Node" and "provider" in event.get("args", {})
    ]
    file.unlink()
    counts: dict[str, int] = {}
    for event in events:
        counts[event["args"]["provider"]] = counts.get(event["args"]["provider"], 0) + 1
    elsewhere = sorted({event["args"]["op_name"] for event in events if event["args"]["provider"] != provider})
    return {"by provider": counts, "operators elsewhere": elsewhere}


_NAMES = {
    "f4": "FP32",
    "f2": "FP16",
    "f8": "FP64",
    "i8": "INT64",
    "i4": "INT32",
    "b1": "BOOL",
    "u1": "UINT8",
    "i1": "INT8",
}
_DTYPES = {
    "tensor(float)": "f4", "tensor(float16)": "f2", "tensor(double)": "f8", "tensor(int64)": "i8", "tensor(int32)": "i4",
    "tensor(bool)": "?", "tensor(uint8)": "u1", "tensor(int8)": "i1",
}  # fmt: skip


def _cases(kit: Path, name: str, session: Any) -> Iterator[dict[str, Any]]:
    """Yield the signed reference inputs that a graph takes; for a language model, which has prompts, drawn ones."""
    import numpy

    from packager.formats import safetensors

    folder = _files(kit, name) / "vectors"
    if not (folder / "index.json").is_file():
        yield from (feeds for _, feeds in _sizes(kit, name, session))
        return
    types = {port.name: _DTYPES[port.type] for port in session.get_inputs()}
    for case in json.loads((folder / "index.json").read_text())["cases"]:
        read = safetensors.parse((folder / "inputs" / f"{case['file']}.safetensors").read_bytes())
        yield {
            key: numpy.frombuffer(raw, dtype).reshape(shape).astype(types[key])
            for key, (dtype, shape, raw) in read.items()
        }


def _wanted(largest: dict[str, int]) -> list[tuple[str, dict[str, int]]]:
    """Return the sizes that are timed: one row, and the largest; of a language model also one token after others."""
    step = {"batch": 1, "sequence": 1, "past": largest.get("total", 1) - 1, "total": largest.get("total", 1)}
    found = [{**largest, "batch": 1}, largest, *([step] if "past" in largest else [])]
    return [(",".join(f"{k}={v}" for k, v in sizes.items()), sizes) for sizes in found]


def _sizes(kit: Path, name: str, session: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    import numpy

    largest = json.loads((kit / "kit.json").read_text())["models"][name]["largest"]
    chance = numpy.random.default_rng(0)
    for label, sizes in _wanted(largest):
        feeds = {}
        for port in session.get_inputs():
            shape = [size if isinstance(size, int) else sizes.get(size, 0) for size in port.shape]
            dtype = _DTYPES[port.type]
            if dtype[0] == "f":
                feeds[port.name] = chance.standard_normal(shape).astype(dtype)
            elif "mask" in port.name:
                feeds[port.name] = numpy.ones(shape, dtype)
            else:
                feeds[port.name] = chance.integers(0, 2 if "type" in port.name else 500, shape).astype(dtype)
        yield label, feeds


def _timed(ask: Callable[[], object]) -> dict[str, float]:
    """Return median and slowest of the runs in milliseconds; fewer runs where one takes long."""
    started = time.perf_counter()
    for number in range(WARM):
        ask()
        if number and time.perf_counter() - started > 2.0:
            break
    took: list[float] = []
    while len(took) < RUNS and (len(took) < 5 or sum(took) < 3000.0):
        begun = time.perf_counter()
        ask()
        took.append(1000 * (time.perf_counter() - begun))
    return {"median": round(median(took), 4), "slowest": round(max(took), 4), "runs": len(took)}


def _bound(session: Any, feeds: dict[str, Any]) -> Callable[[], object]:
    """Return a run whose inputs and outputs stay on the device."""
    import onnxruntime

    binding = session.io_binding()
    for key, value in feeds.items():
        binding.bind_ortvalue_input(key, onnxruntime.OrtValue.ortvalue_from_numpy(value, "cuda", 0))
    for port in session.get_outputs():
        binding.bind_output(port.name, "cuda")

    def ask() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return ask


def _device_bytes() -> int | None:
    """Return the bytes of the first GPU that are in use, by the driver."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return int(done.stdout.split()[0]) << 20


@contextmanager
def _server(kit: Path, name: str, target: str, device: str) -> Iterator[int]:
    """Run the server of the package on unpacked files, on `device`; yield its port."""
    from packager.api import open_bundle
    from packager.deploy import server_files

    config = json.loads(server_files.build_config(open_bundle(str(_bundle(kit, name))), target, str(_files(kit, name))))
    path = kit / f"serve-{name}-{target}.json"
    path.write_text(json.dumps(config | {"device": device}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "packager.server", str(path), "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = []
            for line in process.stderr or ():
                lines.append(line)
                if '"ready"' in line:
                    break
            else:
                raise RuntimeError("the server did not become ready: " + "".join(lines)[-1500:])
            threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True).start()
            yield port
        finally:
            process.terminate()
            process.wait(30)


def _load(port: int, path: str, body: bytes) -> dict[str, Any]:
    """Ask for a while with several clients; return how many answers came, of which status, and how long they took."""
    import http.client

    statuses: dict[str, int] = {}
    took: list[float] = []
    ends = time.monotonic() + SERVED_SECONDS

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while time.monotonic() < ends:
            begun = time.perf_counter()
            try:
                connection.request("POST", path, body, {"content-type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                status = str(answer.status)
            except OSError as error:
                status = type(error).__name__
                connection.close()
            took.append(1000 * (time.perf_counter() - begun))
            statuses[status] = statuses.get(status, 0) + 1

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took.sort()
    return {
        "statuses": statuses,
        "rate": round(len(took) / SERVED_SECONDS, 1),
        "median": round(took[len(took) // 2], 3),
        "p99": round(took[int(len(took) * 0.99)], 3),
    }


MEASUREMENTS: dict[str, Callable[[Path, str, str], dict[str, Any]]] = {
    "facts": facts,
    "verify": verify,
    "parity": parity,
    "latency": latency,
    "conform": conform,
    "served": served,
    "torch": torch_peers,
    "tensorrt": tensorrt,
}


if __name__ == "__main__":
    sys.exit(main())
