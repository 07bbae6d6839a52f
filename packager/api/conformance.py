# SPDX-License-Identifier: Apache-2.0
"""The conformance suite: a bundle on real runtimes, each in an environment of its own, or on a running server.

    result = conformance.run_conformance(bundle, workspace, verifier, runtimes=["onnxruntime==*"], jobs=2)
    print(conformance.format_result(result))
    conformance.write_report(result, Path("report"))

A result is plain JSON: `cells` (target, runtime, version, `outcome`, checks by level L0 to L5), `reference`, `host`,
`integrity` and `verdict` (`ok`, the counts, and the cells that failed or were skipped).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from packager.api._lazy import lazily
from packager.events import OnEvent, ignore

if TYPE_CHECKING:
    from packager.bundle.bundle import Bundle
    from packager.canonical import JSON
    from packager.conform.accuracy import Evaluation
    from packager.conform.settings import Endpoint
    from packager.trust.keys import PublicKey
    from packager.trust.signers import Signer
    from packager.trust.verifier import Verifier
    from packager.workspace import Workspace
else:
    __getattr__ = lazily(__name__, {"Endpoint": "packager.conform.settings"})

__all__ = [
    "Endpoint",
    "attach_results",
    "count_processors",
    "format_result",
    "merge_results",
    "run_conformance",
    "sign_result",
    "write_report",
]


def count_processors() -> int:
    """Return how many whole CPUs this process may use, by affinity and control groups: a fit number of `jobs`.

    Raises nothing.
    """
    from packager.server.process import host_limits

    return host_limits.read_allowance().whole_cpus


def run_conformance(
    bundle: Bundle,
    workspace: Workspace,
    verifier: Verifier | None = None,
    *,
    runtimes: Sequence[str] = (),
    adapter: Sequence[str] = (),
    endpoint: Endpoint | None = None,
    level: int = 5,
    jobs: int | None = None,
    seconds: int = 600,
    memory: int = 0,
    python: Path | None = None,
    operators: bool = False,
    evaluate: Path | None = None,
    wheelhouse: Path | None = None,
    cache: Path | None = None,
    keep: Path | None = None,
) -> dict[str, JSON]:
    """Check a bundle, run the suite up to `level` (0 to 5) on it, and return the result.

    Without a verifier the files are checked, and no signature. `runtimes` are `NAME`, `NAME==V`, a
    range or `NAME==*` (default: each promised runtime at both ends of its range); `adapter` is the command of a program
    that runs another one; with an `endpoint` a running server is judged instead. `jobs` cells run at a time (default:
    the workspace's); `seconds` and `memory` (bytes of address space, 0: no limit) bound one cell. `python` is the
    interpreter of an environment to test instead of building any; `operators` runs ONNX's own tests everywhere.
    `evaluate` is a file of rows with labels, as `evaluation.data` of the recipe: the metric is measured on each cell.
    `wheelhouse` has the wheels for `serve`, `cache` the environments (default: `Workspace.caches`), and `keep` is a new
    directory that keeps what was done there. Raises the verification's failure, UsageError, MissingToolError,
    SourceError, StepError.
    """
    import tempfile

    from packager.conform import verified
    from packager.conform.settings import Settings
    from packager.deploy.install import Index

    with tempfile.TemporaryDirectory(prefix="packager-conform-") as place:
        settings = Settings(
            work=(keep or Path(place) / "work").absolute(),
            cache=(cache or workspace.caches).absolute(),
            level=level,
            jobs=jobs or workspace.jobs,
            seconds=seconds,
            memory=memory,
            index=Index(wheelhouse, workspace.served_environments),
            environment=dict(workspace.variables),
            python=python and python.absolute(),
            operators=operators,
            evaluation=_plan_evaluation(bundle, evaluate, verifier) if evaluate else None,
            tables=workspace.tables,
        )
        return verified.run_conformance(bundle, settings, verifier, runtimes, adapter, endpoint, workspace.on_event)


def _plan_evaluation(bundle: Bundle, data: Path, verifier: Verifier | None) -> Evaluation:
    from packager.conform.accuracy import Evaluation
    from packager.release import proofs

    statements = [item.statement for item in verifier.require(bundle)] if verifier else None
    return Evaluation(data, proofs.find_evaluations(bundle, statements))


def sign_result(result: Mapping[str, JSON], bundle: Bundle, signer: Signer, on_event: OnEvent = ignore) -> bytes:
    """Sign a result, attach it to the bundle where it is, and return the attestation (a Sigstore bundle, JSON).

    Raises UsageError, SourceError, StorageError.
    """
    from packager.conform import verified

    return verified.sign_result(result, bundle, signer, on_event)


def merge_results(paths: Sequence[Path], keys: Sequence[PublicKey] = ()) -> dict[str, JSON]:
    """Return one result over the cells of several files about one bundle: results, or attestations that a key signed.

    Raises UsageError for other bundles or none, IntegrityError, NegativeAnswerError for an attestation of no such key.
    """
    from packager.conform import verified

    return verified.merge_results(paths, keys)


def attach_results(
    paths: Sequence[Path], bundle: Bundle, keys: Sequence[PublicKey], on_event: OnEvent = ignore
) -> Bundle:
    """Attach attestations that sites sent back to a bundle where it is; return it, opened again.

    Raises UsageError where none is an attestation, IntegrityError, NegativeAnswerError.
    """
    from packager.conform import verified

    return verified.attach_results(paths, bundle, keys, on_event)


def write_report(result: Mapping[str, JSON], folder: Path, attestation: bytes | None = None) -> None:
    """Write `result.json`, `junit.xml`, `report.html` and the attestation, if there is one. Raises StorageError."""
    from packager.conform import report

    report.write(result, folder, attestation)


def format_result(result: Mapping[str, JSON]) -> str:
    """Return a result as a table of cells and levels, with a last line that sums up. Raises KeyError for no result."""
    from packager.conform import results

    return f"{results.render_table(result)}\n{results.render_summary(result)}"
