# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a served bundle, said once: the query that sees it, and what a person does then.

Objectives become burn rates of an error budget (Google's SRE workbook, chapter 5): a page when 2 % of thirty days'
budget burn in an hour, a ticket when 10 % do in three days. A latency objective `p99_ms: T` says that 99 % of requests
take at most T; the histogram answers that for the next larger bucket.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy import server_files
from packager.deploy.renderers import _deployment
from packager.knobs.knobs import Resolved

# Of packager.server.telemetry.metrics, in seconds.
REQUESTS = "packager_server_requests_total"
DURATION = "packager_server_request_duration_seconds"
RUN = "packager_server_run_duration_seconds"
BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_WINDOWS = (("page", 14.4, "1h", "5m", "2m"), ("ticket", 1.0, "3d", "6h", "1h"))
_AVAILABLE = 0.999  # of answers, where nothing else is promised: contracts have no member for it


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert: severity `page` wakes the person on call, `ticket` is for working hours, `info` explains others."""

    name: str
    query: str
    lasts: str
    severity: str
    summary: str
    steps: tuple[str, ...]


class Queries:
    """PromQL about the servers of one bundle: those that say its name, whatever their version."""

    def __init__(self, bundle: Bundle) -> None:
        self.info = f'packager_bundle_info{{name="{bundle.name}"}}'
        self._of_ours = f"and on (job, instance) {self.info}"

    def own(self, metric: str) -> str:
        """Return the series of a metric that servers of the bundle export."""
        return f"({metric} {self._of_ours})"

    def rate(self, metric: str, window: str, by: str = "") -> str:
        """Return a counter's rate over all servers of the bundle, or for each value of a label."""
        return f"sum {f'by ({by}) ' if by else ''}(rate({metric}[{window}]) {self._of_ours})"

    def quantile(self, share: float, metric: str, window: str) -> str:
        """Return a quantile of a histogram over all servers, in seconds."""
        return f"histogram_quantile({share:g}, {self.rate(f'{metric}_bucket', window, 'le')})"

    def errors(self, window: str) -> str:
        """Return the share of inference requests that the server failed or refused for lack of room."""
        bad, every = (self.rate(f'{REQUESTS}{{route="infer"{code}}}', window) for code in (',code=~"5..|429"', ""))
        return f"({bad} or vector(0)) / {every}"

    def slow(self, bucket: float, window: str) -> str:
        """Return the share of inference requests that took longer than a bucket's bound."""
        fast = self.rate(f'{DURATION}_bucket{{le="{bucket_name(bucket)}"}}', window)
        return f"1 - {fast} / {self.rate(f'{DURATION}_count', window)}"


def bucket_name(bound: float) -> str:
    """Return the label `le` of a bucket, as the client library writes it."""
    return repr(float(bound))


def bucket_for(milliseconds: float) -> float:
    """Return the smallest bucket, in seconds, that holds everything up to `milliseconds`."""
    return next((bound for bound in BUCKETS if bound * 1000 >= milliseconds), BUCKETS[-1])


def list_alerts(bundle: Bundle, values: Resolved) -> list[Alert]:
    """Return the alerts of a bundle: those of its objectives, and those that every server has."""
    slo: Mapping[str, float] = bundle.contract.slo
    queries = Queries(bundle)
    return [*_objectives(slo, queries), *_faults(values, queries), *_others(bundle, values)]


def _alert(kind: str, query: str, lasts: str, severity: str, summary: str, suffix: str = "") -> Alert:
    """Return an alert whose steps are those of its kind."""
    return Alert(f"{kind}{suffix}", query, lasts, severity, summary, tuple(_steps()[kind.lower()]))


@functools.cache
def _steps() -> Mapping[str, list[str]]:
    import yaml  # not needed to list what can be rendered

    found: Mapping[str, list[str]] = yaml.safe_load(_deployment.read_template("observability/steps.yaml"))
    return found


def _objectives(slo: Mapping[str, float], queries: Queries) -> Iterator[Alert]:
    for key, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
        if key in slo:
            yield from _latency(key.partition("_")[0], slo[key], share, queries)
    if "at_rps" in slo:
        rate, servers = queries.rate(f"{DURATION}_count", "5m"), f"count({queries.own('packager_server_ready')})"
        text = f"more than the promised {slo['at_rps']:g} requests/s per server"
        yield _alert("Traffic", f"{rate} > {slo['at_rps']:g} * {servers}", "15m", "info", text)
    if "memory" in slo:
        query = f"{queries.own('process_resident_memory_bytes')} > {slo['memory']:.0f}"
        text = f"a server takes more than the promised {slo['memory'] / 1e6:.0f} MB"
        yield _alert("Memory", query, "10m", "ticket", text)


def _latency(name: str, milliseconds: float, share: float, queries: Queries) -> Iterator[Alert]:
    bucket = bucket_for(milliseconds)
    for severity, factor, long, short, lasts in _WINDOWS:
        bound = min(round(factor * (1 - share), 6), 0.95)  # a share cannot exceed 1
        query = f"{queries.slow(bucket, long)} > {bound:g} and {queries.slow(bucket, short)} > {bound:g}"
        text = (
            f"more than {bound * 100:g} % of requests take longer than {bucket * 1000:g} ms "
            f"(objective: {name} of {milliseconds:g} ms)"
        )
        yield _alert("Latency", query, lasts, severity, text, f"{name.upper()}{severity.title()}")


def _faults(values: Resolved, queries: Queries) -> Iterator[Alert]:
    most, own = values.values.get("server.max_in_flight", 128), queries.own
    for severity, factor, long, short, lasts in _WINDOWS:
        bound = round(factor * (1 - _AVAILABLE), 6)
        query = f"{queries.errors(long)} > {bound:g} and {queries.errors(short)} > {bound:g}"
        text = f"more than {bound * 100:g} % of requests fail or are refused for lack of room"
        yield _alert("Errors", query, lasts, severity, text, severity.title())
    gone = f"absent({queries.info}) or max({own('packager_server_ready')}) < 1"
    yield _alert("Absent", gone, "2m", "page", "no server is ready")
    full = f"{own('packager_server_requests_in_flight')} > {0.8 * most:g}"
    yield _alert(
        "Saturated", full, "5m", "ticket", f"a server holds more than 80 % of the {most} requests it takes at once"
    )
    again = f"changes({own('process_start_time_seconds')}[1h:1m]) > 3"
    yield _alert("Restarts", again, "0m", "ticket", "a server restarted more than three times in an hour")


def _others(bundle: Bundle, values: Resolved) -> Iterator[Alert]:
    other = f'packager_bundle_info{{name="{bundle.name}",digest!="{bundle.digest}"}}'
    yield _alert("OtherBundle", other, "1h", "ticket", f"a server runs another bundle than {bundle.version}")
    turned = f'packager_deployment_info{{digest="{bundle.digest}",tuning!~"{server_files.digest_tuning(values)}|"}}'
    yield _alert(
        "OtherKnobs", turned, "1h", "ticket", "a server answers with other knobs than these files were made with"
    )


def list_objectives(slo: Mapping[str, float]) -> list[JSON]:
    """Return the objectives for people: what, how much, and the bucket that decides."""
    rows: list[JSON] = []
    for key, share in (("p50_ms", 50), ("p99_ms", 99)):
        if key in slo:
            bound = bucket_for(slo[key]) * 1000
            rows.append([f"{share} % of requests", f"at most {slo[key]:g} ms", f"judged at {bound:g} ms"])
    units = {
        "at_rps": ("rate", "up to {:g} requests/s per server"),
        "cold_start_s": ("cold start", "at most {:g} s"),
        "memory": ("memory", "at most {:,.0f} bytes"),
    }
    return [*rows, *([name, text.format(slo[key]), ""] for key, (name, text) in units.items() if key in slo)]
