# SPDX-License-Identifier: Apache-2.0
"""Declare the knobs that the server reads, and parse the values that a deployment resolved for them.

This is the only declaration: `packager.knobs.catalogue` builds the schema of a bundle from it, with the bounds of the
contract, and `packager.server.__main__` its options. The bounds here hold for every bundle that was ever built.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from packager.server.declaration import Knob
from packager.server.errors import quote

SECRETS = {
    "auth.tokens": "--tokens",
    "tls.certificate": "--tls-certificate",
    "tls.client_ca": "--tls-client-ca",
    "tls.key": "--tls-key",
}
"""The option that names the file of a secret. Their knobs are references, which are resolved before a server starts."""
_PLACEMENT = re.compile(r"server\.(host|port|grpc_port)|(deploy|log|metrics|tracing|bentoml)\..+")
"""Knobs that decide where a server runs and what it reports, not how it answers."""
_TYPES = (str, int, float, bool, list, dict)

BATCH_KNOBS = (
    Knob(
        "batch.max",
        "integer",
        "Maximum number of rows in one request. Unset: as many as the contract allows.",
        None,
        1,
        2**31,
        unit="rows",
    ),
    Knob(
        "batch.rows",
        "integer",
        "Maximum number of rows in one run that several requests share. 1: requests do not share runs.",
        2**31,
        1,
        2**31,
        unit="rows",
        needs="reload",
    ),
    Knob(
        "batch.window",
        "number",
        "Milliseconds a request waits to be batched with others. 0 batches only requests that are already queued.",
        0,
        0,
        1000,
        unit="ms",
        needs="reload",
    ),
)
SERVING_KNOBS = (
    Knob("server.host", "host", "Address to listen on. 0.0.0.0: every interface.", "127.0.0.1"),
    Knob("server.port", "integer", "TCP port of the HTTP server.", 8000, 1, 65535),
    Knob("server.grpc_port", "integer", "TCP port of the gRPC server. Unset: no gRPC.", None, 1, 65535),
    Knob("server.processes", "integer", "Number of server processes that share the port.", 1, 1, 256, needs="reload"),
    Knob(
        "server.workers",
        "integer",
        "Number of runs that one server process has in progress at once, besides short runs in its event loop. "
        "Unset: `runtime.processes`; where that is 0, the cores divided by `runtime.threads` and `server.processes`.",
        None,
        1,
        1024,
        needs="reload",
    ),
    Knob(
        "server.max_body",
        "integer",
        "Maximum size of a request body in bytes.",
        64 << 20,
        1 << 10,
        16 << 30,
        unit="bytes",
        needs="reload",
    ),
    Knob(
        "server.max_in_flight",
        "integer",
        "Maximum number of inference requests running or queued in one server process. "
        "Further ones are refused with status 429.",
        128,
        1,
        10**6,
        unit="requests",
        needs="reload",
    ),
    Knob(
        "server.max_connections",
        "integer",
        "Maximum number of open HTTP connections of one server process. Further ones wait in the kernel's queue.",
        16384,
        1,
        10**6,
        unit="connections",
        needs="reload",
    ),
    Knob(
        "server.read_timeout",
        "number",
        "Seconds a client may take to send request headers, and may keep an idle connection open.",
        75,
        0.1,
        86400,
        unit="s",
        needs="reload",
    ),
    Knob(
        "server.body_timeout",
        "number",
        "Seconds a client may take to send a request body.",
        20,
        0.1,
        86400,
        unit="s",
        needs="reload",
    ),
    Knob(
        "server.limits",
        "choice",
        "Sizes of requests that are refused. `stated`: those outside the limits of the contract. "
        "`measured`: those outside what the build measured.",
        "stated",
        choices=("stated", "measured"),
        needs="reload",
    ),
    Knob(
        "server.request_timeout",
        "number",
        "Seconds a request may take before it is answered with status 504. Unset: no limit.",
        None,
        0.001,
        86400,
        unit="s",
        needs="reload",
    ),
    Knob(
        "server.drain",
        "number",
        "Seconds to finish open requests after SIGTERM.",
        30,
        0,
        86400,
        unit="s",
        needs="reload",
    ),
    Knob(
        "server.quiet",
        "number",
        "Seconds without a request, after SIGTERM, before the server stops accepting connections. "
        "Set it longer than load balancers need to see a failed readiness probe.",
        1,
        0,
        86400,
        unit="s",
        needs="reload",
    ),
    Knob(
        "server.path_prefix",
        "path",
        "Path prefix that a reverse proxy leaves in front of request paths. Unset: none.",
        needs="reload",
    ),
    Knob(
        "server.forwarded",
        "boolean",
        "Trust the X-Forwarded-… headers of requests. Only for servers behind a proxy that writes them.",
        False,
        needs="reload",
    ),
    Knob(
        "server.cors",
        "origins",
        "Origins whose web pages may send requests (CORS). `*`: every origin. Unset: none.",
        needs="reload",
    ),
    Knob(
        "auth.tokens",
        "secret",
        "File of bearer tokens, one per line. Clients must send one of them. Unset: no token is needed.",
        needs="reload",
    ),
    Knob(
        "tls.certificate",
        "secret",
        "PEM file of the server's certificate chain. Needs `tls.key`. Unset: no TLS.",
        needs="reload",
    ),
    Knob("tls.key", "secret", "PEM file of the private key of `tls.certificate`.", needs="reload"),
    Knob(
        "tls.client_ca",
        "secret",
        "PEM file of the certificate authorities that issue client certificates. "
        "Clients must present a certificate. Unset: none is needed.",
        needs="reload",
    ),
    Knob("runtime.threads", "integer", "Number of threads that execute one run.", 1, 1, 1024, unit="threads"),
    Knob(
        "runtime.processes",
        "integer",
        "Number of worker processes that run the model for each server process. 0: the server process runs it itself.",
        0,
        0,
        256,
        unit="processes",
        needs="reload",
    ),
    Knob(
        "runtime.huge_pages",
        "boolean",
        "Move the memory of the loaded model into huge pages. Needs Linux 6.1 and a host that does not forbid them.",
        False,
        needs="reload",
    ),
    Knob(
        "log.level",
        "choice",
        "Lowest level of events that are logged. `debug` logs every request.",
        "info",
        choices=("debug", "info", "warning", "error"),
    ),
    Knob(
        "log.format",
        "choice",
        "Format of log lines. `json`: one JSON object per event. `text`: one readable line per event.",
        "json",
        choices=("json", "text"),
    ),
    Knob(
        "tracing.host",
        "host",
        "Host of the OpenTelemetry collector (OTLP over HTTP). Unset: no traces.",
        needs="reload",
    ),
    Knob("tracing.port", "integer", "TCP port of the OpenTelemetry collector.", 4318, 1, 65535, needs="reload"),
    Knob(
        "tracing.ratio",
        "number",
        "Fraction of requests to trace. Requests that belong to a sampled trace are always traced.",
        0.01,
        0,
        1,
        needs="reload",
    ),
    Knob(
        "metrics.labels",
        "labels",
        "Labels of the site, added to the metric `packager_deployment_info` with the prefix `site_`.",
        {},
    ),
)
PIPELINE_KNOBS = (
    Knob(
        "server.page",
        "boolean",
        "Serve a page at `/` where a person can try the model. It is static and requests nothing from elsewhere.",
        True,
        needs="reload",
    ),
)
"""Knobs of bundles that take raw inputs."""
KNOBS = {knob.name: knob for knob in (*BATCH_KNOBS, *SERVING_KNOBS, *PIPELINE_KNOBS)}


@dataclass(frozen=True, slots=True)
class Knobs:
    """Values by name, and the digest that identifies them together with the bundle; empty without `--knobs`."""

    digest: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def parse(text: str) -> Knobs:
        """Parse the JSON of `--knobs`. Values of knobs that the server reads are checked. Raises ValueError."""
        value = json.loads(text)
        if not isinstance(value, dict) or set(value) != {"digest", "values"} or not isinstance(value["values"], dict):
            raise ValueError("expected `digest` and `values`")
        if not isinstance(value["digest"], str) or not re.fullmatch(r"sha256:[0-9a-f]{64}", value["digest"]):
            raise ValueError("expected a digest")
        for name, member in value["values"].items():
            if name in KNOBS:
                check_value(KNOBS[name], member)
            elif not isinstance(member, _TYPES):
                raise ValueError(f"{quote(name)}: expected a value")
        return Knobs(value["digest"], value["values"])

    @property
    def tuning(self) -> str:
        """Return the digest of the values that change how requests are answered; empty without `--knobs`."""
        if not self.digest:
            return ""
        kept = {name: value for name, value in self.values.items() if not _PLACEMENT.fullmatch(name)}
        return f"sha256:{hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()}"

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels of the site for metrics, with a prefix that keeps them apart from the server's own."""
        return {f"site_{name}": text for name, text in self.values.get("metrics.labels", {}).items()}

    def to_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "values": dict(self.values)}


def read_default(name: str) -> Any:
    """Return the default of a knob of the server."""
    return KNOBS[name].default


def check_value(knob: Knob, value: Any) -> Any:
    """Return `value` if the knob allows it. Raises ValueError."""
    if not knob.allows(value):
        raise ValueError(f"`{knob.name}`: expected {knob.expected()}, got {quote(value)}")
    return value


def effective_values(knobs: Knobs, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every knob of the server: from `options`, else from `knobs`, else its default."""
    return {name: options.get(name, knobs.values.get(name, knob.default)) for name, knob in KNOBS.items()}
