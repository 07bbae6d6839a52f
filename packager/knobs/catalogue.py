# SPDX-License-Identifier: Apache-2.0
"""List the knobs of a bundle: the server's, bounded by the contract, and those of the contract's runtimes.

The server's are declared in `packager.server.knobs`, once for this schema and for the server itself. A runtime adds
knobs with a function `knobs(contract)` in its plug-in. The same contract gives the same schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from packager.canonical import JSON
from packager.errors import UsageError
from packager.knobs import knobs
from packager.runtime import load_runtime
from packager.server.declaration import Knob
from packager.server.knobs import BATCH_KNOBS, PIPELINE_KNOBS, SERVING_KNOBS

BATCH = BATCH_KNOBS[0].name
_MOST_ROWS = 2**20
_GIB = 2**30
_MIB = 2**20
_OVERHEAD_MIB = 512  # of the interpreter, the runtime and requests in progress, with the other knobs as they are


def knobs_for(contract: Mapping[str, JSON]) -> tuple[Knob, ...]:
    """Return the knobs of a bundle with this contract (`contract.json` as JSON)."""
    runtimes = sorted({target["runtime"] for target in contract["targets"].values()})
    runtime_knobs = [knob for name in runtimes for knob in _runtime_knobs(name, contract)]
    served = any(load_runtime(name).served for name in runtimes)
    server_knobs = (*SERVING_KNOBS, *_BENTOML, *_deployment_knobs(contract)) if served else ()
    pipeline_knobs = PIPELINE_KNOBS if served and "pipeline" in contract else ()
    return (*_batch_knobs(contract), *server_knobs, *pipeline_knobs, *runtime_knobs)


def _runtime_knobs(name: str, contract: Mapping[str, JSON]) -> tuple[Knob, ...]:
    found = load_runtime(name).knobs(contract)
    if wrong := [item for item in found if not isinstance(item, Knob)]:
        raise UsageError(f"`knobs` of the runtime `{name}`: expected Knob, got {type(wrong[0]).__name__}")
    return tuple(item for item in found if isinstance(item, Knob))


def find_batch(contract: Mapping[str, JSON]) -> tuple[str, int, int] | None:
    """Return the dimension that counts rows, its least and greatest size: the first one of every input and output."""
    interface = contract["interface"]
    firsts = {port["shape"][0] if port["shape"] else 0 for port in (*interface["inputs"], *interface["outputs"])}
    name = firsts.pop() if len(firsts) == 1 else 0
    if not isinstance(name, str) or name not in interface["dimensions"]:
        return None
    span = interface["dimensions"][name]
    return name, span["min"], span["max"]


def most_rows(contract: Mapping[str, JSON]) -> int | None:
    """Return the maximum number of rows in one request by the contract, None if it states no limit."""
    name = (find_batch(contract) or ("", 0, 0))[0]
    span = contract["interface"]["dimensions"][name]
    limit = span.get("limit", span)
    return max([limit["max"], *limit.get("also", [])]) if "max" in limit else None


def _batch_knobs(contract: Mapping[str, JSON]) -> tuple[Knob, ...]:
    found = find_batch(contract)
    if found is None:
        return ()
    name, low, high = found
    most = most_rows(contract)
    about = f"Maximum number of rows (`{name}`) in one request. The contract promises {most}."
    if most is None:
        about = f"Maximum number of rows (`{name}`) in one request. Unset: no limit. The build measured up to {high}."
    return (
        replace(BATCH_KNOBS[0], about=about, default=most, low=low, high=most or _MOST_ROWS),
        replace(BATCH_KNOBS[1], default=high, high=high),
        BATCH_KNOBS[2],
    )


_BENTOML = (
    Knob("bentoml.workers", "integer", "Number of worker processes of a Bento.", 1, 1, 64, unit="processes"),
    Knob(
        "bentoml.max_latency",
        "integer",
        "Maximum milliseconds that a Bento lets a request wait for its batch and run.",
        10000,
        1,
        600000,
        unit="ms",
    ),
    Knob("bentoml.timeout", "integer", "Maximum seconds that a Bento spends on one request.", 60, 1, 3600, unit="s"),
)


def _deployment_knobs(contract: Mapping[str, JSON]) -> tuple[Knob, ...]:
    """Return the knobs of rendered deployments; the default memory follows from the contract's needs."""
    memory = _OVERHEAD_MIB + -(-model_memory(contract) // _MIB)
    return (
        Knob("deploy.replicas", "integer", "Minimum number of servers in a cluster.", 2, 1, 1000, unit="servers"),
        Knob("deploy.max_replicas", "integer", "Maximum number of servers in a cluster.", 4, 1, 1000, unit="servers"),
        Knob(
            "deploy.cpu",
            "integer",
            "CPU request of one server, in thousandths of a core.",
            1000,
            50,
            1024000,
            unit="milli-cores",
        ),
        Knob(
            "deploy.memory",
            "integer",
            "Memory limit of one server in MiB. "
            "Unset: rendered deployments add memory for more processes and larger requests.",
            memory,
            64,
            16 << 20,
            unit="MiB",
        ),
    )


def model_memory(contract: Mapping[str, JSON]) -> int:
    """Return the bytes that one loaded copy of the model takes at most, of the target that takes the most.

    While it opens, weights may be there in two layouts. The estimate of the peak is a fourth too low at most.
    """
    needs = [target["needs"]["memory"] for target in contract["targets"].values()]
    opening = max(2 * need.get("weights", 0) + need.get("activations", 0) for need in needs)
    return int(max(opening, *(need.get("peak", 0) * 5 // 4 for need in needs)))


def schema_bytes(contract: JSON) -> bytes:
    """Return the bytes of `knobs.schema.json`."""
    return knobs.dump(knobs_for(contract))


def check_together(values: Mapping[str, JSON]) -> None:
    """Refuse values that are allowed separately and not together. Raises UsageError."""
    if ("tls.certificate" in values) != ("tls.key" in values):
        raise UsageError("`tls.certificate` and `tls.key` go together", hint="set both or neither")
    if "tls.client_ca" in values and "tls.key" not in values:
        raise UsageError("`tls.client_ca` needs TLS", hint="set `tls.certificate` and `tls.key` as well")
