# SPDX-License-Identifier: Apache-2.0
"""The tasks of one model, in order: each runs only if its inputs are not those of a task that ended well.

Runs in a worker process of the driver. What a task did is remembered after it did it; between the two a kill may come,
so every task gives the same when it is repeated: builds are found in the store, key signatures are deterministic, what
is pushed is there already. What must never happen twice with another digest (a signature, a tag) is claimed in the
journal before it happens.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote_plus

from packager import canonical
from packager.build.build import Built
from packager.build.project import Project
from packager.bundle.bundle import Bundle, open_bundle
from packager.canonical import JSON
from packager.errors import IntegrityError, LockError, PackagerError, UsageError
from packager.events import Cached, Event, Finished, Started, Warned, ignore
from packager.lock.lock import Lock
from packager.os_errors import translate
from packager.policy import engine, facts
from packager.release import builder, building, provenance
from packager.release_plan.context import WorkerContext
from packager.release_plan.plan import ModelRow, Problem, TaskRow, skip_task, tasks_of
from packager.release_plan.problems import GateError, describe_bug, describe_error, refuse_by
from packager.release_plan.release_file import Conform, Model, Promote, fill_address
from packager.store.entries import StoreEntry
from packager.transport.push import Pushed, push_bundle

_PUSHES = 4  # blobs of one bundle that are sent at a time
_WARNINGS = 20  # of one model that its row keeps
_LOCAL = "urn:packager:verifier:local"


def release_model(model: Model, context: WorkerContext) -> ModelRow:
    """Perform the tasks of one model, or plan them; whatever goes wrong is in its row."""
    return _Tasks(model, context).perform()


class _Tasks:
    """One model under work: its project, the outcomes of its tasks so far, and what the build left in memory."""

    def __init__(self, model: Model, context: WorkerContext) -> None:
        self.model, self.context, self.settings = model, context, model.settings
        self.outcomes: dict[str, Mapping[str, JSON]] = {}
        self.cached = self.sent = 0
        self.warnings: list[str] = []
        self.task = ""
        self.built: Built | None = None
        self.locked: Lock | None = None

    def perform(self) -> ModelRow:
        rows: list[TaskRow] = []
        bad: TaskRow | None = None
        for name in tasks_of(self.settings, self.context.until):
            planned = next((row.task for row in rows if row.state == "planned"), None)
            if bad is not None:
                rows.append(skip_task(name, bad))
            elif planned is not None:
                rows.append(TaskRow(name, "planned", f"follows `{planned}`"))
            else:
                self.task = name
                rows.append(self._attempt(name))
                bad = rows[-1] if rows[-1].problem else None
        return self._row(tuple(rows))

    def _row(self, rows: tuple[TaskRow, ...]) -> ModelRow:
        opened: Project | None = self.__dict__.get("project")
        return ModelRow(
            self.model.name,
            self.model.version,
            self.model.recipe,
            rows,
            tuple(target.name for target in opened.recipe.targets()) if opened else (),
            self._cells(opened, self.settings.conform) if opened and self.settings.conform else (),
            self._digest(),
            _text(self.outcomes.get("push", {}).get("reference")),
            opened.runner.executed if opened else 0,
            self.cached,
            tuple(dict.fromkeys(self.warnings))[:_WARNINGS],
            _text(self.outcomes.get("sign", {}).get("conformance")),
            self.sent,
        )

    def _attempt(self, name: str) -> TaskRow:
        started, began = time.monotonic(), self.context.workspace.clock().timestamp()
        try:
            row = self._lock() if name == "lock" else self._remembered(name)
        except GateError as error:
            return TaskRow(name, "no", str(error), _since(started), Problem(1, str(error), None, error.details), began)
        except PackagerError as error:
            return TaskRow(name, "failed", error.message, _since(started), describe_error(error), began)
        except (OSError, RuntimeError, MemoryError) as error:
            found = translate(error) if isinstance(error, OSError | RuntimeError) else None
            problem = describe_error(found) if found else describe_bug(error)
            return TaskRow(name, "failed", problem.message, _since(started), problem, began)
        except Exception as error:
            return TaskRow(name, "failed", str(error), _since(started), describe_bug(error), began)
        return replace(row, seconds=_since(started), began=began) if row.state == "done" else row

    # the lock: what is on disk says whether it holds

    def _lock(self) -> TaskRow:
        again = "lock" in self.context.again and self.settings.lock == "renew"
        try:
            self.locked = self.project.read_lock()
            if not again:
                return TaskRow("lock", "unchanged", "the lock fits the recipe")
            reason = "it is to run again"
        except LockError as stale:
            if self.settings.lock == "check":
                raise
            reason = stale.message
        if self.context.dry:
            return TaskRow("lock", "planned", reason)
        self._begin()
        self.locked = self.project.make_lock()
        return TaskRow("lock", "done", reason)

    # every other task: its inputs say whether it holds

    def _remembered(self, name: str) -> TaskRow:
        chosen = getattr(self.settings, name)
        inputs: JSON = getattr(self, f"_{name}_inputs")(chosen)
        known = self.context.journal.recall(self.model.name, name, inputs)
        lost = self._lost(name, known.outcome) if known else None
        if known and not lost and name not in self.context.again:
            self.outcomes[name] = known.outcome
            return TaskRow(name, "unchanged", "the inputs are those of the last time")
        reason = lost or self._changed(name, inputs, known is not None)
        if self.context.dry:
            return TaskRow(name, "planned", reason)
        self._begin()
        started = time.monotonic()
        outcome: Mapping[str, JSON] = getattr(self, f"_{name}")(chosen, inputs)
        self.context.journal.remember(self.model.name, name, inputs, outcome, _since(started))
        self.outcomes[name] = outcome
        return TaskRow(name, "done", reason)

    def _changed(self, name: str, inputs: Mapping[str, JSON], known: bool) -> str:
        """Say why a task runs."""
        if known:
            return "it is to run again"
        before = self.context.journal.last_inputs(self.model.name, name)
        if before is None:
            return "it did not run to its end before"
        changed = [_WORDS.get(key, key) for key in inputs if inputs[key] != before.get(key)]
        return f"changed since the last time: {', '.join(changed) or 'what it reads'}"

    def _lost(self, name: str, outcome: Mapping[str, JSON]) -> str | None:
        """Return why a remembered outcome no longer holds, or None."""
        entry = self.context.store.named(self.model.name, self.model.version)
        if name == "build" and (entry is None or entry.manifest != outcome["digest"]):
            return "the store no longer has the bundle"
        if name == "sign" and (entry is None or not set(outcome["statements"]) <= set(entry.referrers)):
            return "the store no longer has the signatures"
        return None

    def _begin(self) -> None:
        self.context.tell(self.task, None)

    def _hear(self, event: Event) -> None:
        match event:
            case Cached():
                self.cached += 1
            case Warned(message):
                self.warnings.append(message)
            case Started() | Finished():
                self.context.tell(self.task, event)

    # what tasks share

    @functools.cached_property
    def project(self) -> Project:
        workspace = self.context.workspace
        opened = Project.open(
            Path(self.model.recipe),
            lambda: self.context.store,
            variables=workspace.variables,
            registries=workspace.registry_settings,
            clock=workspace.clock,
            jobs=workspace.jobs,
            on_event=self._hear,
            tables=workspace.tables,
        ).vendoring(self.settings.vendor)
        if (opened.recipe.name, opened.recipe.version) != (self.model.name, self.model.version):
            raise UsageError(f"recipe `{self.model.recipe}` changed while it was released", hint="release again")
        if self.context.executor:
            opened.runner.executor = self.context.executor(self.model)
        return replace(opened, here=replace(opened.here, share=self.context.share))

    @functools.cached_property
    def lock(self) -> Lock:
        return self.locked or self.project.read_lock()

    @property
    def entry(self) -> StoreEntry:
        """The entry of the bundle that is released. Raises UsageError where it is not the one that was built."""
        found = self.context.store.entry(self.model.name, self.model.version)
        built = self.outcomes.get("build")
        if built and built["digest"] != found.manifest:
            raise UsageError(
                f"`{self.model.name}:{self.model.version}` became another bundle while it was released",
                hint="another process gave that name away; release again",
            )
        if found.origin is None:
            raise UsageError(
                f"`{self.model.name}:{self.model.version}` was neither built nor verified by this store",
                hint="build it here, or import it with --key or --trust",
            )
        return found

    def _digest(self) -> str | None:
        if built := self.outcomes.get("build"):
            return str(built["digest"])
        known = None if self.settings.build else self.context.store.named(self.model.name, self.model.version)
        return known.manifest if known else None

    def _bundle(self) -> Bundle:
        digest = self.entry.manifest
        bundle = open_bundle(f"{self.model.name}:{self.model.version}", lambda: self.context.store)
        if bundle.digest != digest:
            raise IntegrityError(f"`{bundle.name}:{bundle.version}` changed while it was opened", subject=digest)
        return bundle

    def _claim(self, purpose: str, digest: str, about: JSON = None) -> JSON:
        """Give a purpose of this name and version away to a digest, once and for all; return what was said then."""
        name, version = self.model.name, self.model.version
        claimed, said = self.context.journal.claim(name, version, purpose, digest, about)
        if claimed != digest:
            raise UsageError(
                f"`{name}:{version}` was released before as another bundle: {claimed} ({purpose})",
                hint=f"raise `version` in `{self.model.recipe}`: what was released stays what it is",
            )
        return said

    @property
    def _today(self) -> str:
        return self.context.workspace.clock().date().isoformat()

    # build

    def _build_inputs(self, chosen: bool) -> JSON:
        base, recipe = self.project.here.base, self.project.recipe
        return {
            "recipe": recipe.digest,
            "lock": canonical.sha256(canonical.dump(self.lock.to_json())),
            "files": {name: _digest_of(base / name) for name in provenance.list_read_files(recipe)},
        }

    def _build(self, chosen: bool, inputs: JSON) -> Mapping[str, JSON]:
        self.built = building.build_bundle(self.project, self.lock, builder=self.context.builder)
        if self.built.bundle is None:
            raise refuse_by("no bundle was made", self.built.verdict)
        made = self.built.bundle
        return {"digest": made.digest, "size": made.size}

    # policy

    def _policy_inputs(self, chosen: str) -> JSON:
        """The day is among them: waivers and advisories are dated."""
        profile = self.context.profile(chosen)
        return {"bundle": self.entry.manifest, "profile": profile.digest, "day": self._today}

    def _policy(self, chosen: str, inputs: JSON) -> Mapping[str, JSON]:
        """Judge what the build measured by another profile than the recipe's; a build that ran before runs nothing."""
        profile, bundle = self.context.profile(chosen), self._bundle()
        built = self.built or building.build_bundle(self.project, self.lock, builder=self.context.builder)
        if built.bundle is None:
            raise refuse_by("no bundle was made", built.verdict)
        content = facts.Content(bundle.name, bundle.version, bundle.tree, bundle.medium.open_file)
        day = self.context.workspace.clock().date()
        verdict = engine.judge(profile, facts.of_build(content, built.facts, profile.facts, day), day)
        if not verdict.ok:
            raise refuse_by(f"profile `{profile.name}` says no", verdict)
        return {"verdict": verdict.to_json()}

    # conform

    def _conform_inputs(self, chosen: Conform) -> JSON:
        return {
            "bundle": self.entry.manifest,
            "cells": list(chosen.runtimes),
            "level": chosen.level,
            "strict": chosen.strict,
        }

    def _conform(self, chosen: Conform, inputs: JSON) -> Mapping[str, JSON]:
        from packager.conform import cells, results, run
        from packager.conform.settings import Settings
        from packager.deploy.install import Index
        from packager.trust.verify import check_files

        bundle = self._bundle()
        wanted, tables = [cells.parse_selection(text) for text in chosen.runtimes], self.context.workspace.tables
        plan = cells.plan_cells(bundle.contract.document, wanted, tables)
        checks = {"signature": "not checked", "files": check_files(bundle, ignore)}
        with tempfile.TemporaryDirectory(prefix="packager-conform-") as place:
            settings = Settings(
                work=Path(place) / "work",
                cache=self.context.environments,
                level=chosen.level,
                index=Index(None, self.context.workspace.served_environments),
                environment=dict(self.context.workspace.variables),
                tables=tables,
            )
            found = {**run.run_suite(bundle, plan, settings, self._hear), "integrity": checks}
        verdict = results.summarise_cells(found)
        found["verdict"] = verdict
        if not verdict["ok"] or (chosen.strict and (verdict["unproven"] or verdict["known"])):
            raise GateError(
                results.render_summary(found), [*verdict["failed"], *verdict["unproven"], *verdict["known"]]
            )
        return {"result": found}

    def _cells(self, project: Project, chosen: Conform) -> tuple[str, ...]:
        """Return the names of the planned cells, from the promise of the recipe."""
        from packager.conform import cells

        recipe = project.recipe
        promise = {
            "runs-on": {item.runtime: {"versions": item.versions} for item in recipe.runs_on},
            "targets": {item.name: item.to_json() for item in recipe.targets()},
        }
        try:
            wanted = [cells.parse_selection(text) for text in chosen.runtimes]
            return tuple(cell.name for cell in cells.plan_cells(promise, wanted, self.context.workspace.tables))
        except PackagerError:
            return ()  # the task itself says so

    # sign

    def _sign_inputs(self, chosen: str) -> JSON:
        tested = self.outcomes.get("conform")
        return {
            "bundle": self.entry.manifest,
            "signer": self._called(chosen),
            "conformance": canonical.sha256(canonical.dump(tested["result"])) if tested else None,
        }

    def _sign(self, chosen: str, inputs: JSON) -> Mapping[str, JSON]:
        from packager.conform import results
        from packager.release.sign import sign
        from packager.transport import copy

        signer, bundle = self.context.signer(chosen), self._bundle()
        self._claim("sign", bundle.digest)
        signed, tested = sign(bundle, signer), self.outcomes.get("conform")
        if tested:
            stated = results.build_statement(tested["result"], bundle)
            content = signer.sign(stated.to_bytes()).to_bytes()
            signed = signed.with_statement(content, stated.predicate_type)
            named = canonical.sha256(content)
        copy.attach(signed)
        result = [item.manifest.digest for item in signed.referrers if tested and item.content.digest == named]
        return {
            "statements": sorted(item.manifest.digest for item in signed.referrers),
            "conformance": result[0] if result else None,
        }

    def _called(self, uri: str) -> str:
        """Return a signer as the release file names it: the same in every checkout."""
        base = f"{self.context.base}/"
        return uri.replace(base, "").replace(quote_plus(base), "")

    # push

    def _push_inputs(self, chosen: str) -> JSON:
        signed = self.outcomes.get("sign")
        attached = () if self.settings.promote else self.entry.referrers
        statements = signed["statements"] if signed else sorted(attached)
        return {"bundle": self.entry.manifest, "address": self._address(chosen), "statements": statements}

    def _address(self, template: str) -> str:
        return fill_address(template, self.model.name, self.model.version)

    def _push(self, chosen: str, inputs: JSON) -> Mapping[str, JSON]:
        bundle, address = self._bundle(), self._address(chosen)
        self._claim(f"push {address}", bundle.digest)
        pushed = self._send(bundle, address)
        return {"reference": pushed.reference, "sent": pushed.sent}

    def _send(self, bundle: Bundle, address: str) -> Pushed:
        pushed = push_bundle(bundle, address, self.context.workspace.registry_settings, self._hear, jobs=_PUSHES)
        self.sent += pushed.sent
        return pushed

    # promote

    def _promote_inputs(self, chosen: Promote) -> JSON:
        return {
            "bundle": self.entry.manifest,
            "stage": chosen.stage,
            "profile": self.context.profile(chosen.profile).digest,
            "trust": _digest_of(Path(chosen.trust)),
            "signer": self._called(chosen.sign),
            "address": self.settings.push and self._address(self.settings.push),
        }

    def _promote(self, chosen: Promote, inputs: JSON) -> Mapping[str, JSON]:
        from packager.release import promote
        from packager.transport import copy
        from packager.trust.verifier import Verifier

        workspace, bundle = self.context.workspace, self._bundle()
        now = workspace.clock()
        verifier = Verifier.from_trust_file(Path(chosen.trust), now, workspace.seen)
        seen = verifier.verify(bundle, ignore)
        seen.raise_for_failure()
        named, _ = builder.identify(self.context.builder, workspace.variables)
        profile = self.context.profile(chosen.profile)
        purpose = f"promote {canonical.sha256(canonical.dump(inputs))}"  # the time of the first attempt stays
        at = str(self._claim(purpose, bundle.digest, builder.format_time(now)))
        gate = promote.Gate(chosen.stage, _LOCAL if named == builder.LOCAL else named, profile, at)
        verdict = promote.judge(gate, bundle, seen.evidence, verifier.trust, now.date())
        if not verdict.ok:
            raise refuse_by(f"the gate of `{chosen.stage}` says no", verdict)
        stated = copy.attach(promote.attach_summary(bundle, gate, seen.evidence, self.context.signer(chosen.sign)))
        if self.settings.push:
            self._send(stated, self._address(self.settings.push))
        return {"stage": chosen.stage, "verdict": verdict.to_json()}


_WORDS = {
    "recipe": "the recipe",
    "lock": "the lock",
    "files": "a file beside the recipe",
    "bundle": "the bundle",
    "profile": "the profile",
    "day": "the day",
    "cells": "the chosen cells",
    "signer": "the signer",
    "conformance": "the result of the suite",
    "address": "the address",
    "statements": "the statements",
    "stage": "the stage",
    "trust": "the trust file",
}


def _digest_of(path: Path) -> str:
    try:
        return canonical.sha256(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None


def _text(value: JSON) -> str | None:
    return None if value is None else str(value)


def _since(started: float) -> float:
    return time.monotonic() - started
