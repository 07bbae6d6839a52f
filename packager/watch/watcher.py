# SPDX-License-Identifier: Apache-2.0
"""Watch: poll registries, receive webhooks, release what is new, write tags back; until it is interrupted.

Tags of the version, with the bundle's name in the middle: `packager.NAME.bundle`, `.verdict` (`released`, `refused` by
a gate, `failed`), `.digest`, `.reference` (where it was pushed), `.conformance` (the signed result of the suite there)
and `.problem`. They are written until the registry has them, the verdict last. A gate that says no is final for a
version; a failure is tried again, three times in all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from http.server import ThreadingHTTPServer
from pathlib import Path

from packager.canonical import JSON
from packager.errors import PackagerError, UsageError
from packager.events import Note, OnEvent, Warned, ignore
from packager.release_plan import driver
from packager.release_plan.metrics import Metrics
from packager.release_plan.plan import BAD, ModelRow, Problem, stopped_row
from packager.release_plan.release_file import Model, ReleaseFile
from packager.release_plan.spans import Spans
from packager.store.store import Store
from packager.watch import registry, webhook
from packager.watch.ledger import Item, Ledger, State
from packager.watch.targets import Target, drop_recipe, list_targets, write_recipe

_ATTEMPTS = 3
_PAUSE = 30.0  # seconds until the second attempt; four times as many until the third
_MAX_BATCH = 32  # versions of one run of the driver
_MAX_TAG = 1000  # characters
_UNHEALTHY = 3  # intervals without an answer of every registry


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where webhooks are received: address and port, the secret, and the files of TLS. Without a secret none are."""

    place: tuple[str, int]
    secret: bytes | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """How a watch runs: as a release does, and how it follows registries.

    `tracking` is the registry of recipes that name none, `interval` the seconds between two polls, `tag` a key and a
    value: versions that have this tag are released as well. `now` is the clock, in Unix time, `traces` the address of
    a collector. With `once` it ends when all that the registries show now is released.
    """

    release: driver.Options
    tracking: str | None
    now: Callable[[], float]
    interval: float = 60.0
    tag: tuple[str, str] | None = None
    receiver: Receiver | None = None
    traces: str | None = None
    once: bool = False


