# SPDX-License-Identifier: Apache-2.0
"""Run the cells of a plan over one bundle, and put their verdicts together."""

from __future__ import annotations

import json
import os
import platform
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from packager.bundle.bundle import CONTRACT, Bundle
from packager.canonical import JSON
from packager.conform import cells, generation, knob_trials, programs
from packager.conform.accuracy import Accuracy
from packager.conform.cells import PlannedCell, RuntimeSelection
from packager.conform.operators import Coverage
from packager.conform.results import FORMAT
from packager.conform.settings import Endpoint, Settings
from packager.contract import host
from packager.deploy import conversation, install
from packager.deploy.server_files import CONFIG
from packager.errors import PackagerError, StepError, UsageError
from packager.events import Finished, OnEvent, Started, Warned, ignore
from packager.files import storage_errors
from packager.lock import environments
from packager.runtime import load_conformance
from packager.transport import copy

REFERENCE = "onnxruntime"
_TEXTS = ("onnxruntime", "onnxruntime-genai", "openvino-genai", "llama-cpp", "serve")
"""Runtimes that a bundle which generates text is tested on."""


def run_suite(bundle: Bundle, plan: Sequence[PlannedCell], settings: Settings, on_event: OnEvent = ignore) -> JSON:
    """Run all cells of `plan` on `bundle`, which the caller has verified; return the result."""
    if bundle.contract.generation is not None:
        if settings.evaluation is not None:
            raise UsageError(
                f"`{bundle.name}:{bundle.version}` generates text, and cells measure no metric of words",
                hint="leave --evaluate out: the build measures `wer` and `cer`, and `inspect` shows them",
            )
        reference = generation.Reference.of(bundle, settings.stated)
        return _Run(bundle, settings, on_event).texts(plan, reference)
    return _Run(bundle, settings, on_event).matrix(plan)


def run_suite_on_endpoint(bundle: Bundle, endpoint: Endpoint, settings: Settings, on_event: OnEvent = ignore) -> JSON:
    """Judge a server that is already running by the contract and the vectors of `bundle`."""
    if bundle.contract.generation is not None:
        raise UsageError(
            f"`{bundle.name}:{bundle.version}` generates text, and endpoints are judged by tensors",
            hint="leave --endpoint out: `--runtime serve` tests an installation",
        )
    return _Run(bundle, settings, on_event).endpoint(endpoint)


