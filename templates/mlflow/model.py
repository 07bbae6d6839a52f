# SPDX-License-Identifier: Apache-2.0
"""The bundle beside this package as MLflow's pyfunc: `mlflow.pyfunc.load_model` calls `_load_pyfunc`.

Every file that `deployment.json` names, this program's included, is compared with its digest before the server's code
is imported and the model is opened. Rows and tensors are read by the same code as in `packager serve`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import deployed
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Model:
    """Open the model in a directory; `model_config` may hold `threads`. Raises MlflowException for a changed file."""
    folder = Path(path)
    try:
        record = deployed.read(folder)
    except (OSError, ValueError, KeyError) as error:
        raise MlflowException(f"the model is not loaded: {error}", INVALID_PARAMETER_VALUE) from None
    return Model(folder, record, model_config or {})


class Model:
    """One opened bundle; several threads may use it."""

    def __init__(self, folder: Path, record: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        from packager.server import batch, columns, config
        from packager.server.errors import RequestError, StartError

        knobs = record["values"]
        try:
            found = config.read(folder / "serve.json").with_limits(knobs.get("server.limits", "stated"))
            found = found.with_rows(knobs.get("batch.max"))
            self._opened = batch.open_model(found, int(settings.get("threads", knobs.get("runtime.threads", 1))))
        except (StartError, ValueError, OSError) as error:
            raise MlflowException(f"the model is not loaded: {error}", INVALID_PARAMETER_VALUE) from None
        self._interface, self._refusal, self._columns = found.interface, RequestError, columns
        self._ask = batch.answer_rows
        self.record = record

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Return one answer per row: an array where the model has one output, else a data frame with one column each.

        `data` is what MLflow makes of a request by the signature: a data frame, arrays by name, one array, or a list of
        rows. A model whose outputs have no rows returns its arrays by name. Raises MlflowException for what the bundle
        does not take.
        """
        try:
            return self._tensors(data) if self._opened.task is None else self._raw(self._rows(data))
        except self._refusal as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from None

    def _tensors(self, data: Any) -> Any:
        interface, columns = self._interface, self._columns
        first = interface.inputs[0].shape[0] if interface.inputs[0].shape else 1
        most = interface.allowed_range(first).largest if isinstance(first, str) else None
        feeds = columns.arrays(interface, self._by_name(data))
        results = [self._opened.run(part) for part in columns.runs(interface, feeds, most)]
        return columns.joined(interface.outputs, results) if columns.has_rows(interface) else results[0]

    def _by_name(self, data: Any) -> Mapping[str, Any]:
        """Return the inputs by name."""
        if hasattr(data, "columns"):
            return {str(name): data[name] for name in data.columns}
        if isinstance(data, Mapping):
            return data
        if isinstance(data, list) and data and all(isinstance(row, Mapping) for row in data):
            return {name: [row.get(name) for row in data] for name in data[0]}
        first, *others = self._interface.inputs
        if others:
            raise self._refusal("expected the inputs by name: a data frame or a dictionary of arrays")
        return {first.name: data}

    def _rows(self, data: Any) -> list[Any]:
        """Return the rows of a pipeline; a cell of an optional column that is empty is left out."""
        column = self._opened.columns[0]
        if hasattr(data, "to_dict") and hasattr(data, "columns"):
            rows = data.to_dict("records")
            return [{str(name): cell for name, cell in row.items() if _is_there(cell)} for row in rows]
        listed = [data] if isinstance(data, str | bytes) else list(data)
        return [row if isinstance(row, Mapping) else {column: row} for row in listed]

    def _raw(self, rows: Sequence[Any]) -> Any:
        answers = self._ask(self._opened, rows)
        for number, answer in enumerate(answers):
            if "error" in answer:
                raise self._refusal(f"row {number}: {answer['error']}")
        return self._columns.from_answers(self._opened.task, [answer["answer"] for answer in answers])


def _is_there(cell: Any) -> bool:
    return cell is not None and cell == cell
