# SPDX-License-Identifier: Apache-2.0
"""A source's own pre- and post-processing, opened in a worker: what a derived pipeline is compared with."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.error_causes import first_line
from packager.errors import StepError
from packager.exporters._transformers import files, opening, sentence

KINDS = ("transformers",)
"""Kinds of sources whose own pipeline is known here; a tokenizer of a class that the library brings is data as well."""


@dataclass(frozen=True, slots=True)
class Own:
    """Where the parts of a source lie: the whole directory, its encoder's, its tokenizer's; and how many modules."""

    root: Path
    folder: Path
    encoder: Path
    modules: int

    @staticmethod
    def of(source: Path, payload: str) -> Own:
        folder = source if payload == "." else source / payload
        steps = sentence.read_steps(folder)
        return Own(source, folder, steps[0].folder if steps else folder, len(steps))

    @property
    def tokenizer_folder(self) -> Path:
        return files.tokenizer_folder(self.root, self.encoder)

    def config(self) -> Mapping[str, JSON]:
        found: Mapping[str, JSON] = files.read_json(self.encoder / "config.json")
        return found

    def tokenizer(self) -> Any:
        """Open the tokenizer with the class that the source names. Raises StepError."""
        library = opening.import_transformers()
        try:
            return library.AutoTokenizer.from_pretrained(
                str(self.tokenizer_folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # of whichever library the tokenizer is written in
            raise StepError(
                f"the tokenizer of the source cannot be opened: {first_line(error):.200}",
                hint="save it beside the weights with `tokenizer.save_pretrained(DIR)`, or remove `pipeline`",
            ) from error

    def labels(self) -> tuple[str, ...]:
        """Return `id2label` in the order of the classes. Raises StepError."""
        config = importlib.import_module("transformers").AutoConfig.from_pretrained(
            str(self.encoder), local_files_only=True, trust_remote_code=False
        )
        table: Mapping[int, Any] = config.id2label
        if sorted(table) != list(range(len(table))):
            raise StepError(
                "`id2label` in `config.json` does not name every class", hint="write `labels` in `pipeline`"
            )
        return tuple(str(table[index]) for index in range(len(table)))

    def processor(self) -> Any:
        """Open the image processor that the source names. Raises StepError."""
        library, apart = opening.import_transformers(), self.root / "components" / "image_processor"
        folder = apart if apart.is_dir() else self.encoder
        try:
            return library.AutoImageProcessor.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # of whichever library it is written in
            raise StepError(
                f"the image processor of the source cannot be opened: {first_line(error):.200}",
                hint="save it beside the weights with `processor.save_pretrained(DIR)`, or remove `pipeline`",
            ) from error

    def extractor(self) -> Any:
        """Open the feature extractor of sound that the source names. Raises StepError."""
        library = opening.import_transformers()
        try:
            return library.AutoFeatureExtractor.from_pretrained(
                str(self.encoder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # of whichever library it is written in
            raise StepError(
                f"the feature extractor of the source cannot be opened: {first_line(error):.200}",
                hint="save it beside the weights with `extractor.save_pretrained(DIR)`, or remove `pipeline`",
            ) from error

    def model(self) -> Any:
        """Open the source's model in its library, for inference."""
        return opening.open_model(self.encoder)

    def pipeline(self, task: str, **settings: Any) -> Any:
        """Return transformers' own pipeline over the source's model."""
        library = opening.import_transformers()
        model = opening.open_model(self.encoder)
        return library.pipeline(task, model=model, **settings)


def token_ids(tokenizer: Any, texts: Sequence[str], longest: int) -> list[list[int]]:
    """Return the ids that the source's tokenizer gives texts, cut to a length."""
    found: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    return found
