# SPDX-License-Identifier: Apache-2.0
"""What a server of a bundle is made of: the target it runs, the files of the server, and its configuration.

Installations, container images and Bentos are put together from these parts, so the same bundle is served by the same
program in all of them. No disk is written and no network is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.contract.contract import Base, Contract
from packager.errors import UsageError, did_you_mean
from packager.knobs.knobs import Resolved
from packager.runtime import load_runtime
from packager.server.generation.settings import FOLDER
from packager.server.knobs import SECRETS, Knobs
from packager.server.telemetry.distribution_file import Distributions

CONFIG = "serve.json"
VECTORS = "vectors"
_SERVER = "packager.server"
_MAIN = f"""\
import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported
    if sys.argv[1:2] == ["--batch"]:  # without what only a server needs
        from {_SERVER}.batch import main as answer

        sys.exit(answer(sys.argv[2:]))
    from {_SERVER}.__main__ import main

    sys.exit(main())
"""


def choose_target(contract: Contract, wanted: str | None = None) -> str:
    """Return the target to run: the wanted one, else one for CPUs, the most exact (fp32 before others), by name.

    Raises UsageError.
    """
    if contract.base is not None:
        raise refuse_adapter(contract.base)
    targets = {name: terms.target for name, terms in contract.targets.items()}
    served = {name: target for name, target in targets.items() if _is_served(target.runtime)}
    if wanted is not None and wanted not in targets:
        raise UsageError(f"the bundle has no target `{wanted}`", hint=did_you_mean(wanted, targets))
    if not served or (wanted is not None and wanted not in served):
        listed = ", ".join(f"`{name}`" for name in sorted(served)) or "none"
        raise UsageError(
            f"`{wanted or min(targets)}` is for a runtime that `packager serve` does not drive",
            hint=f"targets of this bundle that can be installed: {listed}; `packager unpack` gives the files of any",
        )
    return wanted or min(
        served, key=lambda name: (served[name].device != "cpu", served[name].precision != "fp32", name)
    )


def refuse_adapter(base: Base) -> UsageError:
    """Return the error of an adapter where a bundle that runs by itself is wanted."""
    return UsageError(
        f"the bundle is an adapter: it runs in {base.name}:{base.version} ({base.digest}) alone",
        hint="install that base in a directory, then this bundle in the same one",
    )


def _is_served(runtime: str) -> bool:
    return load_runtime(runtime).served


def list_program(runtime: str) -> dict[str, bytes]:
    """Return the server by path: it runs from any directory, and imports nothing else of this program.

    Beside it is the one file of the runtime that opens artefacts.
    """
    module = runtime.replace("-", "_")
    server = Path(importlib.import_module(_SERVER).__path__[0])
    files = {f"packager/server/{name}": data for name, data in _sources(server)}
    files[f"packager/runtimes/{module}/session.py"] = load_runtime(runtime).read_session()
    packages = ("packager", "packager/runtimes", f"packager/runtimes/{module}")
    return {**files, **{f"{package}/__init__.py": b"" for package in packages}, "__main__.py": _MAIN.encode()}


def _sources(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def build_config(
    bundle: Bundle, target: str, prefix: str = "bundle", distributions: Distributions | None = None
) -> bytes:
    """Return `serve.json`: the configuration of the server for a target. `prefix` is where the bundle's files are to
    it; `distributions`, by a trusted signer, are what the server compares its inputs and outputs with.
    """
    contract = bundle.contract
    about, written = contract.targets[target], contract.document
    promised = {key: written[key] for key in ("ranges", "values", "missing", "slo", "generation") if key in written}
    promised |= {"files": prefix} if contract.generation else {}
    if bundle.tree.get(f"{VECTORS}/index.json") is not None:
        promised["reference"] = f"{prefix}/{VECTORS}"
    if distributions is not None:
        promised["distributions"] = distributions.to_json()
    if contract.pipeline is not None:
        named = contract.pipeline
        promised["pipeline"] = {"path": f"{prefix}/{named.path}", "digest": named.digest}
    return canonical.dump(
        {
            **promised,
            "name": bundle.name,
            "version": bundle.version,
            "digest": bundle.digest,
            "runtime": about.target.runtime,
            "target": target,
            "device": about.target.device,
            "artefact": f"{prefix}/{about.path}",
            "interface": written["interface"],
        }
    )


def list_artefact(bundle: Bundle, target: str) -> list[str]:
    """Return the paths of the files that the server opens: the artefact, what lies beside it, tokenizer, template."""
    folders = [PurePosixPath(bundle.contract.targets[target].path).parent]
    folders += [PurePosixPath(FOLDER)] if bundle.contract.generation else []
    return [path for path, _ in bundle.tree if any(PurePosixPath(path).is_relative_to(at) for at in folders)]


def refuse_texts(bundle: Bundle, platform: str) -> None:
    """Raise UsageError for a bundle that generates text, where a platform's own server would take its tensors."""
    if bundle.contract.generation is not None:
        raise UsageError(
            f"`{bundle.name}` generates text, and {platform} has no loop around its graph",
            hint="serve it with `packager serve`, or render `container`, `kubernetes` or `systemd`",
        )


def list_reference(bundle: Bundle) -> list[str]:
    """Return the paths of the reference inputs, which the server warms up on where they are."""
    return [path for path, _ in bundle.tree if PurePosixPath(path).is_relative_to(VECTORS)]


def list_pipeline(bundle: Bundle) -> list[str]:
    """Return the paths of the files that turn raw inputs into tensors; none for a bundle that takes tensors only."""
    named = bundle.contract.pipeline
    folder = PurePosixPath(named.path).parent if named else None
    return [path for path, _ in bundle.tree if folder and PurePosixPath(path).is_relative_to(folder)]


def digest_tuning(values: Resolved) -> str:
    """Return the digest of the knobs that change how requests are answered, as the server's metrics tell it."""
    return Knobs.parse(build_document(values)).tuning


def build_document(values: Resolved) -> str:
    """Return the knobs in the form of the server's `--knobs`; where secrets are is not among them."""
    shown = {name: value for name, value in values.values.items() if name not in SECRETS}
    return canonical.dump({"digest": values.digest, "values": shown}).decode()
