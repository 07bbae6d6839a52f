# SPDX-License-Identifier: Apache-2.0
"""The opened pipeline of a bundle: rows of a request to inputs of the graph, its results to one answer per row.

`prepare` and `answers` take no lock and touch no event loop: the server calls them on its worker threads, the build and
batch runs where they like. Raw inputs of the Open Inference Protocol have their own interface (`interface`): the
columns of the document, such as `text` or `image`, of datatype BYTES, one element per row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from packager.server.errors import RequestError, quote
from packager.server.pipeline import answers, choices, document, passages, scenes
from packager.server.pipeline import text as texts
from packager.server.pipeline.document import Document
from packager.server.pipeline.images import Images
from packager.server.pipeline.parts import Boxes, Choices, Classes, Embedding, Passages, Regions, Spans, list_outputs
from packager.server.pipeline.prepared import Prepared
from packager.server.pipeline.row_files import read_file
from packager.server.pipeline.sounds import Sounds
from packager.server.pipeline.text import Tokenizer, Tokens
from packager.server.protocol.interface import Interface, Tensor
from packager.server.protocol.tensors import Array, no_charge

Hold = Callable[[int], None]
_ROWS = "rows"
_REGION = 24  # bytes of a pixel while its label is found and masks are written


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
        self._sounds = Sounds(about.audio) if about.audio else None
        self.interface = self._raw_interface()

    def describe(self) -> dict[str, Any]:
        """Return what a row and an answer are."""
        about = self.about
        pairs = "text_pair" in about.optional
        more = {"columns": list(about.columns)} if len(about.columns) > 1 else {}
        return {"task": about.task, "input": about.raw, "pairs": pairs, **more}

    @property
    def most_rows(self) -> int | None:
        """Return how many rows the graph takes at once, None where that has no limit."""
        image = self.about.image
        ports = [port for port in self._interface.inputs if image is None or port.name == image.input]
        first = ports[0].shape[0]
        return first if isinstance(first, int) else self._interface.allowed_range(first).largest

    @property
    def single(self) -> bool:
        """Whether rows run one by one: their sizes differ, and what they are filled up with may change an answer."""
        image, audio = self.about.image, self.about.audio
        if image is not None:
            return image.crop is None and len(image.size or ()) < 2
        return audio is not None and audio.mels is None

    def _check_ports(self) -> None:
        inputs, about = {port.name for port in self._interface.inputs}, self.about
        taken = set(about.text.inputs) if about.text else set()
        for part in (about.image, about.audio):
            taken |= {name for name in (part.input, part.mask) if name} if part else set()
        if taken != inputs:
            raise ValueError(f"the pipeline feeds {sorted(taken)}, the graph takes {sorted(inputs)}")
        known = {port.name for port in self._interface.outputs}
        for output in list_outputs(about.answer):
            if output not in known:
                raise ValueError(f"the pipeline reads the output {quote(output)}, the graph has {sorted(known)}")

    def _raw_interface(self) -> Interface:
        types = {"image": "bytes", "audio": "bytes"}
        inputs = [Tensor(name, types.get(name, "string"), (_ROWS,)) for name in self.about.columns]
        return Interface(tuple(inputs), tuple(Tensor(*about) for about in self.about.outputs), {})

    def prepare(self, rows: Sequence[Mapping[str, Any] | str], hold: Hold = no_charge) -> Prepared:
        """Return the inputs of the graph for rows; `hold` gets the bytes that they take. Raises RequestError."""
        self._check_count(len(rows))
        if self._images:
            return self._pictures(rows, self._images, hold)
        if self._sounds:
            found = [
                self._sounds.read(read_file(row, index, "audio", "a WAV file"), f"row {index}", hold)
                for index, row in enumerate(rows)
            ]
            return self._checked(self._sounds.feeds(found))
        tokenizer, about = self._opened_tokenizer(), self.about.text
        if isinstance(self.about.answer, Passages):
            return self._questions(rows, tokenizer, hold)
        plain = [
            texts.read_row({"text": row} if isinstance(row, str) else row, index, pairs=bool(about and about.pairs))
            for index, row in enumerate(rows)
        ]
        tokens = tokenizer.tokenize(plain, hold)
        return self._checked(tokenizer.feeds(tokens), rows=plain, tokens=tokens)

    def _questions(self, rows: Sequence[Any], tokenizer: Tokenizer, hold: Hold) -> Prepared:
        plain = [texts.read_question(row, index) for index, row in enumerate(rows)]
        windows = tokenizer.windows(plain, hold)
        tokens = [window for own in windows for window in own]
        if self.most_rows is not None and len(tokens) > self.most_rows:
            raise RequestError(
                f"the texts have {len(tokens)} windows, and the model takes {self.most_rows} at once", status=413
            )
        return self._checked(tokenizer.feeds(tokens), rows=plain, tokens=tokens, windows=[len(own) for own in windows])

    def _checked(
        self,
        feeds: Mapping[str, Array],
        *,
        rows: Sequence[tuple[str, str | None]] = (),
        tokens: Sequence[Tokens] = (),
        windows: Sequence[int] = (),
        sizes: Sequence[tuple[int, int]] = (),
    ) -> Prepared:
        """Return prepared rows with the dimensions whose sizes were not measured. Raises RequestError for a shape."""
        found: dict[str, int] = {}
        for port in self._interface.inputs:
            self._interface.check_shape(port, feeds[port.name].shape, found)
        return Prepared(feeds, rows, tokens, self._interface.outside(found), windows, sizes)

    def _pictures(self, rows: Sequence[Any], decoder: Images, hold: Hold) -> Prepared:
        found, sizes, about = [], [], self.about.answer
        labels = choices.read_labels(about, rows) if isinstance(about, Choices) else ()
        for index, row in enumerate(rows):
            row = row if isinstance(row, Mapping) else {"image": row}
            row = {name: cell for name, cell in row.items() if name not in self.about.optional}
            data = read_file(row, index, "image", "a picture")
            pixels, size = decoder.pixels(data, f"row {index}", hold)
            if isinstance(about, Regions):
                hold(_REGION * size[0] * size[1])
            found.append(pixels)
            sizes.append(size)
        feeds = decoder.feeds(found)
        tokens: list[Tokens] = []
        if isinstance(about, Choices):
            tokens = self._opened_tokenizer().tokenize(choices.write_sentences(about, labels), hold)
            feeds |= self._opened_tokenizer().feeds(tokens)
        return replace(self._checked(feeds, tokens=tokens, sizes=sizes), labels=labels)

    def pixels(self, data: bytes) -> Array:
        """Return the pixel values of a picture. Raises RequestError."""
        if self._images is None:
            raise RequestError("this model takes no images")
        return self._images.pixels(data, "the image", no_charge)[0]

    def features(self, samples: Array) -> Array:
        """Return the features of samples at the model's rate. Raises RequestError."""
        if self._sounds is None:
            raise RequestError("this model takes no audio")
        return self._sounds.features(samples)

    def prepare_samples(self, rows: Sequence[Array]) -> Prepared | None:
        """Return the inputs for samples at the model's rate; None for a length that the graph does not take."""
        if self._sounds is None:
            raise RequestError("this model takes no audio")
        try:
            return self._checked(self._sounds.feeds([self._sounds.features(samples) for samples in rows]))
        except RequestError:
            return None

    def windows(self, question: str, context: str) -> list[Tokens]:
        """Return the windows of a question and a text. Raises RequestError."""
        return self._opened_tokenizer().windows([(question, context)], no_charge)[0]

    def rows(self, feeds: Mapping[str, Array]) -> list[Mapping[str, Any]]:
        """Return the rows of raw inputs of the protocol. Raises RequestError for columns of different lengths."""
        names = [port.name for port in self.interface.inputs]
        listed = [feeds[name].tolist() for name in names]
        if len({len(column) for column in listed}) > 1:
            raise RequestError(f"expected as many elements in {' and '.join(map(quote, names))}")
        return [dict(zip(names, row, strict=True)) for row in zip(*listed, strict=True)]

    def tokens(self, rows: Sequence[str]) -> list[Tokens]:
        """Return the tokens of texts. Raises RequestError for a pipeline without a tokenizer."""
        return self._opened_tokenizer().tokenize([(row, None) for row in rows], no_charge)

    def _opened_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise RequestError("this model takes no texts")
        return self._tokenizer

    def _check_count(self, count: int) -> None:
        most = self.most_rows
        if count < 1 or (most is not None and count > most):
            raise RequestError(f"expected 1 to {most or 'any number of'} rows, got {count}")

    def answers(self, results: Mapping[str, Array], prepared: Prepared, top: int | None = None) -> list[Any]:
        """Return one answer per row, as JSON values; `top` limits labels. Raises RequestError."""
        about = self.about.answer
        if isinstance(about, Embedding):
            return [row.tolist() for row in self.vectors(results, prepared)]
        if isinstance(about, Passages):
            return self._passages(about, results, prepared, top)
        if isinstance(about, Choices):
            return list(choices.rank_labels(about, results[about.output], prepared.labels, top))
        if isinstance(about, Boxes):
            nothing = scenes.NOTHING if about.function == "softmax" else 0
            answers.check_labels(len(about.labels) + nothing, results[about.scores])
            return scenes.find_things(about, results, prepared.sizes, top)
        if isinstance(about, Regions):
            answers.check_labels(len(about.labels), results[about.output], axis=1)
            return scenes.find_regions(about, results, prepared.sizes)
        answers.check_labels(len(about.labels), results[about.output])
        if isinstance(about, Classes):
            return list(answers.labels(about, results[about.output], top))
        return self._spans(about, results[about.output], prepared)

    def vectors(self, results: Mapping[str, Array], prepared: Prepared) -> Array:
        """Return the vectors of an embedding, one per row. Raises RequestError for another task."""
        about, text = self.about.answer, self.about.text
        if not isinstance(about, Embedding):
            raise RequestError(f"this model answers {self.about.task}, not embeddings", status=404)
        inputs = text.inputs if text else {}
        mask = next((prepared.feeds[name] for name, part in inputs.items() if part == "mask"), None)
        return answers.vectors(about, results[about.output], mask)

    def _spans(self, about: Spans, logits: Array, prepared: Prepared) -> list[Any]:
        found = []
        for index, ((text, _), tokens) in enumerate(zip(prepared.rows, prepared.tokens, strict=True)):
            first = self._tokenizer.first_column(tokens, logits.shape[1]) if self._tokenizer else 0
            own = logits[index, first : first + len(tokens.ids)]
            found.append(answers.spans(about, own, text, tokens.offsets, tokens.special))
        return found

    def _passages(
        self, about: Passages, results: Mapping[str, Array], prepared: Prepared, top: int | None
    ) -> list[list[passages.Passage]]:
        starts, ends = results[about.start], results[about.end]
        found, first = [], 0
        for (_, text), count in zip(prepared.rows, prepared.windows, strict=True):
            windows = [
                (tokens, starts[index, : len(tokens.ids)], ends[index, : len(tokens.ids)])
                for index, tokens in enumerate(prepared.tokens[first : first + count], first)
            ]
            found.append(passages.find_passages(about, windows, text or "", top))
            first += count
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
