# SPDX-License-Identifier: Apache-2.0
"""A BentoML service around the model beside this file: typed `/predict` in adaptive batches, and the protocol `/v2`.

With a pipeline `/predict` takes rows as people have them, as in `packager serve`; one request is one run.

`deployment.json` says which bundle this is, with which knobs, and every file with its digest; a file that differs is
an error at the start. `serve.json` is the interface that both APIs keep to, by the same code as `packager serve`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import bentoml
import deployed
import numpy as np
from bentoml.exceptions import BadInput
from bentoml.validators import TensorSchema
from openinference import application
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator

from packager.server import config
from packager.server.errors import RequestError
from packager.server.execution import session
from packager.server.execution.warm_up import WarmUpInputs
from packager.server.protocol.interface import Tensor

HERE = Path(__file__).parent
RECORD = deployed.read(HERE)
KNOBS = RECORD["values"]
CONFIG = (
    config.read(HERE / "serve.json").with_limits(KNOBS.get("server.limits", "stated")).with_rows(KNOBS.get("batch.max"))
)
INTERFACE = CONFIG.interface
FIRSTS = {tensor.shape[0] if tensor.shape else 0 for tensor in (*INTERFACE.inputs, *INTERFACE.outputs)}
BATCHED = len(FIRSTS) == 1 and all(isinstance(first, str) for first in FIRSTS)  # one named size counts the rows of all
PLAIN = {"b": bool, "i": int, "u": int, "f": float}


def annotation(tensor: Tensor) -> Any:
    """Return the type of one row of a tensor: an array, or what JSON has for a single value and for text."""
    shape = tensor.shape[1:] if BATCHED else tensor.shape
    if tensor.dtype == "string":
        kind: Any = str
        for _ in shape:
            kind = list[kind]
        return Annotated[kind, BeforeValidator(shaped(shape))] if shape == (1,) else kind
    if not shape:
        return PLAIN[np.dtype(tensor.dtype).kind]
    fixed = tuple(shape) if all(isinstance(size, int) for size in shape) else None
    schema = TensorSchema(format="numpy-array", dtype=tensor.dtype, shape=fixed)
    return Annotated[np.ndarray, schema, BeforeValidator(shaped(shape))]


def shaped(shape: tuple[int | str, ...]) -> Callable[[Any], Any]:
    """Return a check of the sizes: BentoML itself would reshape whatever has as many elements."""

    def check_sizes(value: Any) -> Any:
        value = [value] if shape == (1,) and np.ndim(value) == 0 else value  # a cell of a table
        got = np.shape(value)
        fits = len(got) == len(shape) and all(
            size == expected for size, expected in zip(got, shape, strict=True) if isinstance(expected, int)
        )
        if not fits:
            raise ValueError(f"expected shape {list(shape)}, got {list(got)}")
        return value

    return check_sizes


def record(title: str, tensors: tuple[Tensor, ...], **validators: Any) -> type[BaseModel]:
    """Return a model with one field per tensor; names of tensors need not be names of Python's."""
    fields = {f"port_{place}": (annotation(tensor), Field(alias=tensor.name)) for place, tensor in enumerate(tensors)}
    settings = ConfigDict(arbitrary_types_allowed=True, serialize_by_alias=True, validate_by_name=True)
    return create_model(  # type: ignore[call-overload,no-any-return]
        title, __config__=settings, __validators__=validators, **fields
    )


def check_row(row: Any) -> Any:
    """Hold a row against the contract while its request is read: later it runs with rows of other requests."""
    if BATCHED:
        try:
            least = INTERFACE.measured_range(str(INTERFACE.inputs[0].shape[0])).minimum or 1
            feed([[getattr(row, f"port_{place}") for place in range(len(INTERFACE.inputs))]] * least)
        except BadInput as error:
            raise ValueError(error.message) from None
    return row


Row = record("Row", INTERFACE.inputs, check_row=model_validator(mode="after")(check_row))
Answer = record("Answer", INTERFACE.outputs)


class Runs:
    """The model, opened once in this worker."""

    def __init__(self) -> None:
        self.session = session.load(CONFIG, KNOBS.get("runtime.threads", 1))
        self.pipeline = None
        if CONFIG.pipeline is not None:
            from packager.server.pipeline import pipeline  # needs packages that only bundles with a pipeline lock

            self.pipeline = pipeline.open_checked(CONFIG.pipeline.path, CONFIG.pipeline.digest, INTERFACE)
        session.warm_up(self.session, WarmUpInputs.of(CONFIG))

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Return every output by name."""
        return dict(zip((port.name for port in self.session.outputs), self.session.run(feeds), strict=True))

    def together(self, rows: list[Any]) -> list[Any]:
        """Answer rows of any number of requests: those of one shape in one run, at most the contract's batch."""
        values = [[getattr(row, f"port_{place}") for place in range(len(INTERFACE.inputs))] for row in rows]
        answers: list[Any] = [None] * len(rows)
        for places in groups(values):
            feeds = feed([values[place] for place in places])
            for place, answer in zip(places, split(self.run(feeds), len(places)), strict=True):
                answers[place] = answer
        return answers

    def alone(self, row: Any) -> Any:
        """Answer a request of a model that has no batch."""
        feeds = {
            tensor.name: array_of(getattr(row, f"port_{place}"), tensor)
            for place, tensor in enumerate(INTERFACE.inputs)
        }
        check(feeds)
        results = self.run(feeds)
        return answer_of({tensor.name: results[tensor.name] for tensor in INTERFACE.outputs})

    def raw(self, rows: list[Any]) -> list[Any]:
        """Answer rows as people have them. Raises BadInput."""
        try:
            prepared = self.pipeline.prepare(rows)
            return self.pipeline.answers(self.run(prepared.feeds), prepared)
        except RequestError as error:
            if error.status >= 500:
                raise
            raise BadInput(error.message) from None


