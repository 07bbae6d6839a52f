# SPDX-License-Identifier: Apache-2.0
"""Hugging Face model directories: `config.json` and safetensors, with the architecture's own class and head.

A sentence-transformers directory (`modules.json`) becomes one graph from token ids to `sentence_embedding`, pooling
and normalisation included. Everything is local, no code of the directory is run (`trust_remote_code` stays off), and
a weight that the class needs and the file lacks is an error: transformers would invent it.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.errors import MissingToolError, SourceError, StepError
from packager.exporters import BATCH, Interface, Port, Wishes, _mlflow, _torch
from packager.formats import safetensors

TOOLCHAIN: tuple[str, ...] = (*_torch.TOOLCHAIN, "transformers", "safetensors", "tokenizers")
EXTRA = "transformers"
EXECUTES = False
LOOKS_FOR = "a directory with `config.json` and `model.safetensors`, or MLflow's transformers and sentence_transformers"

_SEQUENCE = "sequence"
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "sentence_bert_config.json", "preprocessor_config.json",
)  # fmt: skip
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_UNFIX = "name the axes as `[batch, sequence]`, or leave `inputs` out"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the model's directory inside the source, `.` for its root. Refuses pickled weights with SourceError."""
    for name, default in (("sentence_transformers", "model.sentence_transformer"), ("transformers", "model")):
        table = _mlflow.flavor(name, paths, read)
        if table is not None:
            hints = _mlflow.flavor("python_function", paths, read) or {}
            stated = table.get("model_binary") or hints.get("data") or default
            return _weights(str(stated), paths)
    return _weights(".", paths) if "config.json" in paths else None


def _weights(folder: str, paths: Collection[str]) -> str | None:
    """Return `folder` if its weights are safetensors; a pickle of weights is refused, not opened."""
    prefix = "" if folder == "." else f"{folder}/"
    names = {path.removeprefix(prefix) for path in paths if path.startswith(prefix)}
    if "config.json" not in names:
        return None
    if names & {"model.safetensors", "model.safetensors.index.json"}:
        return folder
    if any(name.startswith("pytorch_model") and name.endswith(".bin") for name in names):
        raise SourceError(
            f"`{prefix}pytorch_model.bin` is a pickle, expected `model.safetensors`",
            hint="load it once where you trust it and save it with `model.save_pretrained(DIR)`",
        )
    return None


def load(source: Path, payload: str, wishes: Wishes) -> _torch.Traced:
    """Open the directory with the class its `config.json` names. Raises StepError when something does not fit."""
    folder = source if payload == "." else source / payload
    for path in sorted(folder.rglob("*.safetensors")):
        safetensors.check(path)
    steps = _steps(folder)
    encoder = steps[0].folder if steps else folder
    model = _model(encoder, optional=("pooler.",) if steps else ())
    ports, positions = _ports(model, _tokenizer_inputs(_tokenizer_folder(source, encoder)), wishes.inputs)
    interface = wishes.interface(ports, {_SEQUENCE: (1, positions)}, unfix=_UNFIX)
    names = tuple(port.name for port in interface.inputs)
    module, outputs = _pooled(model, steps) if steps else _plain(model, interface)
    return _torch.Traced(module, interface, names, wishes.outputs or outputs, _files(source, encoder))


# -- opening


def _library() -> Any:
    _torch.torch()
    try:
        library = importlib.import_module("transformers")
    except ModuleNotFoundError:
        raise MissingToolError("transformers", "transformers") from None
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def _model(folder: Path, *, optional: Sequence[str]) -> Any:
    """Open the weights in fp32 with the class of the architecture; those under `optional` prefixes may be missing."""
    library, torch = _library(), _torch.torch()
    config = _json(folder / "config.json")
    if config.get("is_encoder_decoder"):
        raise StepError("encoder-decoder models are two graphs and a loop, which one graph cannot hold")
    if config.get("auto_map"):
        raise StepError("`config.json` asks for code of its own (`auto_map`), which is never run", hint=_LOG_AS_PT2)
    name = next(iter(config.get("architectures") or ()), "")
    kind = getattr(library, name, None)
    if kind is None or not hasattr(kind, "from_pretrained"):
        raise StepError(f"architecture `{name or 'nothing'}` is not in this version of transformers", hint=_LOG_AS_PT2)
    try:
        model, report = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # transformers wraps the failures of a dozen libraries
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StepError(f"the weights cannot be opened as `{name}`: {type(error).__name__}: {first:.300}") from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(tuple(optional)))
    if missing:
        raise StepError(
            f"the weights lack `{missing[0]}`, which `{name}` needs ({len(missing)} in all)",
            hint="set `architectures` in `config.json` to the class that the weights were saved from",
        )
    return model.eval()


