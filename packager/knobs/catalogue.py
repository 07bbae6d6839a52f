# SPDX-License-Identifier: Apache-2.0
"""Which knobs a bundle has: those of the server, and what the runtimes of its contract add, within its bounds.

A runtime adds knobs with a function `knobs(contract)` in its plug-in. The same contract gives the same schema.
"""

from __future__ import annotations

from collections.abc import Mapping

from packager import plugins
from packager.canonical import JSON
from packager.errors import UsageError
from packager.knobs import knobs
from packager.knobs.knobs import Knob

BATCH = "batch.max"
_MOST_ROWS = 2**20
_GIB = 2**30
_MIB = 2**20
_OVERHEAD_MIB = 512  # of the interpreter, the runtime and requests in progress, with the other knobs as they are


def declared(contract: Mapping[str, JSON]) -> tuple[Knob, ...]:
    """Return the knobs of a bundle with this contract (`contract.json` as JSON)."""
    runtimes = sorted({target["runtime"] for target in contract["targets"].values()})
    own = [knob for name in runtimes for knob in _of_runtime(name, contract)]
    served = any(plugins.load("runtimes", name).SERVED for name in runtimes)
    hosted = (*_SERVING, *_BENTOML, *_hosting(contract)) if served else ()
    return (*_batch(contract), *hosted, *own)


def _of_runtime(name: str, contract: Mapping[str, JSON]) -> tuple[Knob, ...]:
    add = getattr(plugins.load("runtimes", name), "knobs", None)
    return tuple(add(contract)) if add else ()


def batch(contract: Mapping[str, JSON]) -> tuple[str, int, int] | None:
    """Return the dimension that counts rows, its least and greatest size: the first one of every input and output."""
    interface = contract["interface"]
    firsts = {port["shape"][0] if port["shape"] else 0 for port in (*interface["inputs"], *interface["outputs"])}
    name = firsts.pop() if len(firsts) == 1 else 0
    if not isinstance(name, str) or name not in interface["dimensions"]:
        return None
    span = interface["dimensions"][name]
    return name, span["min"], span["max"]


def most_rows(contract: Mapping[str, JSON]) -> int | None:
    """Return the most rows that the contract takes in one request, None where it states no limit."""
    name = (batch(contract) or ("", 0, 0))[0]
    span = contract["interface"]["dimensions"][name]
    limit = span.get("limit", span)
    return max([limit["max"], *limit.get("also", [])]) if "max" in limit else None


def _batch(contract: Mapping[str, JSON]) -> tuple[Knob, ...]:
    found = batch(contract)
    if found is None:
        return ()
    name, low, high = found
    most = most_rows(contract)
    about = f"Most rows (`{name}`) of one request; the contract promises {most}."
    if most is None:
        about = f"Most rows (`{name}`) of one request; unset: any number. {high} were measured."
    shared = "Most rows of one run that several requests share; 1: none do."
    wait = "For a request to wait for company; 0: only requests that queue anyway share a run."
    return (
        Knob(BATCH, "integer", about, most, low, most or _MOST_ROWS, unit="rows"),
        Knob("batch.rows", "integer", shared, high, 1, high, unit="rows", needs="reload"),
        Knob("batch.window", "number", wait, 0, 0, 1000, unit="ms", needs="reload"),
    )