def groups(values: list[list[Any]]) -> Iterator[list[int]]:
    """Yield the places of rows that can run together, no more than the largest batch at once."""
    first = INTERFACE.inputs[0].shape[0]
    most = INTERFACE.measured_range(str(first)).maximum or len(values)
    found: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(values):
        found.setdefault(tuple(np.shape(value) for value in row), []).append(place)
    for places in found.values():
        yield from (places[start : start + most] for start in range(0, len(places), most))


def array_of(value: Any, tensor: Tensor) -> Any:
    """Return a tensor from its JSON or array form; text as the objects that runtimes take."""
    return np.asarray(value, dtype=object if tensor.dtype == "string" else tensor.dtype)


def feed(rows: list[list[Any]]) -> dict[str, Any]:
    """Stack rows to one batch and hold it against the contract, as each row was. Raises BadInput."""
    feeds = {
        tensor.name: np.stack([array_of(row[place], tensor) for row in rows])
        for place, tensor in enumerate(INTERFACE.inputs)
    }
    check(feeds)
    return feeds


def check(feeds: dict[str, Any]) -> None:
    """Refuse shapes and values beyond the contract. Raises BadInput."""
    sizes: dict[str, int] = {}
    try:
        for tensor in INTERFACE.inputs:
            INTERFACE.check_shape(tensor, feeds[tensor.name].shape, sizes)
        INTERFACE.check_ties(sizes)
        INTERFACE.check_values(feeds)
    except RequestError as error:
        raise BadInput(error.message) from None


def split(results: dict[str, Any], count: int) -> Iterator[Any]:
    """Yield the answer of every row."""
    for place in range(count):
        yield answer_of({tensor.name: results[tensor.name][place] for tensor in INTERFACE.outputs})


def answer_of(values: dict[str, Any]) -> Any:
    """Return one answer in its declared type."""
    return Answer.model_validate(
        {
            name: value.tolist() if np.ndim(value) == 0 or value.dtype.kind in "OU" else value
            for name, value in values.items()
        }
    )


OPTIONS = {
    "name": RECORD["name"],
    "workers": KNOBS.get("bentoml.workers", 1),
    "traffic": {
        "timeout": KNOBS.get("bentoml.timeout", 60),
        "max_concurrency": KNOBS.get("server.max_in_flight", 128),
    },
}
BATCHING = {
    "batchable": True,
    "max_batch_size": KNOBS.get("batch.max") or KNOBS.get("batch.rows", 1),
    "max_latency_ms": KNOBS.get("bentoml.max_latency", 10_000),
}

if CONFIG.pipeline is not None:

    @bentoml.service(**OPTIONS)
    class Model:
        """The model of the bundle and its pipeline; one request is one run."""

        def __init__(self) -> None:
            self.runs = Runs()

        @bentoml.api
        def predict(self, rows: list[dict[str, Any] | str]) -> list[Any]:
            """Answer rows, in their order: files are base64."""
            return self.runs.raw(rows)

elif BATCHED:

    @bentoml.service(**OPTIONS)
    class Model:  # type: ignore[no-redef]
        """The model of the bundle; rows of several requests run together."""

        def __init__(self) -> None:
            self.runs = Runs()

        @bentoml.api(**BATCHING)
        def predict(self, rows: list[Row]) -> list[Answer]:  # type: ignore[valid-type]
            """Answer rows, in their order."""
            return self.runs.together(rows)

else:

    @bentoml.service(**OPTIONS)
    class Model:  # type: ignore[no-redef]
        """The model of the bundle; one request is one run."""

        def __init__(self) -> None:
            self.runs = Runs()

        @bentoml.api
        def predict(self, row: Row) -> Answer:  # type: ignore[valid-type]
            """Answer one request."""
            return self.runs.alone(row)


async def compute(feeds: dict[str, Any]) -> dict[str, Any]:
    """Run on a thread, so that health checks and other requests go on."""
    return await asyncio.to_thread(bentoml.get_current_service().runs.run, feeds)


def opened() -> Any:
    """Return the pipeline of this worker, None for a bundle that takes tensors."""
    return bentoml.get_current_service().runs.pipeline


bentoml.asgi_app(application(CONFIG, RECORD, compute, opened), path="/")(Model)
