# SPDX-License-Identifier: Apache-2.0
"""Say how a checkpoint's weights are quantised, from its `config.json`: such weights are not opened.

Sources: transformers 5, `utils/quantization_config.py` (`quant_method` and the members of GPTQ, AWQ and others);
compressed-tensors 0.12, `QuantizationConfig` (`config_groups`, with `weights` in each).
"""

from __future__ import annotations

from collections.abc import Mapping

from packager.canonical import JSON
from packager.errors import SourceError

_LONGEST = 40  # characters of a method's name


def refuse(config: Mapping[str, JSON], name: str = "config.json") -> None:
    """Raise SourceError for a checkpoint whose configuration, the file `name`, says that its weights are quantised."""
    stated = config.get("quantization_config")
    if not stated:
        return
    raise SourceError(
        f"the weights are quantised (`{name}`: {describe(stated)}), expected floating-point weights",
        hint="take the checkpoint that it was made from, and write `precision: int4` or `int8_dynamic` under `runs-on`",
    )


def describe(stated: JSON) -> str:
    """Return method, bits and group size as far as a configuration states them: `gptq, 4 bits, groups of 128`."""
    table = _table(stated)
    first = next(iter(_table(table.get("config_groups")).values()), None)
    weights = table if first is None else _table(_table(first).get("weights"))
    bits = _whole(weights, "bits", "w_bit", "num_bits") or (4 if table.get("load_in_4bit") is True else None)
    group = _whole(weights, "group_size", "q_group_size")
    words = [str(table.get("quant_method") or "an unnamed method")[:_LONGEST]]
    words += [f"{bits} bits"] if bits else []
    words += [f"groups of {group}"] if group and group > 0 else []
    return ", ".join(words)


def _table(value: JSON) -> Mapping[str, JSON]:
    return value if isinstance(value, dict) else {}


def _whole(table: Mapping[str, JSON], *names: str) -> int | None:
    return next((table[name] for name in names if type(table.get(name)) is int), None)
