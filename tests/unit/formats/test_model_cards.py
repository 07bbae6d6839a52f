# SPDX-License-Identifier: Apache-2.0
"""Model cards as people write them, read as data; what nobody could read is an error with its line, never a crash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager.errors import UsageError
from packager.formats.model_cards import Metric, read_card

CARD = b"""---
language:
- en
- no
license: apache-2.0
library_name: transformers
pipeline_tag: text-classification
base_model: distilbert/distilbert-base-uncased
datasets:
- sst2
- glue
tags: [sentiment, 2024]
co2_eq_emissions: {emissions: 0.45, source: codecarbon}
model-index:
- name: distilbert-sst2
  results:
  - task: {type: text-classification, name: Text Classification}
    dataset: {name: glue, type: glue, config: sst2, split: validation}
    metrics:
    - {type: accuracy, value: 0.9105504587155964, verified: true}
    - {type: f1, value: 0.914}
date: 2024-01-02
---
# DistilBERT on SST-2

## Uses

### Direct Use

Rate the mood of English sentences.

```
# not a heading
```

### Out-of-Scope Use

Medical advice.

## Bias, Risks, and Limitations

Worse on irony.

## Training Data

[More Information Needed]
"""


def test_a_card_of_a_hub_is_read() -> None:
    card = read_card(CARD, "README.md")
    assert (card.licence, card.licence_words, card.task, card.library) == (
        "Apache-2.0",
        None,
        "text-classification",
        "transformers",
    )
    assert card.languages == ("en", "no")  # YAML takes `no` for false
    assert (card.datasets, card.base_models) == (("sst2", "glue"), ("distilbert/distilbert-base-uncased",))
    assert card.results == (
        Metric("accuracy", "0.9105504587155964", "glue", "validation", "text-classification"),
        Metric("f1", "0.914", "glue", "validation", "text-classification"),
    )
    assert card.emissions == "0.45"
    assert card.sections["intended use"].startswith("### Direct Use\n\nRate the mood")
    assert card.sections["out-of-scope use"] == "Medical advice."
    assert card.sections["limitations"] == "Worse on irony."
    assert "training data" not in card.sections  # a hub's template, not filled in
    assert "not a heading" not in card.headings


@pytest.mark.parametrize(
    ("stated", "expression", "words"),
    [
        ("mit", "MIT", None),
        ("cc-by-nc-4.0", "CC-BY-NC-4.0", None),
        ("gpl-3.0-or-later", "GPL-3.0-or-later", None),
        ("llama3.1", None, "llama3.1"),
        ("other\nlicense_name: acme-research", None, "acme-research"),
        ("other", None, None),
    ],
)
def test_a_licence_is_an_expression_or_the_cards_own_word(
    stated: str, expression: str | None, words: str | None
) -> None:
    card = read_card(f"---\nlicense: {stated}\n---\n".encode(), "card.md")
    assert (card.licence, card.licence_words) == (expression, words)


def test_a_card_without_front_matter_has_its_sections() -> None:
    card = read_card("# Intended use\r\nDigits.\r\n# Limitations\r\nNo letters.".encode("utf-8-sig"), "card.md")
    assert card.to_json() == {"sections": {"intended use": "Digits.", "limitations": "No letters."}}
    assert read_card(b"---\na line of a table, and no end", "card.md").to_json() == {}


@pytest.mark.parametrize(
    "front",
    [
        "a: [1",
        "a: *b",
        "a: &b [x]\nc: [*b, *b]",
        "a: !!python/object/apply:os.system [id]",
        "a: " + "[" * 3000 + "]" * 3000,
        "a: 0x" + "f" * 5000 + "\nb: " + "9" * 5000,
        "x: " + "y" * 70000,
    ],
)
def test_front_matter_that_is_no_yaml_is_said(front: str) -> None:
    try:
        read_card(f"---\n{front}\n---\ntext".encode(), "card.md")
    except UsageError as error:
        assert "card.md" in error.message and error.hint
    else:
        assert "9999" in front  # large numbers are numbers


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"x" * (2 << 20)])
def test_what_is_no_text_is_said(data: bytes) -> None:
    with pytest.raises(UsageError, match=r"card\.md"):
        read_card(data, "card.md")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda part: st.lists(part) | st.dictionaries(st.text(max_size=5), part),
)


@given(
    st.dictionaries(
        st.sampled_from(["license", "language", "datasets", "base_model", "tags", "model-index", "co2_eq_emissions"]),
        JUNK,
    )
)
def test_members_of_other_types_are_passed_over(front: object) -> None:
    import yaml

    text = yaml.safe_dump(front, allow_unicode=True)
    try:
        read_card(f"---\n{text}---\n".encode(), "card.md").to_json()
    except UsageError as error:
        assert "is no YAML" in error.message
