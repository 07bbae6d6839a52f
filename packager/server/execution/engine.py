# SPDX-License-Identifier: Apache-2.0
"""The model in service, the same for HTTP and gRPC: load it, admit requests, run them, tell whether it still works.

Ready means: loaded, warmed up, not shutting down, and the last self-test passed. A run that fails starts a self-test,
the inputs that worked at the start: if those fail as well the model is broken, not the request, and the
server stops calling itself ready until a test passes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from packager.server.admission import costs
from packager.server.admission.gate import Gate, Lease, Limits, unready
from packager.server.config import Config
from packager.server.errors import RequestError, quote
from packager.server.execution import batching, huge_pages
from packager.server.execution import session as model
from packager.server.execution.batching import Batcher, Policy
from packager.server.execution.inline_batching import Turns
from packager.server.execution.pool import How, Workers
from packager.server.execution.session import Session, WarmUp
from packager.server.execution.warm_up import Trial
from packager.server.knobs import Knobs
from packager.server.protocol.interface import Interface
from packager.server.protocol.protocol import Request
from packager.server.protocol.tensors import Array
from packager.server.telemetry.logs import event
from packager.server.telemetry.metrics import Metrics
from packager.server.telemetry.traces import Collector, Tracer

# Run time may depend on values, which no warm-up shows. A run in the event loop this long may have been a mistake.
_MISTAKE_SECONDS = 0.05
_TICK_SECONDS = 1.0
_LOOK_SECONDS = 0.005  # between two requests whose values are looked at: some microseconds each
_TEST_SECONDS = 1.0  # between two self-tests
ALIAS = "1"  # of the only version there is: Triton's versions are numbers, and its clients ask for the first
_FREELY: AbstractContextManager[object] = nullcontext()


@dataclass(frozen=True, slots=True)
class Work:
    """How the model runs: `workers` runs at once, `threads` each, `batch` of requests; `apart`: worker processes."""

    workers: int = 1
    threads: int = 1
    batch: Policy = field(default_factory=Policy)
    apart: How | None = None
    huge_pages: bool = False


@dataclass(slots=True)
class Glimpse:
    """Values to look at: the inputs of one request, and the results of one that ran then."""

    feeds: Mapping[str, Array]
    results: Mapping[str, Array] | None = None


class Engine:
    """One model. `load` makes it ready, `begin_to_drain` not ready any more."""

    def __init__(
        self, config: Config, limits: Limits, work: Work, knobs: Knobs | None = None, collector: Collector | None = None
    ) -> None:
        self.config, self.knobs = config, knobs or Knobs()
        self.gate = Gate(limits.within(config.interface.largest_body()))
        about = {"service.name": config.name, "service.version": config.version, "packager.digest": config.digest}
        self.tracer = Tracer(collector, about)
        self.metrics = Metrics(config.p99_seconds)
        self.metrics.observe(lambda: self.gate.in_flight, lambda: self.ready, lambda: len(self._batcher or ()))
        self.pool = ThreadPoolExecutor(work.workers, thread_name_prefix="run")
        self.draining = False
        self._work = work
        self._session: Session | None = None
        self._trial = Trial(config.interface)
        self._outputs: tuple[str, ...] = ()
        self._batcher: Batcher | None = None
        self._turns: Turns | None = None
        self._workers: Workers | None = None
        self._warm_up = WarmUp(0.0, 0)
        self._works = True
        self._looked = 0.0
        self._glimpse: Glimpse | None = None
        self._testing = threading.Lock()
        self._reading = threading.Lock()

    def reading(self, size: int) -> AbstractContextManager[object]:
        """Let one request at a time that is longer than a little be read within a block.

        Together they are no faster, since the interpreter runs one thread at a time; the event loop is kept waiting by
        each of them.
        """
        return self._reading if size > costs.SMALL else _FREELY

    @property
    def ready(self) -> bool:
        """Whether requests are welcome: after warm-up, before shutdown, while the model works and somebody runs it."""
        alive = self._workers is None or self._workers.alive
        return self._session is not None and alive and self._works and not self.draining

    @property
    def inline_bytes(self) -> int:
        """Bodies up to this size are short enough to run in the event loop."""
        return self._warm_up.inline_bytes

    async def load(self) -> tuple[Session, WarmUp]:
        """Open and warm up the model on a worker thread. Raises StartError."""
        loop, config, work = asyncio.get_running_loop(), self.config, self._work
        session = await loop.run_in_executor(self.pool, self._open)
        self._trial = Trial.of(config)
        self._warm_up = await loop.run_in_executor(self.pool, model.warm_up, session, self._trial)
        if work.apart:  # the event loop must not wait for another process
            self._warm_up = replace(self._warm_up, inline_bytes=0)
        policy = await loop.run_in_executor(self.pool, _policy, session, config.interface, self._trial, work.batch)
        self.metrics.describe(
            name=config.name,
            version=config.version,
            digest=config.digest,
            target=config.target,
            runtime=config.runtime,
            runtime_version=session.version,
            provider=session.provider,
        )
        self.metrics.deploy(config.digest, self.knobs.digest, self.knobs.tuning, self.knobs.labels)
        self._batcher = Batcher(self._run, work.workers, policy, self)
        self._turns = Turns(self._short, policy, self.metrics.shared.observe) if policy.most > 1 else None
        self._session, self._outputs = session, tuple(port.name for port in session.outputs)
        self._ticking = asyncio.create_task(self._tick())
        if work.huge_pages and not work.apart:  # worker processes do it themselves
            huge_pages.start_collapse(lambda moved: event("memory in huge pages", bytes=moved))
        return session, self._warm_up

    def _open(self) -> Session:
        if self._work.apart is None:
            return model.load(self.config, self._work.threads)
        self._workers = Workers(self.config, self._work.apart, self.metrics.lost.inc)
        return self._workers

    async def _tick(self) -> None:
        """Keep the gauges that other processes read no older than a second."""
        while True:
            self.metrics.refresh()
            await asyncio.sleep(_TICK_SECONDS)

    @property
    def loaded(self) -> bool:
        """Whether `load` is done."""
        return self._session is not None

    def begin_to_drain(self) -> None:
        """Turn readiness off. Requests that still arrive are served, and told that their connection closes.

        Refusing them would fail clients, and balancers, that have not yet heard of the shutdown.
        """
        self.draining = True
        self.asked()

    def asked(self) -> None:
        """Remember, while draining, that somebody came who is no probe."""
        if self.draining:
            self.gate.last = time.monotonic()

    def check_address(self, name: str, version: str) -> None:
        """Raise RequestError unless this server has that model; an empty version means any, `1` this one as well."""
        if name != self.config.name or version not in ("", self.config.version, ALIAS):
            raise self.elsewhere(name, version)

    def elsewhere(self, name: str, version: str) -> RequestError:
        """Return the refusal of a request for another model or version."""
        if name != self.config.name:  # Triton's clients know an unknown model by the first words
            message = f"Request for unknown model {quote(name)}: this server has {quote(self.config.name)}"
        else:
            message = f"unknown version {quote(version)}: this server has {quote(self.config.version)}"
        return RequestError(message, status=404)

    def arriving(self) -> Lease:
        """Time one inference request within a block, and count the bytes it holds. Raises RequestError."""
        if self._session is None:
            raise unready("the model is still loading")
        return self.gate.arrive(self.metrics.duration.observe)

    def deadline(self, seconds: float | None) -> float | None:
        """Return when a request of a client that waits `seconds` (None: for ever) is over, on the monotonic clock."""
        most = self.gate.limits.request_timeout
        if seconds is None and most is None:
            return None
        return time.monotonic() + min(wait for wait in (seconds, most) if wait is not None)

    def queue(self, request: Request, deadline: float | None) -> Future[Sequence[Array]]:
        """Have a checked request run on another thread, alone or with others; `named` gives its results names."""
        if self._batcher is None:
            raise unready("the model is still loading")
        self._notice(request)
        return self._batcher.submit(request.feeds, request.rows, deadline)

    def inline(self, request: Request) -> dict[str, Array]:
        """Run a checked request on the calling thread. Raises what the runtime raises."""
        self._notice(request)
        return self.named(self._short(dict(request.feeds)))

    async def prompt(self, request: Request, size: int) -> dict[str, Array]:
        """Run a checked request of `size` bytes in the event loop, with others that are ready, if there are others.

        Raises what the runtime raises.
        """
        if self._turns is None or self.gate.arriving < 2:
            return self.inline(request)
        self._notice(request)
        return self.named(await self._turns.run(request, size, self.inline_bytes))

    def _short(self, feeds: dict[str, Array]) -> Sequence[Array]:
        """Run what should take less than a millisecond."""
        started = time.perf_counter()
        results = self._run(feeds)
        if time.perf_counter() - started > _MISTAKE_SECONDS and self._warm_up.inline_bytes:
            self.pool.submit(self._again, feeds)
        return results

    def _again(self, feeds: dict[str, Array]) -> None:
        """Repeat a long run on another thread, and keep runs out of the event loop if it was the model's fault.

        The thread's own time tells: that the host gave the processor to somebody else says nothing about the model.
        """
        clock = time.thread_time if self.config.device == "cpu" else time.perf_counter
        started = clock()
        self._run(feeds)
        spent = clock() - started
        if spent > _MISTAKE_SECONDS and self._warm_up.inline_bytes:
            self._warm_up = replace(self._warm_up, inline_bytes=0)
            event("runs moved to threads", logging.WARNING, took_ms=round(spent * 1000, 1))

    def named(self, results: Sequence[Array]) -> dict[str, Array]:
        """Return the results of a run by the names of the outputs."""
        named = dict(zip(self._outputs, results, strict=True))
        glimpse = self._glimpse
        if glimpse is not None and glimpse.results is None:
            glimpse.results = named
        return named

    def _notice(self, request: Request) -> None:
        """Count a request, and now and then keep one to look at."""
        self.metrics.rows.observe(request.rows)
        if request.outside:
            self.metrics.beyond(request.outside)
        now = time.monotonic()
        if now >= self._looked + _LOOK_SECONDS:
            self._looked, self._glimpse = now, Glimpse(request.feeds)

    def look(self) -> None:
        """Look at the values that were kept, if any. Called when an answer is on its way, so that none waits for it."""
        glimpse, self._glimpse = self._glimpse, None
        if glimpse is not None:
            self.metrics.look_at(glimpse.feeds, self.config.ranges)
            if glimpse.results is not None:
                self.metrics.look_back(glimpse.results)

    def ran(self, waited: Sequence[float]) -> None:
        """Count a run of the queue: one request per member, with the seconds it waited."""
        self.metrics.shared.observe(len(waited))
        for seconds in waited:
            self.metrics.waited.observe(seconds)

    def _run(self, feeds: dict[str, Array]) -> Sequence[Array]:
        session = self._session
        if session is None:
            raise unready("the model is still loading")
        started = time.perf_counter()
        try:
            results = session.run(feeds)
        except Exception:
            self._suspect(session)
            raise
        self.metrics.run.observe(time.perf_counter() - started)
        return results

    def _suspect(self, session: Session) -> None:
        """Test the model on a thread of its own, unless a test is on."""
        if self._testing.acquire(blocking=False):
            threading.Thread(target=self._test, args=(session,), name="self-test", daemon=True).start()

    def _test(self, session: Session) -> None:
        try:
            while True:
                works = model.works(session, self._trial)
                if works != self._works:
                    level = logging.INFO if works else logging.ERROR
                    event("the model works again" if works else "the model fails its self-test", level)
                self._works = works
                time.sleep(_TEST_SECONDS)
                if works:
                    return
        finally:
            self._testing.release()


def _policy(session: Session, interface: Interface, trial: Trial, wished: Policy) -> Policy:
    """Return `wished` within what the interface allows, and no sharing unless rows are seen to be independent."""
    most = min(wished.most, batching.most_rows(interface))
    if most < 2:
        return Policy()
    try:
        if batching.independent(session.run, *trial.rows()):
            return replace(wished, most=most)
        reason = "the answer to a row depends on the rows beside it"
    except Exception as error:  # every runtime has its own; a model that cannot be tried is not batched
        reason = f"two rows together cannot be tried: {str(error).strip()[:300]}"
    event("requests do not share runs", logging.WARNING, reason=reason)
    return Policy()
