# SPDX-License-Identifier: Apache-2.0
"""What this host has, as a site of a fleet file: CPU, memory, disk, Python, runtimes, GPUs, bubblewrap.

Asks the kernel, the installed distributions and, where it is there, `nvidia-smi`; loads no runtime and sends nothing.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from packager import plugins
from packager.contract.fleet import Device, Site
from packager.contract.runtime_tables import Tables, load_shipped
from packager.runtime import load_runtime
from packager.sandbox import sandbox
from packager.server.process import host_limits

Ask = Callable[[Sequence[str]], str]  # runs a program; empty when it is not there or fails

_SERVERS = ("bentoml", "mlserver", "kserve")  # tested and known, but not built for: they have no plug-in
_QUERY = ("nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader,nounits")
_PATIENCE = 20  # seconds for a program that talks to a driver
_ARM = ("aarch64", "arm64")


def describe(name: str, disk: Path, ask: Ask | None = None) -> Site:
    """Return this host as the site `name`; `disk` is where installations would go."""
    gpus = _gpus((ask or _ask)(_QUERY))
    return Site(
        name,
        find_installed(),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        machine=read_processor()[0],
        cpu=read_processor()[1],
        memory=host_limits.read_allowance().memory or _memory(),
        disk=shutil.disk_usage(disk).free,
        devices=tuple(device for device, _ in gpus),
        driver=gpus[0][1] if gpus else None,
        sandbox=sandbox.find_confinement() != sandbox.NONE,
    )


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def list_distributions(runtime: str) -> tuple[str, ...]:
    """Return the names of the distributions that a runtime is installed from."""
    return load_runtime(runtime).distributions if runtime in plugins.list_names("runtimes") else (runtime,)


def find_installed() -> dict[str, str]:
    """Return the runtimes installed beside this program, with their versions."""
    found = {}
    for runtime in (*plugins.list_names("runtimes"), *_SERVERS):
        version = next(filter(None, map(_version, list_distributions(runtime))), None)
        if version:
            found[runtime] = _TRITON.get(version, version) if runtime == "triton" else version
    return found


_TRITON = {  # the wheels that carry a server: their version is not its own (measured)
    "0.3.1": "2.36.0",
    "0.4.2": "2.39.0",
    "0.5.0": "2.41.0",
    "0.5.8": "2.46.0",
    "0.5.14": "2.51.0",
    "0.6.0": "2.51.0",
    "0.7.0": "2.51.0",
}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def read_processor() -> tuple[str, tuple[str, ...]]:
    """Return the machine and the feature flags of its CPU, as Linux names them."""
    return platform.machine(), list_features(platform.machine(), _read_cpuinfo())


def name_processor() -> str:
    """Return the kernel's name of the CPU; on Arm, where it has none, the numbers of its maker and part."""
    return find_name(platform.machine(), _read_cpuinfo())


def has_locale(name: str) -> bool:
    """Say whether programs of this host can use a locale, as ONNX Runtime asks for it. Changes nothing here."""
    library = ctypes.CDLL(None)
    library.newlocale.restype = ctypes.c_void_p
    every = 0x1FBF  # LC_ALL_MASK of glibc
    spelt = (name,) if "." in name else (f"{name}.UTF-8", name)  # what an operator asks for that names none
    found = [made for text in spelt if (made := library.newlocale(every, text.encode(), None))]
    for made in found:
        library.freelocale(ctypes.c_void_p(made))
    return bool(found)


def list_features(machine: str, cpuinfo: str) -> tuple[str, ...]:
    """Return a CPU's feature flags in the text of `/proc/cpuinfo`; none where it does not say.

    An emulator may show the CPU that it runs on: only the row that the kernel of `machine` writes counts.
    """
    return tuple(sorted(set(_find_row(cpuinfo, "Features" if machine in _ARM else "flags").split())))


def find_name(machine: str, cpuinfo: str) -> str:
    """Return the name of a CPU in the text of `/proc/cpuinfo`; empty where it does not say."""
    if machine not in _ARM:
        return _find_row(cpuinfo, "model name")
    maker, part = (_find_row(cpuinfo, f"CPU {word}") for word in ("implementer", "part"))
    return f"implementer {maker}, part {part}" if maker and part else ""


def _find_row(cpuinfo: str, name: str) -> str:
    rows = (row.partition(":") for row in cpuinfo.splitlines())
    return next((value.strip() for key, _, value in rows if key.strip() == name), "")


def _read_cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return ""


def _gpus(answer: str) -> list[tuple[Device, str]]:
    found = []
    for row in answer.splitlines():
        parts = [part.strip() for part in row.split(",")]
        if len(parts) == 4 and parts[2].isdigit():
            found.append((Device(parts[0], parts[1], int(parts[2]) << 20), parts[3]))
    return found


def _ask(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def describe_confinement(level: str) -> tuple[bool, str]:
    """Say what confines the workers that open models here, and which program is missing."""
    lacking = "no bubblewrap (`apt-get install bubblewrap`)"
    return {
        "bubblewrap": (True, "bubblewrap confines the workers that open models"),
        "namespaces": (False, f"{lacking}: the kernel's namespaces confine the workers that open models instead"),
    }.get(level, (False, f"{lacking}, and no namespaces: models cannot be opened here but with `sandbox: none`"))


def list_remarks(site: Site, tables: Tables = load_shipped) -> list[tuple[bool, str]]:
    """Return what this host can and cannot do, in words, each with whether that is good."""
    found = [describe_confinement(sandbox.find_confinement().level)]
    for runtime, version in site.runtimes.items():
        known = bool(tables(runtime).rows)
        found.append((known, f"{runtime} {version}" + ("" if known else ": no knowledge ships about this runtime")))
    if not site.runtimes:
        found.append((False, "no runtime is installed beside this program; `packager install` brings its own"))
    for device in site.devices:
        found.append((True, f"{device.name}, compute capability {device.capability}, driver {site.driver}"))
    allowed, cores = host_limits.read_allowance(), os.cpu_count() or 1
    if allowed.cpus < cores:
        found.append((True, f"{allowed.cpus:g} of {cores} processors are for this process (affinity and quota)"))
    if allowed.memory is not None:
        found.append((True, f"{allowed.memory >> 20} of {_memory() >> 20} MiB of memory are for this process"))
    if not site.devices:
        found.append((False, "no GPU that `nvidia-smi` lists: targets for GPUs cannot run here"))
    return found
