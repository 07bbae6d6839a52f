# SPDX-License-Identifier: Apache-2.0
"""The model in service, shared by HTTP and gRPC: load it, admit requests, run them, and test whether it still works.

Ready means: loaded, warmed up, not draining, and the last self-test passed. A failed run starts a self-test with the
inputs that worked at the start: if those fail as well, the model is broken and not the request, and the server is not
ready until a test passes.
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
from typing import TYPE_CHECKING

from packager.server.admission import costs
from packager.server.admission.admission import Admission, Lease, Limits, not_ready_error
from packager.server.config import Config
from packager.server.errors import RequestError, StartError, quote
from packager.server.execution import batching, huge_pages
from packager.server.execution import session as model
from packager.server.execution.batching import Batcher, BatchPolicy
from packager.server.execution.inline_batching import InlineBatcher
from packager.server.execution.session import Session, WarmUp
from packager.server.execution.warm_up import WarmUpInputs
from packager.server.execution.worker_pool import WorkerPool, WorkerSettings
from packager.server.generation.engine import Engine as Texts
from packager.server.generation.seq2seq import Seq2Seq
from packager.server.generation.shared_steps import SharedSteps
from packager.server.knobs import Knobs
from packager.server.protocol.interface import Interface
from packager.server.protocol.protocol import Request
from packager.server.protocol.tensors import Array
from packager.server.telemetry.logs import log_event
from packager.server.telemetry.metrics import Metrics
from packager.server.telemetry.traces import Collector, Tracer

if TYPE_CHECKING:
    from packager.server.pipeline.pipeline import Pipeline

# Run time may depend on values, which warm-up does not show. So long a run in the event loop is measured again.
_LONG_RUN_SECONDS = 0.05
_REFRESH_SECONDS = 1.0
_SAMPLE_SECONDS = 0.005  # between two requests whose values are sampled: some microseconds each
_ANSWERS = 8  # that share runs: more gain little on processors, and each holds a cache
_SELF_TEST_SECONDS = 1.0  # between two self-tests
VERSION_ALIAS = "1"  # of the only version: Triton's versions are numbers, and its clients request the first
_UNLOCKED: AbstractContextManager[object] = nullcontext()


@dataclass(frozen=True, slots=True)
class ExecutionSettings:
    """How the model runs: `workers` runs at once with `threads` each; `batch`: how requests share a run.

    `worker_settings`: how to start worker processes, None to run the model in this one.
    """

    workers: int = 1
    threads: int = 1
    batch: BatchPolicy = field(default_factory=BatchPolicy)
    worker_settings: WorkerSettings | None = None
    huge_pages: bool = False


@dataclass(slots=True)
class Sample:
    """Values to count: the inputs of one request, and the results of one that ran then."""

    feeds: Mapping[str, Array]
    results: Mapping[str, Array] | None = None


class Engine:
    """One model. `load` makes it ready, `start_draining` ends that."""

    def __init__(
        self,
        config: Config,
        limits: Limits,
        settings: ExecutionSettings,
        knobs: Knobs | None = None,
        collector: Collector | None = None,
    ) -> None:
        self.config, self.knobs = config, knobs or Knobs()
        # an image is larger than its tensor, and of texts no contract says the size
        largest = None if config.generation or config.pipeline else config.interface.largest_body()
        self.admission = Admission(limits.narrowed_to(largest))
        attributes = {"service.name": config.name, "service.version": config.version, "packager.digest": config.digest}
        self.tracer = Tracer(collector, attributes)
        self.metrics = Metrics(config.p99_seconds)
        if config.distributions is not None:
            self.metrics.watch_drift(config.distributions)
        self.metrics.watch(lambda: self.admission.in_flight, lambda: self.ready, lambda: len(self._batcher or ()))
        self.pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="run")
        self.draining = False
        self._settings = settings
        self.pipeline: Pipeline | None = None
        self._session: Session | None = None
        self.texts: Texts | None = None
        self.seq2seq: Seq2Seq | None = None
        self._warm_up_inputs = WarmUpInputs(config.interface)
        self._outputs: tuple[str, ...] = ()
        self._batcher: Batcher | None = None
        self._inline_batcher: InlineBatcher | None = None
        self._worker_pool: WorkerPool | None = None
        self._warm_up = WarmUp(0.0, 0)
        self._healthy = True
        self._sampled_at = 0.0
        self._sample: Sample | None = None
        self._testing = threading.Lock()
        self._parse_lock = threading.Lock()

    def parse_lock(self, size: int) -> AbstractContextManager[object]:
        """Return a block in which one request at a time is parsed, if it is longer than `costs.SMALL`.

        Several at once are not faster, since the interpreter runs one thread at a time, and each of them delays the
        event loop.
        """
        return self._parse_lock if size > costs.SMALL else _UNLOCKED

    @property
    def ready(self) -> bool:
        """Return whether the server is ready: warmed up, not draining, the model healthy, and a worker alive."""
        alive = self._worker_pool is None or self._worker_pool.alive
        return self._session is not None and alive and self._healthy and not self.draining

    @property
    def inline_bytes(self) -> int:
        """Return the size of bodies up to which they run in the event loop."""
        return self._warm_up.inline_bytes

    async def load(self) -> tuple[Session, WarmUp]:
        """Open and warm up the model on a worker thread. Raises StartError."""
        loop, config, settings = asyncio.get_running_loop(), self.config, self._settings
        if config.generation and config.generation.decoding:
            return await self._load_seq2seq()
        if config.generation:
            return await self._load_texts()
        session = await loop.run_in_executor(self.pool, self._open_session)
        self.pipeline = await loop.run_in_executor(self.pool, _open_pipeline, config)
        self._warm_up_inputs = WarmUpInputs.of(config)
        self._warm_up = await loop.run_in_executor(self.pool, model.warm_up, session, self._warm_up_inputs)
        if settings.worker_settings:  # the event loop must not wait for another process
            self._warm_up = replace(self._warm_up, inline_bytes=0)
        policy = await loop.run_in_executor(
            self.pool, _batch_policy, session, config.interface, self._warm_up_inputs, settings.batch
        )
        self._describe(session)
        self._batcher = Batcher(self._run, settings.workers, policy, self)
        self._inline_batcher = (
            InlineBatcher(self._run_short, policy, self.metrics.shared.observe) if policy.max_rows > 1 else None
        )
        self._session, self._outputs = session, tuple(port.name for port in session.outputs)
        self._refreshing = asyncio.create_task(self._refresh_metrics())
        if settings.huge_pages and not settings.worker_settings:  # worker processes do it themselves
            huge_pages.start_collapse(lambda moved: log_event("memory in huge pages", bytes=moved))
        return session, self._warm_up

    async def _load_texts(self) -> tuple[Session, WarmUp]:
        """Open a model that generates text, and have it make one token. Raises StartError."""
        if self._settings.worker_settings is not None:
            raise StartError("a model that generates text runs in this process", hint="leave `runtime.processes` at 0")
        loop, started = asyncio.get_running_loop(), time.perf_counter()
        texts = await loop.run_in_executor(self.pool, Texts.open, self.config, self._settings.threads)
        await loop.run_in_executor(self.pool, texts.try_out)
        rows = min(self._settings.batch.max_rows, self.admission.limits.max_in_flight, _ANSWERS)
        texts = await loop.run_in_executor(self.pool, texts.shared, rows, self._settings.workers, self._count_shared)
        if isinstance(texts.decoder, SharedSteps):  # an answer has a thread, which waits for runs of all of them
            self.pool.shutdown(wait=False)
            self.pool = ThreadPoolExecutor(rows, thread_name_prefix="run")
        self._describe(texts.session)
        self.texts, self._session = texts, texts.session
        self._refreshing = asyncio.create_task(self._refresh_metrics())
        return texts.session, WarmUp(time.perf_counter() - started, 0)

    async def _load_seq2seq(self) -> tuple[Session, WarmUp]:
        """Open an encoder-decoder, and have it make one token. Raises StartError."""
        if self._settings.worker_settings is not None:
            raise StartError("a model that generates text runs in this process", hint="leave `runtime.processes` at 0")
        loop, started = asyncio.get_running_loop(), time.perf_counter()
        opened = await loop.run_in_executor(self.pool, Seq2Seq.open, self.config, self._settings.threads)
        await loop.run_in_executor(self.pool, opened.try_out)
        self._describe(opened.session)
        self.seq2seq, self._session = opened, opened.session
        self._refreshing = asyncio.create_task(self._refresh_metrics())
        return opened.session, WarmUp(time.perf_counter() - started, 0)

    def _describe(self, session: Session) -> None:
        config = self.config
        self.metrics.set_bundle_info(
            name=config.name,
            version=config.version,
            digest=config.digest,
            target=config.target,
            runtime=config.runtime,
            runtime_version=session.version,
            provider=session.provider,
        )
        self.metrics.set_deployment_info(config.digest, self.knobs.digest, self.knobs.tuning, self.knobs.labels)

    def _open_session(self) -> Session:
        if self._settings.worker_settings is None:
            return model.load(self.config, self._settings.threads)
        self._worker_pool = WorkerPool(self.config, self._settings.worker_settings, self.metrics.lost.inc)
        return self._worker_pool

    async def _refresh_metrics(self) -> None:
        """Update the gauges that other processes read, every second."""
        while True:
            self.metrics.refresh()
            await asyncio.sleep(_REFRESH_SECONDS)

    @property
    def loaded(self) -> bool:
        """Return whether `load` is done."""
        return self._session is not None

    def start_draining(self) -> None:
        """Turn readiness off. Requests that still arrive are served, with `connection: close`.

        Refusing them would fail clients and load balancers that have not noticed the shutdown yet.
        """
        self.draining = True
        self.note_request()

    def note_request(self) -> None:
        """Note the time of a request that is no probe, while draining."""
        if self.draining:
            self.admission.last_request = time.monotonic()

    def check_model_name(self, name: str, version: str) -> None:
        """Raise RequestError unless this server has that model; an empty version means any, `1` this one as well."""
        if name != self.config.name or version not in ("", self.config.version, VERSION_ALIAS):
            raise self.unknown_model_error(name, version)

    def unknown_model_error(self, name: str, version: str) -> RequestError:
        """Return the refusal of a request for another model or version."""
        if name != self.config.name:  # Triton's clients recognise an unknown model by the first words
            message = f"Request for unknown model {quote(name)}: this server has {quote(self.config.name)}"
        else:
            message = f"unknown version {quote(version)}: this server has {quote(self.config.version)}"
        return RequestError(message, status=404)

    def lease(self) -> Lease:
        """Return a block for one inference request, which is timed, and its bytes counted. Raises RequestError."""
        if self._session is None:
            raise not_ready_error("the model is still loading")
        return self.admission.lease(self.metrics.duration.observe)

    def deadline(self, seconds: float | None) -> float | None:
        """Return the deadline of a request whose client waits `seconds` (None: no limit), on the monotonic clock."""
        limit = self.admission.limits.request_timeout
        if seconds is None and limit is None:
            return None
        return time.monotonic() + min(wait for wait in (seconds, limit) if wait is not None)

    def queue(self, request: Request, deadline: float | None) -> Future[Sequence[Array]]:
        """Queue a checked request for another thread, alone or in a batch; `name_results` gives its results names."""
        if self._batcher is None:
            raise not_ready_error("the model is still loading")
        self._count_request(request)
        return self._batcher.submit(request.feeds, request.rows, deadline)

    def run_directly(self, request: Request) -> dict[str, Array]:
        """Run a checked request on the calling thread. Raises what the runtime raises."""
        self._count_request(request)
        return self.name_results(self._run_short(dict(request.feeds)))

    async def run_inline(self, request: Request, size: int) -> dict[str, Array]:
        """Run a checked request of `size` bytes in the event loop, in a batch with others that are ready, if any.

        Raises what the runtime raises.
        """
        if self._inline_batcher is None or self.admission.arriving < 2:
            return self.run_directly(request)
        self._count_request(request)
        return self.name_results(await self._inline_batcher.run(request, size, self.inline_bytes))

    def _run_short(self, feeds: dict[str, Array]) -> Sequence[Array]:
        """Run a request that should take less than a millisecond."""
        started = time.perf_counter()
        results = self._run(feeds)
        if time.perf_counter() - started > _LONG_RUN_SECONDS and self._warm_up.inline_bytes:
            self.pool.submit(self._remeasure, feeds)
        return results

    def _remeasure(self, feeds: dict[str, Array]) -> None:
        """Repeat a long run on another thread; move runs out of the event loop if the model was slow.

        The thread's processor time decides: wall time includes that of other programs.
        """
        clock = time.thread_time if self.config.device == "cpu" else time.perf_counter
        started = clock()
        self._run(feeds)
        spent = clock() - started
        if spent > _LONG_RUN_SECONDS and self._warm_up.inline_bytes:
            self._warm_up = replace(self._warm_up, inline_bytes=0)
            log_event("runs moved to threads", logging.WARNING, took_ms=round(spent * 1000, 1))

    def name_results(self, results: Sequence[Array]) -> dict[str, Array]:
        """Return the results of a run by output name."""
        named = dict(zip(self._outputs, results, strict=True))
        sample = self._sample
        if sample is not None and sample.results is None:
            sample.results = named
        return named

    def _count_request(self, request: Request) -> None:
        """Count a request, and keep its values as a sample if the last one is old enough."""
        self.metrics.rows.observe(request.rows)
        if request.outside:
            self.metrics.count_outside(request.outside)
        now = time.monotonic()
        if now >= self._sampled_at + _SAMPLE_SECONDS:
            self._sampled_at, self._sample = now, Sample(request.feeds)

    def record_sample(self) -> None:
        """Count the values of the sample, if there is one. Called after an answer is sent, to delay none."""
        sample, self._sample = self._sample, None
        if sample is not None:
            self.metrics.count_inputs(sample.feeds, self.config.ranges)
            if sample.results is not None:
                self.metrics.count_outputs(sample.results)
            self.metrics.count_drift(sample.feeds, sample.results or {})

    def count_run(self, waited: Sequence[float]) -> None:
        """Count a run of the queue: one request per member, with the seconds it waited."""
        self.metrics.shared.observe(len(waited))
        for seconds in waited:
            self.metrics.waited.observe(seconds)

    def _count_shared(self, rows: int, seconds: float) -> None:
        self.metrics.shared.observe(rows)
        self.metrics.run.observe(seconds)

    def _run(self, feeds: dict[str, Array]) -> Sequence[Array]:
        session = self._session
        if session is None:
            raise not_ready_error("the model is still loading")
        started = time.perf_counter()
        try:
            results = session.run(feeds)
        except Exception:
            self._start_self_test(session)
            raise
        self.metrics.run.observe(time.perf_counter() - started)
        return results

    def _start_self_test(self, session: Session) -> None:
        """Test the model on a separate thread, unless a test is running."""
        if self._testing.acquire(blocking=False):
            threading.Thread(target=self._self_test, args=(session,), name="self-test", daemon=True).start()

    def _self_test(self, session: Session) -> None:
        try:
            while True:
                works = model.passes_self_test(session, self._warm_up_inputs)
                if works != self._healthy:
                    level = logging.INFO if works else logging.ERROR
                    log_event("the model works again" if works else "the model fails its self-test", level)
                self._healthy = works
                time.sleep(_SELF_TEST_SECONDS)
                if works:
                    return
        finally:
            self._testing.release()


def _open_pipeline(config: Config) -> Pipeline | None:
    """Open what turns raw inputs into tensors; None where the bundle takes tensors only. Raises StartError."""
    if config.pipeline is None:
        return None
    from packager.server.pipeline import pipeline  # its libraries are there where a bundle needs them

    try:
        return pipeline.open_checked(config.pipeline.path, config.pipeline.digest, config.interface)
    except (ValueError, OSError, ImportError) as error:
        raise StartError(
            f"the pipeline {quote(config.pipeline.path)} cannot be opened: {error}", hint="install the bundle again"
        ) from None


def _batch_policy(session: Session, interface: Interface, inputs: WarmUpInputs, requested: BatchPolicy) -> BatchPolicy:
    """Return `requested` within the bounds of the interface; no batching unless rows are seen to be independent."""
    most = min(requested.max_rows, batching.max_batch_rows(interface))
    if most < 2:
        return BatchPolicy()
    try:
        if batching.rows_are_independent(session.run, *inputs.row_pair()):
            return replace(requested, max_rows=most)
        reason = "the answer to a row depends on the rows beside it"
    except Exception as error:  # every runtime raises others; a model that cannot be tried is not batched
        reason = f"two rows together cannot be tried: {str(error).strip()[:300]}"
    log_event("requests do not share runs", logging.WARNING, reason=reason)
    return BatchPolicy()