class _Seen:
    """The metrics of watching itself, beside those of releases."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        from prometheus_client import Counter, Gauge

        at = self.metrics.registry
        self.polled = Counter("packager_watch_polls", "Polls of registries.", ["result"], registry=at)
        self.hooks = Counter("packager_watch_webhooks", "Webhooks received.", ["result"], registry=at)
        self.last = Gauge("packager_watch_last_poll_timestamp_seconds", "Last answer of all registries.", registry=at)
        self.versions = Gauge("packager_watch_versions", "Versions seen, by state.", ["state"], registry=at)


class Watcher:
    """The state of one watch. Raises UsageError for a release file that follows no registry."""

    def __init__(self, file: ReleaseFile, options: Options, on_event: OnEvent = ignore) -> None:
        self._file, self._options, self._on_event = file, options, on_event
        self._targets = list_targets(file.models, options.tracking)
        self._of_item = {(target.registry, target.name, target.model.name): target for target in self._targets}
        self._registries = sorted({target.registry for target in self._targets})
        if options.receiver and options.receiver.secret and len(self._registries) > 1:
            raise UsageError(
                "webhooks do not say which registry they come from, and recipes name several",
                hint="watch each registry with a release file of its own, or poll",
            )
        self._seen = _Seen()
        self._spans = Spans(options.traces) if options.traces else None
        store = Store(options.release.store)
        store.sweep()
        self._folder = store.root / "releases"
        self._stop, self._news, self._pending = threading.Event(), threading.Event(), threading.Event()
        self._rows: dict[str, int] = {"released": 0, "refused": 0, "failed": 0}

    def run(self) -> JSON:
        """Watch until interrupted, or with `once` until nothing is left; return what was done by this process."""
        server = self._listen()
        ledger, thread = Ledger(self._folder), None
        try:
            if self._options.once:
                self._poll(ledger)
            else:
                thread = threading.Thread(target=self._ask, name="registry", daemon=True)
                thread.start()
            self._work(ledger)
        except KeyboardInterrupt:
            if self._options.once:
                raise
        finally:
            self._stop.set()
            self._pending.set()
            if server:
                server.shutdown()
                server.server_close()
            if thread:
                thread.join(timeout=5)
            if self._spans:
                self._spans.close()
            ledger.close()
        return self._result()

    def _result(self) -> JSON:
        ledger = Ledger(self._folder)
        try:
            return {**self._rows, "waiting": ledger.counts()["waiting"]}
        finally:
            ledger.close()

    # what registries show

    def _ask(self) -> None:
        """Poll and write tags, until the end; a registry that does not answer is polled again at the next interval."""
        ledger = Ledger(self._folder)
        try:
            while not self._stop.is_set():
                try:
                    self._poll(ledger)
                except PackagerError as error:
                    self._on_event(Warned(error.message))
                self._pending.wait(self._options.interval)
                self._pending.clear()
        finally:
            ledger.close()

    def _poll(self, ledger: Ledger) -> None:
        """See what every registry shows, and write the tags it lacks; the first failure is raised at the end."""
        failure: PackagerError | None = None
        for address in self._registries:
            try:
                self._poll_one(address, ledger)
                for item, tags in ledger.untagged(address):
                    registry.write_tags(address, item.name, item.number, tags)
                    ledger.mark_tagged(item)
            except PackagerError as error:
                failure = failure or error
        self._seen.polled.labels("failed" if failure else "answered").inc()
        if failure:
            raise failure
        self._seen.last.set(self._options.now())

    def _poll_one(self, address: str, ledger: Ledger) -> None:
        mine = [target for target in self._targets if target.registry == address]
        names = {target.name for target in mine}
        aliases = registry.list_aliases(address, names)
        for target in mine:
            if number := aliases.get(target.name, {}).get(target.alias):
                self._see(ledger, target, number, f"alias {target.alias}")
        if self._options.tag:
            found = registry.list_tagged(address, names, *self._options.tag)
            for name, number in found:
                for target in mine:
                    if target.name == name:
                        self._see(ledger, target, number, f"tag {self._options.tag[0]}")

    def _see(self, ledger: Ledger, target: Target, number: str, reason: str) -> None:
        if not number.isascii() or not number.isdigit():
            return
        item = Item(target.registry, target.name, number, target.model.name, target.version(number))
        if ledger.see(item, reason, self._options.now()):
            self._on_event(Note(f"{target.name} version {number}: {reason}"))
            self._news.set()

    # webhooks

    def _listen(self) -> ThreadingHTTPServer | None:
        receiver = self._options.receiver
        if receiver is None:
            return None
        answers = webhook.Answers(self._receive if receiver.secret else None, self._metrics, self._healthy)
        return webhook.listen(receiver.place, answers, receiver.certificate, receiver.key)

    def _receive(self, headers: Mapping[str, str], body: bytes) -> None:
        """Take a webhook; runs in a thread of its own. Raises RefusedError."""
        receiver, now = self._options.receiver, self._options.now()
        assert receiver is not None and receiver.secret is not None  # noqa: S101 - else none is received
        ledger = Ledger(self._folder)
        try:
            found = webhook.check(receiver.secret, headers, body, now)
            if not ledger.receive(found.id, now, now - 2 * webhook.TOLERANCE):
                raise webhook.RefusedError(409, "received before")
            for target, reason in self._meant(found):
                self._see(ledger, target, str(found.data.get("version")), reason)
        except webhook.RefusedError as refused:
            self._seen.hooks.labels(refused.reason).inc()
            raise
        finally:
            ledger.close()
        self._seen.hooks.labels("accepted").inc()

    def _meant(self, delivery: webhook.Delivery) -> Iterable[tuple[Target, str]]:
        """Return the targets that a webhook moves, each with the reason."""
        data = delivery.data
        named = [target for target in self._targets if target.name == data.get("name")]
        if delivery.event == "model_version_alias.created":
            return [(target, f"alias {target.alias}") for target in named if target.alias == data.get("alias")]
        if delivery.event == "model_version_tag.set" and self._options.tag == (data.get("key"), data.get("value")):
            return [(target, f"tag {data['key']}") for target in named]
        return []

    def _metrics(self) -> tuple[str, bytes]:
        ledger = Ledger(self._folder)
        try:
            for state, count in ledger.counts().items():
                self._seen.versions.labels(state).set(count)
        finally:
            ledger.close()
        return self._seen.metrics.text()

    def _healthy(self) -> bool:
        last = self._seen.metrics.registry.get_sample_value("packager_watch_last_poll_timestamp_seconds") or 0.0
        return self._options.now() - last <= _UNHEALTHY * self._options.interval

    # releases

    def _work(self, ledger: Ledger) -> None:
        """Release what is due, until the end or, with `once`, until nothing is."""
        while True:
            self._news.clear()
            items = self._take(ledger)
            if items:
                self._release(ledger, items)
                ledger.release_holds()
                if not self._options.once:
                    self._pending.set()  # tags
                continue
            if self._options.once:
                self._poll(ledger)  # tags, and what moved meanwhile
                if not self._take(ledger):
                    return
                ledger.release_holds()
                continue
            self._news.wait(min(self._options.interval, 5.0))

    def _take(self, ledger: Ledger) -> dict[str, tuple[Item, Target]]:
        """Hold versions that are due, of every model one, in the order in which they were seen."""
        found: dict[str, tuple[Item, Target]] = {}
        for item in ledger.waiting(self._options.now()):
            target = self._of_item.get((item.registry, item.name, item.bundle))
            if target is None or item.bundle in found or item.version != target.version(item.number):
                continue  # a recipe that is gone, or of another version now, builds nothing
            if ledger.hold(item):
                found[item.bundle] = (item, target)
            if len(found) >= _MAX_BATCH:
                break
        return found

    def _release(self, ledger: Ledger, items: Mapping[str, tuple[Item, Target]]) -> None:
        models: list[Model] = []
        for name, (item, target) in items.items():
            try:
                models.append(write_recipe(target, item.number))
            except (PackagerError, OSError, ValueError) as error:
                code, hint = (error.code, error.hint) if isinstance(error, PackagerError) else (UsageError.code, None)
                stopped = replace(target.model, version=item.version)
                self._finish(ledger, *items[name], stopped_row(stopped, Problem(code, str(error), hint)))
        file = ReleaseFile(self._file.path, tuple(models))
        for row in driver.run_release(file, self._options.release, self._on_event, exclusive=False):
            self._finish(ledger, *items[row.name], row)

    def _finish(self, ledger: Ledger, item: Item, target: Target, row: ModelRow) -> None:
        self._seen.metrics.add(row)
        if self._spans:
            self._spans.add(row)
        attempts = ledger.attempts(item)
        if row.state == "failed" and attempts + 1 < _ATTEMPTS:
            ledger.postpone(item, self._options.now() + _PAUSE * 4**attempts)
            return
        state: State = "released" if row.state not in BAD else "refused" if row.state == "no" else "failed"
        ledger.finish(item, state, tags_of(row, state))
        self._rows[state] += 1
        drop_recipe(target, item.number)
        self._on_event(Note(f"{item.name} version {item.number}: {state} as {item.bundle}:{item.version}"))


def tags_of(row: ModelRow, state: State) -> dict[str, str]:
    """Return the tags that a version gets in the registry."""
    found = {"bundle": f"{row.name}:{row.version}", "verdict": state}
    if state == "released":
        repository = (row.reference or "").partition("@")[0]
        found |= {"digest": row.digest or "", "reference": row.reference or ""}
        if row.conformance:
            found["conformance"] = f"{repository}@{row.conformance}" if repository else row.conformance
    elif row.problem:
        found["problem"] = row.problem.message[:_MAX_TAG]
    return {f"packager.{row.name}.{key}": found[key] for key in sorted(found) if found[key]}  # `verdict` is the last