class _Run:
    """One run: the unpacked bundle, the reference, and the cells."""

    def __init__(self, bundle: Bundle, settings: Settings, on_event: OnEvent) -> None:
        self.bundle, self.settings, self.on_event = bundle, settings, on_event
        self.contract = bundle.contract.document
        self.suite = programs.find_suite()
        self.files = settings.work / "bundle"
        with storage_errors(settings.work):
            self.files.mkdir(parents=True)
        copy.write_unpacked(bundle, self.files, on_event)
        self.coverage = Coverage(settings.work / "operators", self._module)
        self.accuracy = None
        if settings.evaluation:
            self.accuracy = Accuracy(
                settings.evaluation, bundle, self.files, settings.work / "evaluation", self._module
            )

    def matrix(self, plan: Sequence[PlannedCell]) -> JSON:
        started = time.monotonic()
        reference, vectors = self._vectors(plan)
        sysconfig.get_config_vars()  # its first call is not thread-safe
        with ThreadPoolExecutor(self.settings.jobs) as pool:
            rows = list(pool.map(lambda item: self._cell(item[0], item[1], vectors), enumerate(plan)))
        return self._result(rows, reference, time.monotonic() - started)

    def texts(self, plan: Sequence[PlannedCell], reference: generation.Reference) -> JSON:
        """Run the cells of a bundle that generates text against the tokens that its publisher stated."""
        began, rows = time.monotonic(), []
        for number, planned in enumerate(plan):
            started, scratch = time.monotonic(), self.settings.work / f"cell-{number:03}"
            self.on_event(Started(planned.name))
            row = self._text_cell(planned, scratch, reference)
            row["wall_seconds"] = round(time.monotonic() - started, 3)
            self.on_event(Finished(planned.name, row["wall_seconds"], row["outcome"]))
            rows.append(row)
        count = len(reference.prompts)
        about = {"runtime": "the source", "version": "itself", "source": "stated", "cases": count, "stated": count}
        return self._result(rows, about, time.monotonic() - began)

    def _text_cell(self, planned: PlannedCell, scratch: Path, reference: generation.Reference) -> JSON:
        if planned.reason:
            return self._skipped(planned, planned.reason)
        if planned.runtime not in _TEXTS:
            return self._skipped(planned, f"text is generated on {' and '.join(_TEXTS)} only")
        scratch.mkdir(parents=True)
        try:
            if planned.installs:
                release = self._installed(planned.target)
                python, config = release / "env" / "bin" / "python", release / CONFIG
                command = conversation.build_command(python, release / "app", config, 1)
                environment: Mapping[str, str] = programs.list_variables(scratch, python, self.suite)
            else:
                cache = self.settings.cache / "environments"
                python = self.settings.python or generation.environment_of(planned, cache, self.on_event)
                command, environment = generation.command_of(
                    planned, self.bundle, self.files, scratch, python, self.suite
                )
        except PackagerError as error:
            return self._skipped(planned, f"its environment cannot be built: {error.message}")
        tolerance = self.contract["targets"][planned.target]["tolerance"]["logits"]
        found = generation.judge(
            reference,
            tolerance,
            lambda: conversation.start_conversation(command, environment),
            self.settings.level,
            None if planned.installs or self.settings.python else f"{planned.runtime} {planned.version}",
        )
        return {**_blank(_about(planned)), **found}

    def endpoint(self, endpoint: Endpoint) -> JSON:
        started = time.monotonic()
        reference, vectors = self._vectors(())
        target = _most_exact(self.contract, load_conformance(REFERENCE).accepts)
        addresses = {"http": endpoint.http, "grpc": endpoint.grpc}
        known = {name: address for name, address in addresses.items() if address}
        subject = {
            **self._common(target, "endpoint", self.settings.work / "endpoint", vectors),
            "name": f"endpoint {next(iter(known.values()))} · {target}",
            "runtime": "endpoint",
            "version": "-",
            "device": "-",
            "channels": list(known),
            "endpoints": {
                **known,
                "headers": dict(endpoint.headers),
                "binary": endpoint.binary,
                "ca": str(endpoint.ca) if endpoint.ca else None,
            },
            "options": {"model": endpoint.model or self.bundle.name},
        }
        row = self._evaluated(self._judge(subject), Path(str(subject["scratch"])))
        return self._result([row], reference, time.monotonic() - started)

    # the reference

    def _vectors(self, plan: Sequence[PlannedCell]) -> tuple[JSON, Path]:
        """Make the reference vectors with the newest promised ONNX Runtime, in a separate environment."""
        target = _most_exact(self.contract, load_conformance(REFERENCE).accepts)
        promise = self.contract["runs-on"].get(REFERENCE, {}).get("versions", "")
        newest = cells.plan_cells(
            {**self.contract, "targets": {target: self.contract["targets"][target]}},
            [RuntimeSelection(REFERENCE, promise or None)],
            self.settings.tables,
        )[-1]
        folder, scratch = self.settings.work / "vectors", self.settings.work / "reference"
        folder.mkdir()
        label = f"reference outputs from {newest.runtime} {newest.version}"
        self.on_event(Started(label))
        started = time.monotonic()
        subject = self._subject(replace(newest, options={**(newest.options or {}), **self._carried()}), scratch, folder)
        code, log = self._module(["suite.vectors", str(subject), str(folder)], scratch)
        if code != 0:
            raise StepError(f"{label} cannot be had", hint="try another `--runtime onnxruntime==V`", log=log)
        self.on_event(Finished(label, time.monotonic() - started))
        index = json.loads((folder / "index.json").read_bytes())
        stated = sum(case.get("source") == "stated" for case in index["cases"])
        return {
            **index["reference"],
            "source": "run",
            "cases": len(index["cases"]),
            "stated": stated,
            "target": target,
        }, folder

    def _carried(self) -> dict[str, JSON]:
        """Return the directories of the bundle's reference inputs and of their stated outputs, if it has any."""
        inputs, outputs = self.files / "vectors" / "inputs", self.settings.work / "stated"
        outputs.mkdir()
        for name, data in self.settings.stated.items():
            (outputs / name).write_bytes(data)
        return {"inputs": str(inputs), "outputs": str(outputs)} if inputs.is_dir() else {}

    def _module(self, arguments: Sequence[str], scratch: Path) -> tuple[int | None, str]:
        """Run a module of the suite."""
        return self._spawn([sys.executable, "-P", "-m", *arguments], scratch)

    # one cell

    def _cell(self, number: int, planned: PlannedCell, vectors: Path) -> JSON:
        started = time.monotonic()
        self.on_event(Started(planned.name))
        row = self._attempt(planned, self.settings.work / f"cell-{number:03}", vectors)
        row["wall_seconds"] = round(time.monotonic() - started, 3)
        self.on_event(Finished(planned.name, row["wall_seconds"], row["outcome"]))
        return row

    def _attempt(self, planned: PlannedCell, scratch: Path, vectors: Path) -> JSON:
        if planned.reason:
            return self._skipped(planned, planned.reason)
        try:
            subject = self._subject(planned, scratch, vectors)
        except PackagerError as error:
            return self._skipped(planned, f"its environment cannot be built: {error.message}")
        row = self._evaluated(self._judge(json.loads(subject.read_bytes())), scratch)
        if row["outcome"] != "skip" and (self.settings.operators or _unexplained(row)):
            target = self.contract["targets"][planned.target]
            row["operators"] = self.coverage.of(planned, subject, target.get("graph", self.contract["graph"]))
        return row

    def _subject(self, planned: PlannedCell, scratch: Path, vectors: Path) -> Path:
        """Build the environment of a cell and write its cell file."""
        scratch.mkdir(parents=True)
        options, chosen = dict(planned.options or {}), knob_trials.trial_values(self.bundle, planned.knobs)
        if planned.installs:
            release = self._installed(planned.target)
            python = release / "env" / "bin" / "python"
            options["command"] = install.server_command(release, ())
            options["knobs"] = knob_trials.knob_document(self.bundle, chosen)
        elif self.settings.python or not planned.python:
            python = self.settings.python or Path(sys.executable)
        else:
            cache = self.settings.cache / "environments"
            python = environments.ensure_environment(planned.requirements, planned.python, cache, self.on_event)
        value = {
            **self._common(planned.target, planned.runtime, scratch, vectors),
            "name": planned.name,
            "version": planned.version,
            "device": planned.device,
            "adapter": [*([str(python)] if planned.python else []), *planned.adapter],
            "environment": programs.list_variables(scratch, python, self.suite),
            "channels": list(planned.channels),
            "library": planned.library,
            "options": options,
            "deviations": dict(planned.deviations or {}),
            "knobs": chosen,
        }
        file = scratch / "cell.json"
        file.write_text(json.dumps(value, indent=1))
        return file

    def _installed(self, target: str) -> Path:
        cache = self.settings.cache / "installed" / self.bundle.digest.removeprefix("sha256:")[:16]
        done = install.install(
            self.bundle, cache, target, self.settings.index, self.settings.environment, self.on_event
        )
        return done.directory.resolve()

    def _common(self, target: str, runtime: str, scratch: Path, vectors: Path) -> dict[str, JSON]:
        model = self.files / self.contract["targets"][target]["path"]
        blobs = {path: blob.digest for path, blob in self.bundle.tree if _belongs(path, model, self.files)}
        return {
            "bundle": {"name": self.bundle.name, "version": self.bundle.version, "digest": self.bundle.digest},
            "target": target,
            "runtime": runtime,
            "contract": str(self.files / CONTRACT),
            "model": str(model),
            "files": {str(self.files / path): digest for path, digest in blobs.items()},
            "vectors": str(vectors),
            "scratch": str(scratch),
            "level": self.settings.level,
            "seconds": self.settings.seconds / 2,
            "memory": self.settings.memory,
        }

    def _judge(self, subject: dict[str, JSON]) -> JSON:
        """Run the suite over one cell in a separate process and return its verdict."""
        scratch = Path(str(subject["scratch"]))
        scratch.mkdir(parents=True, exist_ok=True)
        file, result = scratch / "cell.json", scratch / "result.json"
        file.write_text(json.dumps(subject, indent=1))
        options = [
            "-p",
            "suite.plugin",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            "--rootdir",
            str(self.suite / "suite"),
        ]
        command = [
            sys.executable,
            "-P",
            "-m",
            "pytest",
            "-q",
            "--tb=no",
            "--no-header",
            *options,
            "--import-mode=importlib",
            "--cell",
            str(file),
            "--result",
            str(result),
            str(self.suite / "suite"),
        ]
        code, log = self._spawn(command, scratch)
        try:
            return json.loads(result.read_bytes())
        except (FileNotFoundError, ValueError):
            reason = (
                f"the suite ended with status {code}"
                if code is not None
                else (f"the cell did not end within {self.settings.seconds} s")
            )
            return {**_blank(subject), "outcome": "fail", "reason": f"{reason}: {log[-400:]}".strip(": ")}

    def _spawn(self, command: Sequence[str], scratch: Path) -> tuple[int | None, str]:
        return programs.run(command, scratch, self.suite, self.settings.environment, self.settings.seconds)

    def _evaluated(self, row: JSON, scratch: Path) -> JSON:
        """Return the verdict with what the cell reaches on rows with labels, where it came so far."""
        if self.accuracy is None or self.settings.level < 3 or row["levels"].get("L1") != "pass":
            return row
        return self.accuracy.add_to(row, scratch / "cell.json", scratch)

    def _skipped(self, planned: PlannedCell, reason: str) -> JSON:
        self.on_event(Warned(f"{planned.name}: skipped: {reason}"))
        return {**_blank(_about(planned)), "outcome": "skip", "reason": reason}

    def _result(self, rows: list[JSON], reference: JSON, seconds: float) -> JSON:
        return {
            "format": FORMAT,
            "bundle": {"name": self.bundle.name, "version": self.bundle.version, "digest": self.bundle.digest},
            "level": self.settings.level,
            "reference": reference,
            "host": _describe_host(),
            "seconds": round(seconds, 3),
            "cells": rows,
        }