_SERVING = (
    Knob("server.host", "host", "Address to listen on; 0.0.0.0 is every interface.", "127.0.0.1"),
    Knob("server.port", "integer", "Port to listen on.", 8000, 1, 65535),
    Knob("server.grpc_port", "integer", "Port for gRPC; unset: none.", None, 1, 65535),
    Knob("server.processes", "integer", "Processes that share the port.", 1, 1, 256, needs="reload"),
    Knob(
        "server.workers",
        "integer",
        "Long runs at once in a process; unset: cores divided by threads and processes.",
        None,
        1,
        1024,
        needs="reload",
    ),
    Knob("server.max_body", "integer", "Largest request.", 64 << 20, 1 << 10, 16 * _GIB, unit="bytes", needs="reload"),
    Knob(
        "server.max_in_flight",
        "integer",
        "Requests in progress or queued before 429.",
        128,
        1,
        10**6,
        unit="requests",
        needs="reload",
    ),
    Knob(
        "server.max_connections",
        "integer",
        "Connections open at once.",
        16384,
        1,
        10**6,
        unit="connections",
        needs="reload",
    ),
    Knob(
        "server.read_timeout",
        "number",
        "For a client to send a head, or to sit idle.",
        75,
        0.1,
        86400,
        unit="s",
        needs="reload",
    ),
    Knob("server.body_timeout", "number", "For a client to send a body.", 20, 0.1, 86400, unit="s", needs="reload"),
    Knob(
        "server.limits",
        "choice",
        "Which sizes are refused: `stated`, those beyond the limits of the contract; "
        "`measured`, all that the build did not measure.",
        "stated",
        choices=("stated", "measured"),
        needs="reload",
    ),
    Knob(
        "server.request_timeout",
        "number",
        "For an answer before 504; unset: no limit.",
        None,
        0.001,
        86400,
        unit="s",
        needs="reload",
    ),
    Knob("server.drain", "number", "To finish requests after SIGTERM.", 30, 0, 86400, unit="s", needs="reload"),
    Knob(
        "server.quiet",
        "number",
        "Without a request, after SIGTERM, before no connection is taken any more; for "
        "balancers that learn from probes, longer than they take to learn.",
        1,
        0,
        86400,
        unit="s",
        needs="reload",
    ),
    Knob("server.path_prefix", "path", "That proxies leave before the paths here; unset: none.", needs="reload"),
    Knob(
        "server.forwarded",
        "boolean",
        "Believe the X-Forwarded-… headers, which a proxy in front has to write.",
        False,
        needs="reload",
    ),
    Knob(
        "server.cors",
        "origins",
        "Origins whose pages in browsers may ask; `*` is every one. Unset: none.",
        needs="reload",
    ),
    Knob("auth.tokens", "secret", "File of bearer tokens, one a line; clients need one of them.", needs="reload"),
    Knob("tls.certificate", "secret", "PEM chain to serve TLS with; goes with tls.key.", needs="reload"),
    Knob("tls.key", "secret", "PEM key of that chain.", needs="reload"),
    Knob(
        "tls.client_ca",
        "secret",
        "PEM of the authorities that vouch for clients; each needs a certificate then.",
        needs="reload",
    ),
    Knob("runtime.threads", "integer", "Threads of one inference.", 1, 1, 1024, unit="threads"),
    Knob(
        "runtime.processes",
        "integer",
        "Processes of their own that run the model, for each process that serves; 0: that one runs it itself.",
        0,
        0,
        256,
        unit="processes",
        needs="reload",
    ),
    Knob(
        "log.level",
        "choice",
        "Least level that is logged; debug logs every request.",
        "info",
        choices=("debug", "info", "warning", "error"),
    ),
    Knob("log.format", "choice", "One JSON object or one readable line per event.", "json", choices=("json", "text")),
    Knob("tracing.host", "host", "OpenTelemetry collector (OTLP over HTTP); unset: no traces.", needs="reload"),
    Knob("tracing.port", "integer", "Port of the collector.", 4318, 1, 65535, needs="reload"),
    Knob(
        "tracing.ratio",
        "number",
        "Part of the requests that become spans, besides those of recorded traces.",
        0.01,
        0,
        1,
        needs="reload",
    ),
    Knob("metrics.labels", "labels", "Labels of the site, added to the metric packager_deployment_info.", {}),
)


_BENTOML = (
    Knob("bentoml.workers", "integer", "Worker processes of a Bento.", 1, 1, 64, unit="processes"),
    Knob(
        "bentoml.max_latency",
        "integer",
        "Longest time that a Bento lets a request wait for its batch and its run.",
        10000,
        1,
        600000,
        unit="ms",
    ),
    Knob("bentoml.timeout", "integer", "Longest time of one request of a Bento.", 60, 1, 3600, unit="s"),
)


def _hosting(contract: Mapping[str, JSON]) -> tuple[Knob, ...]:
    """Return what a host or a cluster gives to the server; the default memory follows from the contract's needs."""
    memory = _OVERHEAD_MIB + -(-model_memory(contract) // _MIB)
    return (
        Knob("deploy.replicas", "integer", "Servers of a cluster, at least.", 2, 1, 1000, unit="servers"),
        Knob("deploy.max_replicas", "integer", "Servers of a cluster, at most.", 4, 1, 1000, unit="servers"),
        Knob("deploy.cpu", "integer", "Processor time of one server.", 1000, 50, 1024000, unit="milli-cores"),
        Knob(
            "deploy.memory",
            "integer",
            "Memory limit of one server; unset, rendered deployments give more "
            "where the knobs ask for more processes or larger requests.",
            memory,
            64,
            16 << 20,
            unit="MiB",
        ),
    )


def model_memory(contract: Mapping[str, JSON]) -> int:
    """Return the bytes of one loaded copy of the model that runs, of the target that takes the most."""
    needs = [target["needs"]["memory"] for target in contract["targets"].values()]
    return int(max(2 * need.get("weights", 0) + need.get("activations", 0) for need in needs))


def written(contract: JSON) -> bytes:
    """Return the bytes of `knobs.schema.json`."""
    return knobs.dump(declared(contract))


def check_together(values: Mapping[str, JSON]) -> None:
    """Refuse values that are allowed one by one and mean nothing together. Raises UsageError."""
    if ("tls.certificate" in values) != ("tls.key" in values):
        raise UsageError("`tls.certificate` and `tls.key` go together", hint="set both or neither")
    if "tls.client_ca" in values and "tls.key" not in values:
        raise UsageError("`tls.client_ca` needs TLS", hint="set `tls.certificate` and `tls.key` as well")
