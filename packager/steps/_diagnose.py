# SPDX-License-Identifier: Apache-2.0
"""Classify a difference by running the source on what would explain it.

The row that shows it is changed the way faulty graphs change it (its fractions dropped, its numbers rounded to
float32, its missing values filled …). Where the source then answers what the artefact answered, that is the kind.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Feeds: TypeAlias = Mapping[str, Any]
Run: TypeAlias = Callable[[Feeds], Sequence[Any]]

_ALTERNATIVES = 24  # other texts tried in one column
_COLUMNS = 64  # columns that are tried one by one


def explain(source: Run, artefact: Run, row: Feeds, output: int, samples: Feeds) -> str | None:
    """Return in a few words why the artefact answers a row otherwise, None when nothing tried explains it.

    `row` is what both ran on; `samples` are other values of the inputs. The words continue "the artefact …".
    """
    try:
        expected, again, got = source(row)[output], source(row)[output], artefact(row)[output]
    except Exception:  # either side may refuse a row alone that it took in a batch: nothing can be said then
        return None
    if not _same(expected, again):
        return (
            "is measured against a source that answers differently each time: it draws random numbers, or is in "
            "training mode (dropout); call `model.eval()` before it is saved"
        )
    if _same(expected, got):
        return "answers a row otherwise when other rows stand beside it, or the source does (a layer in training mode)"
    for words, changed in _suspicions(row, samples):
        try:
            answer = source(changed)[output]
        except Exception:  # noqa: S112 - what the source refuses explains nothing
            continue
        if _same(answer, got):
            return words
    return _rearranged(expected, got)


def _same(left: Any, right: Any) -> bool:
    numpy = importlib.import_module("numpy")
    if left.shape != right.shape:
        return False
    if left.dtype.kind not in "fc":
        return bool((left == right).all())
    return bool(numpy.allclose(left, right, rtol=1e-4, atol=1e-6, equal_nan=True))


def _suspicions(row: Feeds, samples: Feeds) -> Iterator[tuple[str, Feeds]]:
    """Yield what may have happened to the row, with the row changed so."""
    numpy = importlib.import_module("numpy")
    yield from _everywhere(numpy, row)
    for name in list(row)[:_COLUMNS]:
        values = row[name]
        if values.dtype.kind == "O":
            for other in _others(numpy, values, samples.get(name)):
                shown = str(values.reshape(-1)[0])[:60]
                yield f"takes `{shown}` in `{name}` for `{other[:60]}`", {**row, name: numpy.full_like(values, other)}
        elif values.dtype.kind == "f" and values.size == 1:
            for towards in (-numpy.inf, numpy.inf):
                beside = numpy.nextafter(numpy.float32(values), numpy.float32(towards)).astype(values.dtype)
                yield (
                    f"stands on the other side of a threshold of `{name}` (another leaf or bin)",
                    {**row, name: beside},
                )


def _everywhere(numpy: Any, row: Feeds) -> Iterator[tuple[str, Feeds]]:
    floats = [name for name, values in row.items() if values.dtype.kind == "f"]
    whole = [name for name, values in row.items() if values.dtype.kind == "i" and values.dtype.itemsize == 8]
    texts = [name for name, values in row.items() if values.dtype.kind == "O"]

    def changed(names: Sequence[str], change: Callable[[Any], Any]) -> Feeds:
        with numpy.errstate(all="ignore"):
            return {**row, **{name: change(row[name]).astype(row[name].dtype) for name in names}}

    yield "rounds numbers to float32 (another leaf, bin or category)", changed(floats, lambda v: v.astype("float32"))
    yield "drops the fractions of numbers", changed(floats, numpy.trunc)
    yield "takes missing numbers for zeros", changed(floats, numpy.nan_to_num)
    yield "keeps 32 bits of whole numbers", changed(whole, lambda v: v.astype("int32"))
    yield "keeps 32 bits of whole numbers", changed(whole, lambda v: v.clip(-(1 << 31), (1 << 31) - 1))
    yield "computes whole numbers in float32", changed(whole, lambda v: v.astype("float32").astype("float64"))
    yield "reads texts in lower case", changed(texts, _lowered)


def _lowered(values: Any) -> Any:
    numpy = importlib.import_module("numpy")
    return numpy.array([str(item).lower() for item in values.reshape(-1)], dtype="object").reshape(values.shape)


def _others(numpy: Any, values: Any, known: Any) -> list[str]:
    """Return other texts of a column, the missing one first."""
    listed = [] if known is None else [str(item) for item in known.reshape(-1).tolist()]
    found = dict.fromkeys(["", *listed])
    return [item for item in found if item != str(values.reshape(-1)[0])][:_ALTERNATIVES]


def _rearranged(expected: Any, got: Any) -> str | None:
    numpy = importlib.import_module("numpy")
    if expected.dtype.kind != "f" or expected.shape != got.shape or expected.size < 2:
        return None
    if _same(numpy.sort(expected.reshape(-1)), numpy.sort(got.reshape(-1))):
        return "gives the same numbers at other positions (classes or columns in another order)"
    return None