def _unexplained(row: Mapping[str, JSON]) -> bool:
    """Return whether a cell failed in a way that an operator may be the cause of: load, interface, numbers."""
    return any(row["levels"].get(level) == "fail" for level in ("L1", "L2", "L3"))


def _belongs(path: str, model: Path, files: Path) -> bool:
    """Return whether a file of the bundle is the artefact or lies beside it, as external data does."""
    return (files / path).parent == model.parent or path == CONTRACT


def _most_exact(contract: JSON, accepted: Sequence[str]) -> str:
    """Return the target whose answers are the reference: fp32 before others."""
    targets = {name: target for name, target in contract["targets"].items() if target["runtime"] in accepted}
    if not targets:
        raise UsageError(
            "the bundle holds no artefact that gives reference outputs", hint=f"one for {accepted[0]} would"
        )
    return str(min(targets, key=lambda name: (targets[name]["precision"] != "fp32", name)))


def _about(planned: PlannedCell) -> dict[str, JSON]:
    return {
        "name": planned.name,
        "target": planned.target,
        "runtime": planned.runtime,
        "version": planned.version,
        "device": planned.device,
    }


def _blank(subject: Mapping[str, JSON]) -> dict[str, JSON]:
    return {
        "cell": subject["name"],
        **{key: subject[key] for key in ("target", "runtime", "version", "device")},
        "levels": {},
        "identity": {},
        "checks": [],
        "measures": {},
    }


def _describe_host() -> JSON:
    """Return facts of the host that measurements depend on, and none that name a person or machine."""
    return {
        "system": platform.system(),
        "kernel": platform.release().split("-")[0],
        "machine": platform.machine(),
        "cpu": host.name_processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }
