# SPDX-License-Identifier: Apache-2.0
"""The modules of a sentence-transformers directory behind its encoder: pooling, dense layers, normalisation.

They follow sentence-transformers' own definitions, for padding on either side. A module that is not known here is
refused by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters._torch import program
from packager.exporters._transformers.files import read_json
from packager.exporters._transformers.opening import LOG_AS_PT2, disable_cache

EMBEDDING, TOKENS, MASK = "sentence_embedding", "token_embeddings", "attention_mask"
Features: TypeAlias = "dict[str, Any]"
Answer: TypeAlias = "Callable[[dict[str, Any]], dict[str, Any]]"


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of `modules.json`: the last word of its type, and its directory."""

    kind: str
    folder: Path

    def config(self) -> Mapping[str, JSON]:
        """Return the settings; modules without any have no file."""
        path = self.folder / "config.json"
        return read_json(path) if path.is_file() else {}


def read_steps(folder: Path) -> list[Step]:
    """Return the modules of a sentence-transformers directory, none for any other; refuses what is not known here."""
    if not (folder / "modules.json").is_file():
        return []
    entries = sorted(read_json(folder / "modules.json"), key=lambda entry: entry["idx"])
    steps = [Step(entry["type"].rsplit(".", 1)[-1], folder / entry["path"]) for entry in entries]
    unknown = [step.kind for step in steps[1:] if step.kind not in _MODULES]
    if not steps or steps[0].kind != "Transformer" or unknown:
        got = ", ".join(f"`{step.kind}`" for step in steps)
        raise StepError(
            f"expected the modules Transformer, then some of {', '.join(_MODULES)}, got {got}", hint=LOG_AS_PT2
        )
    if "Pooling" not in [step.kind for step in steps]:
        raise StepError("expected a module Pooling, which makes one vector per sentence", hint=LOG_AS_PT2)
    return steps


def embedding(model: Any, steps: Sequence[Step], prompts: Mapping[str, JSON]) -> tuple[Answer, list[Any]]:
    """Return the function from token ids to one vector per sentence, and the torch modules that hold its weights."""
    built = [_MODULES[step.kind](step, prompts) for step in steps[1:]]
    fixed = disable_cache(model)

    def answer(feeds: dict[str, Any]) -> dict[str, Any]:
        features = {TOKENS: model(**feeds, **fixed)[0], MASK: feeds[MASK]}
        for module in built:
            features = module(features)
        return {EMBEDDING: features[EMBEDDING]}

    layers = [module.inner for module in built if isinstance(module, _Layer)]
    return answer, [layer for layer in layers if isinstance(layer, program.import_torch().nn.Module)]


@dataclass(frozen=True, slots=True)
class _Layer:
    """A torch module or function that reads one of the features and writes one."""

    inner: Any
    reads: str
    writes: str

    def __call__(self, features: Features) -> Features:
        return {**features, self.writes: self.inner(features[self.reads])}


