# SPDX-License-Identifier: Apache-2.0
"""There must be a model card with the required sections.

`sections` are words that must each occur in a heading; `words` is the minimum length of the card in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("card",)
DEFAULTS: Mapping[str, JSON] = {"sections": [], "words": 1}


def check(facts: Mapping[str, JSON], sections: list[str], words: int) -> Iterator[Finding]:
    """Yield a finding when there is no card, or the card is too short or lacks a section."""
    card = facts["card"]
    if card is None:
        yield Finding(
            "model-card", "error", "card", "there is no model card", "add `card: MODEL_CARD.md` to the recipe"
        )
        return
    if card["words"] < words:
        message = f"the model card has {card['words']} words, expected at least {words}"
        yield Finding("model-card", "error", card["path"], message, "state what the model is for, and what not")
    for section in sections:
        if not any(section.lower() in heading.lower() for heading in card["headings"]):
            message = f"the model card has no section `{section}`"
            yield Finding("model-card", "error", f"{card['path']}/{section}", message, f"add a heading `## {section}`")
