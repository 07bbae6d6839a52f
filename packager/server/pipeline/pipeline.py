# SPDX-License-Identifier: Apache-2.0
"""The opened pipeline of a bundle: rows of a request to inputs of the graph, its results to one answer per row.

`prepare` and `answers` take no lock and touch no event loop: the server calls them on its worker threads, the build and
batch runs where they like. Raw inputs of the Open Inference Protocol have their own interface (`interface`): `text` or
`image` of datatype BYTES, one element per row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from packager.server.errors import RequestError, quote
from packager.server.pipeline import answers, document, images
from packager.server.pipeline import text as texts
from packager.server.pipeline.document import Classes, Document, Embedding, Image, Spans
from packager.server.pipeline.images import Images
from packager.server.pipeline.prepared import Prepared
from packager.server.pipeline.text import Tokenizer, Tokens
from packager.server.protocol.interface import Interface, Tensor
from packager.server.protocol.tensors import Array, no_charge

Hold = Callable[[int], None]
_ROWS = "rows"


class Pipeline:
    """One pipeline over one interface; several threads may use it."""

    def __init__(self, about: Document, folder: Path, interface: Interface) -> None:
        """Open what the document names. Raises ValueError, OSError."""
        self.about, self._interface = about, interface
        self._check_ports()
        self._tokenizer: Tokenizer | None = None
        if about.text:
            self._tokenizer = texts.open_tokenizer(folder, about.text, interface, spans=isinstance(about.answer, Spans))
        self._images = Images(about.image) if about.image else None
        self.interface = self._raw_interface()

    def describe(self) -> dict[str, Any]:
        """Return what a row and an answer are."""
        about = self.about
        pairs = bool(about.text and about.text.pairs)
        return {"task": about.task, "input": "text" if about.text else "image", "pairs": pairs}

    @property
    def most_rows(self) -> int | None:
        """Return how many rows the graph takes at once, None where that has no limit."""
        first = self._interface.inputs[0].shape[0]
        return first if isinstance(first, int) else self._interface.allowed_range(first).largest

    def _check_ports(self) -> None:
        inputs = {port.name for port in self._interface.inputs}
        about = self.about
        taken = set(about.text.inputs) if about.text else {about.image.input} if about.image else inputs
        if taken != inputs:
            raise ValueError(f"the pipeline feeds {sorted(taken)}, the graph takes {sorted(inputs)}")
        output = self.about.answer.output
        known = {port.name for port in self._interface.outputs}
        if output not in known:
            raise ValueError(f"the pipeline reads the output {quote(output)}, the graph has {sorted(known)}")

    def _raw_interface(self) -> Interface:
        inputs = [Tensor("image", "bytes", (_ROWS,)) if self.about.image else Tensor("text", "string", (_ROWS,))]
        outputs = {
            Embedding: (Tensor("embedding", "float32", (_ROWS, "width")),),
            Classes: (Tensor("label", "string", (_ROWS, "top")), Tensor("score", "float32", (_ROWS, "top"))),
        }.get(type(self.about.answer), (Tensor("answer", "string", (_ROWS,)),))
        return Interface(tuple(inputs), outputs, {})

    def prepare(self, rows: Sequence[Mapping[str, Any] | str], hold: Hold = no_charge) -> Prepared:
        """Return the inputs of the graph for rows; `hold` gets the bytes that they take. Raises RequestError."""
        self._check_count(len(rows))
        if self._images and self.about.image:
            return self._pictures(rows, self._images, self.about.image, hold)
        tokenizer, about = self._tokenizer, self.about.text
        if tokenizer is None or about is None:
            raise RequestError("this model takes no texts")
        plain = [
            texts.read_row({"text": row} if isinstance(row, str) else row, index, pairs=about.pairs)
            for index, row in enumerate(rows)
        ]
        tokens = tokenizer.tokenize(plain, hold)
        feeds = tokenizer.feeds(tokens)
        return Prepared(feeds, plain, tokens, self._outside(feeds))

    def _outside(self, feeds: Mapping[str, Array]) -> tuple[str, ...]:
        """Return the dimensions whose sizes were not measured. Raises RequestError for a shape that is not taken."""
        sizes: dict[str, int] = {}
        for port in self._interface.inputs:
            self._interface.check_shape(port, feeds[port.name].shape, sizes)
        return self._interface.outside(sizes)

    def _pictures(self, rows: Sequence[Any], decoder: Images, about: Image, hold: Hold) -> Prepared:
        found = []
        for index, row in enumerate(rows):
            data = images.read_row(row if isinstance(row, Mapping) else {"image": row}, index)
            found.append(decoder.pixels(data, f"row {index}", hold))
        shapes = sorted({pixels.shape for pixels in found})
        if len(shapes) > 1:
            raise RequestError(f"expected images of one size, got {shapes[0][1:]} and {shapes[1][1:]}")
        feeds = {about.input: np.stack(found)}
        return Prepared(feeds, (), (), self._outside(feeds))

    def pixels(self, data: bytes) -> Array:
        """Return the pixel values of a picture. Raises RequestError."""
        if self._images is None:
            raise RequestError("this model takes no images")
        return self._images.pixels(data, "the image", no_charge)

    def rows(self, feeds: Mapping[str, Array]) -> list[Mapping[str, Any]]:
        """Return the rows of raw inputs of the protocol."""
        name = self.interface.inputs[0].name
        return [{name: row} for row in feeds[name].tolist()]

    def tokens(self, rows: Sequence[str]) -> list[Tokens]:
        """Return the tokens of texts. Raises RequestError for a pipeline without a tokenizer."""
        if self._tokenizer is None:
            raise RequestError("this model takes no texts")
        return self._tokenizer.tokenize([(row, None) for row in rows], no_charge)

    def _check_count(self, count: int) -> None:
        most = self.most_rows
        if count < 1 or (most is not None and count > most):
            raise RequestError(f"expected 1 to {most or 'any number of'} rows, got {count}")

    def answers(self, results: Mapping[str, Array], prepared: Prepared, top: int | None = None) -> list[Any]:
        """Return one answer per row, as JSON values; `top` limits labels. Raises RequestError."""
        about = self.about.answer
        if isinstance(about, Embedding):
            return [row.tolist() for row in self.vectors(results, prepared)]
        if isinstance(about, Classes):
            answers.check_labels(len(about.labels), results[about.output])
            return list(answers.labels(about, results[about.output], top))
        return self._spans(about, results[about.output], prepared)

    def vectors(self, results: Mapping[str, Array], prepared: Prepared) -> Array:
        """Return the vectors of an embedding, one per row. Raises RequestError for another task."""
        about = self.about.answer
        if not isinstance(about, Embedding):
            raise RequestError(f"this model answers {self.about.task}, not embeddings", status=404)
        mask = next(
            (
                prepared.feeds[name]
                for name, part in (self.about.text.inputs if self.about.text else {}).items()
                if part == "mask"
            ),
            None,
        )
        return answers.vectors(about, results[about.output], mask)

    def _spans(self, about: Spans, logits: Array, prepared: Prepared) -> list[Any]:
        answers.check_labels(len(about.labels), logits)
        found = []
        for index, ((text, _), tokens) in enumerate(zip(prepared.rows, prepared.tokens, strict=True)):
            first = self._tokenizer.first_column(tokens, logits.shape[1]) if self._tokenizer else 0
            own = logits[index, first : first + len(tokens.ids)]
            found.append(answers.spans(about, own, text, tokens.offsets, tokens.special))
        return found

    def tensors(self, results: Mapping[str, Array], prepared: Prepared) -> dict[str, Array]:
        """Return the answers as the raw interface's outputs. Raises RequestError."""
        about = self.about.answer
        if isinstance(about, Embedding):
            return {"embedding": np.ascontiguousarray(self.vectors(results, prepared), np.float32)}
        found = self.answers(results, prepared)
        if isinstance(about, Classes):
            return {
                "label": np.array([[item["label"] for item in row] for row in found], object),
                "score": np.array([[item["score"] for item in row] for row in found], np.float32),
            }
        return {"answer": np.array([orjson.dumps(item).decode() for item in found], object)}


def open_pipeline(folder: Path, interface: Interface) -> Pipeline:
    """Open the pipeline in a directory. Raises ValueError, OSError."""
    return Pipeline(document.read(folder), folder, interface)


def open_checked(path: Path, digest: str, interface: Interface) -> Pipeline:
    """Open the pipeline of a document that must have a digest. Raises ValueError, OSError."""
    data = document.read_file(path.parent, path.name, digest, document.MAX_DOCUMENT)
    return Pipeline(document.parse(data), path.parent, interface)
