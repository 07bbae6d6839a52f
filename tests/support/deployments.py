# SPDX-License-Identifier: Apache-2.0
"""A small bundle that carries a wheel, and every kind of directory that can be rendered from it."""

from __future__ import annotations

import copy
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from packager import canonical, plugins
from packager.bundle.bundle import Bundle
from packager.bundle.knobs import knob_schema
from packager.deploy import render
from packager.formats import wheel_locks
from packager.formats.wheel_locks import Wheel
from packager.knobs import catalogue, knobs
from packager.knobs.knobs import Override, Resolved
from packager.store.store import Store
from tests.support import bundles

DIGEST = "sha256:" + "0123456789abcdef" * 4
BASE = f"registry.example/python@{DIGEST}"
PLATFORM = "linux_x86_64-cp311"
WHEEL = "kleines-1.0-py3-none-any.whl"
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "bentoml": {},
    "container": {"base": BASE},
    "mlflow": {},
    "mlserver": {},
    "kubernetes": {"image": f"registry.example/tiny@{DIGEST}"},
    "observability": {},
    "systemd": {},
}


def wheel(files: Mapping[str, bytes], kind: int = 0o100644) -> bytes:
    """Return a wheel with these members."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = kind << 16
            archive.writestr(info, data)
    return made.getvalue()


def installable(name: str, version: str, files: Mapping[str, bytes]) -> bytes:
    """Return a wheel that pip installs."""
    about = f"{name}-{version}.dist-info"
    kind = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    members = {**files, f"{about}/METADATA": metadata, f"{about}/WHEEL": kind}
    record = "".join(f"{member},,\n" for member in [*members, f"{about}/RECORD"]).encode()
    return wheel({**members, f"{about}/RECORD": record})


def carrier(store: Store, slo: Mapping[str, float] | None = None, **wheels: bytes) -> Bundle:
    """Return a bundle whose lock has one wheel per argument (its name, without version), all of them carried."""
    contract = copy.deepcopy(bundles.CONTRACT_OF_TINY)
    contract |= {"slo": {**slo}} if slo else {}
    wheels = wheels or {
        "kleines": wheel({"kleines/__init__.py": b"", "kleines-1.0.dist-info/METADATA": b"Name: kleines\n"})
    }
    rows = [
        Wheel(name, "1.0", f"{name}-1.0-py3-none-any.whl", hashlib.sha256(data).hexdigest())
        for name, data in sorted(wheels.items())
    ]
    texts = wheel_locks.write_lock_files({PLATFORM: rows}, (), (PLATFORM,))
    files: dict[str, bytes | Path] = {f"deps/onnxruntime/{name}": text.encode() for name, text in texts.items()}
    files |= {f"deps/onnxruntime/wheels/{name}-1.0-py3-none-any.whl": data for name, data in wheels.items()}
    files |= {"contract.json": canonical.dump(contract), knobs.FILE: catalogue.schema_bytes(contract)}
    return bundles.make(store, files)


def values(kind: str, bundle: Bundle, *wishes: Override) -> Resolved:
    """Return the knobs of a kind of deployment."""
    own = [Override(name, text, kind) for name, text in plugins.load("renderers", kind).DEFAULTS.items()]
    return knobs.resolve(knob_schema(bundle), bundle.digest, [*own, *wishes])


def rendered(kind: str, bundle: Bundle, out: Path, *wishes: Override, **options: str) -> Path:
    """Render a kind with the options it needs."""
    given = {**OPTIONS[kind], **{name.replace("_", "-"): value for name, value in options.items()}}
    render.render_directory(kind, bundle, values(kind, bundle, *wishes), out, given)
    return out


def snapshot(folder: Path) -> dict[str, tuple[int, bytes, float]]:
    """Return every path with its mode, content and time."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mtime,
        )
        for path in sorted(folder.rglob("*"))
    }