def _dense(step: Step, prompts: object) -> _Layer:
    config, nn = step.config(), program.import_torch().nn

    class Dense(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
            self.activation = _activation(nn, config.get("activation_function"))
            self.residual = nn.Identity() if config.get("use_residual") else None
            if self.residual is not None and config["in_features"] != config["out_features"]:
                self.residual = nn.Linear(config["in_features"], config["out_features"], bias=False)

        def forward(self, values: Any) -> Any:
            made = self.activation(self.linear(values))
            return made if self.residual is None else made + self.residual(values)

    return _placed(_weighted(Dense(), step), config)


def _activation(nn: Any, stated: JSON) -> Any:
    """Return the activation by the last word of its name, if that is one of torch's own."""
    name = str(stated or "torch.nn.modules.linear.Identity").rsplit(".", 1)[-1]
    kind = getattr(nn.modules.activation, name, None) or (nn.Identity if name == "Identity" else None)
    if kind is None or not str(stated or "torch.").startswith("torch."):
        raise StepError(f"the activation `{stated}` of Dense is not one of torch's", hint=LOG_AS_PT2)
    return kind()


def _layer_norm(step: Step, prompts: object) -> _Layer:
    nn = program.import_torch().nn
    inner = nn.Module()
    inner.norm = nn.LayerNorm(step.config()["dimension"])
    return _placed(_weighted(inner, step).norm, {})


def _normalize(step: Step, prompts: object) -> _Layer:
    normalize = program.import_torch().nn.functional.normalize
    return _placed(lambda values: normalize(values, p=2, dim=-1), step.config())


def _dropout(step: Step, prompts: object) -> Callable[[Features], Features]:
    return lambda features: features


def _placed(inner: Any, config: Mapping[str, JSON]) -> _Layer:
    reads = config.get("module_input_name") or EMBEDDING
    return _Layer(inner, reads, config.get("module_output_name") or reads)


def _weighted(module: Any, step: Step) -> Any:
    """Load the weights of a module from its own directory, all of them and in fp32."""
    path = step.folder / "model.safetensors"
    if not path.is_file():
        raise StepError(
            f"the module `{step.folder.name}` has no `model.safetensors`, and pickled weights are not opened",
            hint="load the model once where you trust it and save it with `model.save_pretrained(DIR)`",
        )
    weights = importlib.import_module("safetensors.torch").load_file(path)
    with program.explain_export_error("opened with the weights of its modules"):
        module.load_state_dict({name: value.float() for name, value in weights.items()})
    return module.eval()


# -- pooling


def _pooling(step: Step, prompts: Mapping[str, JSON]) -> Callable[[Features], Features]:
    config, torch = step.config(), program.import_torch()
    modes = _modes(config)
    if not config.get("include_prompt", True) and any(prompts.values()):
        raise StepError(
            "the pooling leaves a prompt's tokens out (`include_prompt`), and a graph does not see where a prompt ends",
            hint=LOG_AS_PT2,
        )

    def pool(features: Features) -> Features:
        tokens, mask = features[TOKENS], features[MASK]
        return {**features, EMBEDDING: torch.cat([_POOLINGS[mode](torch, tokens, mask) for mode in modes], -1)}

    return pool


_ALSO = {
    "mean_tokens": "mean",
    "cls_token": "cls",
    "max_tokens": "max",
    "weightedmean_tokens": "weightedmean",
}
_SWITCHES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")  # sentence-transformers' order


def _modes(config: Mapping[str, JSON]) -> list[str]:
    """Return the modes in the order of their parts; words since sentence-transformers 6, before one switch per mode."""
    stated = config.get("pooling_mode")
    if stated is None:
        on = {
            key.removeprefix("pooling_mode_")
            for key, value in config.items()
            if key.startswith("pooling_mode_") and value
        }
        found = {_ALSO.get(name, name) for name in on}
        stated = sorted(found, key=lambda name: _SWITCHES.index(name) if name in _SWITCHES else len(_SWITCHES))
    modes = [stated] if isinstance(stated, str) else list(stated)
    unknown = [mode for mode in modes if mode not in _POOLINGS]
    if unknown or not modes:
        got = ", ".join(map(str, unknown)) or "none"
        raise StepError(f"expected pooling modes of {', '.join(_POOLINGS)}, got {got}", hint=LOG_AS_PT2)
    return modes


def _sum(tokens: Any, mask: Any) -> tuple[Any, Any]:
    weights = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(1), weights.sum(1).clamp(min=1e-9)


def _mean(torch: Any, tokens: Any, mask: Any) -> Any:
    total, count = _sum(tokens, mask)
    return total / count


def _mean_of_roots(torch: Any, tokens: Any, mask: Any) -> Any:
    total, count = _sum(tokens, mask)
    return total / count.sqrt()


def _weighted_mean(torch: Any, tokens: Any, mask: Any) -> Any:
    """Weigh a token by its position, counted from the first that is not padding."""
    position = torch.arange(tokens.shape[1], device=tokens.device) + 1 - _first(torch, mask).unsqueeze(-1)
    total, weight = _sum(tokens, mask * position)
    return total / weight


def _max(torch: Any, tokens: Any, mask: Any) -> Any:
    return torch.where(mask.unsqueeze(-1) == 0, -torch.inf, tokens).amax(1)


def _first_token(torch: Any, tokens: Any, mask: Any) -> Any:
    return _token(tokens, _first(torch, mask))


def _last_token(torch: Any, tokens: Any, mask: Any) -> Any:
    return _token(tokens, (mask * torch.arange(tokens.shape[1], device=tokens.device)).amax(1))


def _first(torch: Any, mask: Any) -> Any:
    """Return for each row the index of its first token that is not padding, 0 when there is none."""
    length = mask.shape[1]
    behind = (mask * (length - torch.arange(length, device=mask.device))).amax(1)
    return torch.where(behind > 0, length - behind, 0)


def _token(tokens: Any, index: Any) -> Any:
    return tokens.gather(1, index.view(-1, 1, 1).expand(-1, 1, tokens.shape[2])).squeeze(1)


_POOLINGS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "mean": _mean,
    "cls": _first_token,
    "max": _max,
    "mean_sqrt_len_tokens": _mean_of_roots,
    "weightedmean": _weighted_mean,
    "lasttoken": _last_token,
}
_MODULES: dict[str, Callable[[Step, Mapping[str, JSON]], Callable[[Features], Features]]] = {
    "Pooling": _pooling,
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Dropout": _dropout,
    "Normalize": _normalize,
}