_LOG_AS_PT2 = "export the model with `torch.export` and log it as pt2"


def _json(path: Path) -> JSON:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StepError(f"`{path.name}` is missing or is not JSON: {error}") from error


def _tokenizer_folder(source: Path, encoder: Path) -> Path:
    """Return where the tokenizer lies: MLflow's transformers flavor keeps it apart from the weights."""
    apart = source / "components" / "tokenizer"
    return apart if apart.is_dir() else encoder


def _tokenizer_inputs(folder: Path) -> Sequence[str] | None:
    """Return what the tokenizer makes, or None when there is no tokenizer."""
    if not (folder / "tokenizer_config.json").is_file():
        return None
    with _torch.translated("opened with its tokenizer"):
        tokenizer = _library().AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    return tuple(tokenizer.model_input_names)


def _files(source: Path, encoder: Path) -> dict[str, Path]:
    """Return the tokenizer's text files, the weights' neighbours first."""
    folders = (_tokenizer_folder(source, encoder), encoder)
    found = {f"tokenizer/{name}": folder / name for folder in reversed(folders) for name in _TOKENIZER
             if (folder / name).is_file()}  # fmt: skip
    return dict(sorted(found.items()))


# -- inputs


def _ports(model: Any, tokens: Sequence[str] | None, recipe: Sequence[Port] | None) -> tuple[list[Port], int]:
    """Return the inputs, and how many positions the model has."""
    accepted = inspect.signature(model.forward).parameters
    if model.main_input_name == "pixel_values":
        found = [_image(model.config)]
    elif model.main_input_name == "input_ids":
        made = _TEXT_INPUTS[:2] if tokens is None else tokens
        found = [_text(name, model) for name in _TEXT_INPUTS if name in made and name in accepted]
    else:
        raise StepError(f"models that take `{model.main_input_name}` are not exported from here", hint=_LOG_AS_PT2)
    return _wished(found, recipe), _positions(model)


def _text(name: str, model: Any) -> Port:
    last = {"input_ids": model.get_input_embeddings().num_embeddings - 1, "attention_mask": 1}
    highest = last.get(name, getattr(model.config, "type_vocab_size", 1) - 1)
    return Port(name, "int64", (BATCH, _SEQUENCE), (0, max(highest, 0)))


def _image(config: Any) -> Port:
    size = config.image_size if isinstance(config.image_size, int) else tuple(config.image_size)
    height, width = (size, size) if isinstance(size, int) else size
    return Port("pixel_values", "float32", (BATCH, config.num_channels, height, width))


def _wished(found: Sequence[Port], recipe: Sequence[Port] | None) -> list[Port]:
    """Keep the inputs that the recipe names, with its shapes and ranges; all of them when it names none."""
    if not recipe:
        return list(found)
    known = {port.name: port for port in found}
    for port in recipe:
        if port.name not in known:
            listed = ", ".join(f"`{name}`" for name in known)
            raise StepError(f"the model has no input `{port.name}`, expected some of {listed}")
        if (port.dtype, len(port.shape)) != (known[port.name].dtype, len(known[port.name].shape)):
            raise StepError(f"input `{port.name}` is {known[port.name].dtype} with shape {known[port.name].shape}")
    asked = {port.name: replace(port, range=port.range or known[port.name].range) for port in recipe}
    return [asked[port.name] for port in found if port.name in asked]


def _positions(model: Any) -> int:
    """Return the longest sequence; some families count positions from behind the padding token."""
    positions = int(getattr(model.config, "max_position_embeddings", None) or _torch.UNBOUNDED)
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            return min(positions, module.num_embeddings - padding - 1)
    return positions


# -- what the graph returns


def _plain(model: Any, interface: Interface) -> tuple[Any, tuple[str, ...]]:
    """Return a module that gives every tensor of the model's own output, and their names."""
    torch = _torch.torch()
    fixed = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    with torch.no_grad(), _torch.quiet(), _torch.translated("run on its own inputs"):
        sample = model(**_torch.example(interface), return_dict=True, **fixed)
    names = tuple(name for name, value in sample.items() if isinstance(value, torch.Tensor))

    def answer(feeds: dict[str, Any]) -> Any:
        result = model(**feeds, return_dict=True, **fixed)
        return tuple(result[name] for name in names)

    return _module(model, answer), names


def _module(model: Any, answer: Callable[[dict[str, Any]], Any]) -> Any:
    """Wrap a function as a torch module; the class is made here because torch is imported here."""
    torch = _torch.torch()

    class Answer(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self,
            input_ids: Any = None,
            attention_mask: Any = None,
            token_type_ids: Any = None,
            pixel_values: Any = None,
        ) -> Any:
            given = (input_ids, attention_mask, token_type_ids, pixel_values)
            named = zip((*_TEXT_INPUTS, "pixel_values"), given, strict=True)
            return answer({name: value for name, value in named if value is not None})

    return Answer().eval()


@dataclass(frozen=True, slots=True)
class _Step:
    """One entry of `modules.json`: the last word of its type, and its directory."""

    kind: str
    folder: Path


def _steps(folder: Path) -> list[_Step]:
    """Return the modules of a sentence-transformers directory, none for any other; refuses what is not known here."""
    if not (folder / "modules.json").is_file():
        return []
    entries = sorted(_json(folder / "modules.json"), key=lambda entry: entry["idx"])
    steps = [_Step(entry["type"].rsplit(".", 1)[-1], folder / entry["path"]) for entry in entries]
    kinds = [step.kind for step in steps]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise StepError(
            f"expected the modules Transformer, Pooling and maybe Normalize, got {', '.join(kinds)}", hint=_LOG_AS_PT2
        )
    return steps


def _pooled(model: Any, steps: Sequence[_Step]) -> tuple[Any, tuple[str, ...]]:
    """Return a module that gives one vector per sentence."""
    torch = _torch.torch()
    mode = _pooling(_json(steps[1].folder / "config.json"))

    def answer(feeds: dict[str, Any]) -> Any:
        tokens = model(**feeds, return_dict=True).last_hidden_state
        vector = _POOLINGS[mode](torch, tokens, feeds["attention_mask"])
        return torch.nn.functional.normalize(vector, p=2, dim=1) if len(steps) == 3 else vector

    return _module(model, answer), ("sentence_embedding",)


def _pooling(config: Mapping[str, JSON]) -> str:
    """Return the mode; one word since sentence-transformers 6, before that one switch per mode."""
    switches = {
        key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on
    }
    names = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max"}
    modes = {config["pooling_mode"]} if "pooling_mode" in config else {names.get(name, name) for name in switches}
    if len(modes) != 1 or not modes <= set(_POOLINGS):
        got = ", ".join(sorted(map(str, modes))) or "none"
        raise StepError(f"expected one pooling mode of {', '.join(_POOLINGS)}, got {got}", hint=_LOG_AS_PT2)
    return str(modes.pop())


def _mean(torch: Any, tokens: Any, mask: Any) -> Any:
    weights = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _max(torch: Any, tokens: Any, mask: Any) -> Any:
    return torch.where(mask.unsqueeze(-1) == 0, -1e9, tokens).amax(1)


def _first_token(torch: Any, tokens: Any, mask: Any) -> Any:
    return tokens[:, 0]


_POOLINGS: dict[str, Callable[[Any, Any, Any], Any]] = {"mean": _mean, "cls": _first_token, "max": _max}
