# SPDX-License-Identifier: Apache-2.0
"""CISA's elements and OWASP's score say what an SBOM lacks, and what they say fills it."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from packager import canonical
from packager.formats import spdx, spdx3
from packager.formats.model_cards import ModelCard, read_card
from packager.policy import completeness
from packager.policy.sbom_scores import aibom_score
from tests.unit.formats.test_sbom import made

FULL = """---
license: apache-2.0
pipeline_tag: text-classification
datasets: [glue]
domain: [product reviews, film reviews]
autonomy_type: no
standard_compliance: ISO/IEC 42001:2023
use_sensitive_personal_information: no
model-index:
- results:
  - metrics: [{type: accuracy, value: 0.91}, {type: f1, value: 0.9}]
---
# A model

- **Repository:** https://git.example/acme/model
- **Paper [optional]:** https://papers.example/1910.01108
- **Website:** <https://model.example/about%20it>

## Uses
### Direct Use
Rate the mood of English sentences.
### Downstream Use
Behind the form for complaints.
## Bias, Risks, and Limitations
Worse on irony.
## Training Details
### Training Data
Sentences of films.
### Training Procedure
Three passes.
#### Preprocessing
Lower case.
#### Training Hyperparameters
Rate 2e-5.
## Decision Threshold
0.5
## Model Examination
By integrated gradients.
## Environmental Impact
Training took 12.5 kWh.
## Model Architecture and Objective
A transformer of six layers.

The rest of the section.
"""


def scored(card: str | None = None, **changes: Any) -> dict[str, Any]:
    declared = read_card(card.encode(), "c") if card is not None else None
    return made(declared=declared, card="MODEL_CARD.md" if card else None, **changes)


def test_a_full_card_is_complete() -> None:
    bom = scored(FULL, origin="hf://acme/model@" + "0" * 40)
    score = aibom_score(bom)
    assert [field.name for item in score.categories.values() for field in item.fields if not field.filled] == []
    assert (score.total, score.factor) == (100.0, 1.0)
    said = {row["name"]: row["value"] for row in bom["metadata"]["properties"]}
    assert said["spdx:domain"] == "product reviews, film reviews"
    assert said["spdx:autonomyType"] == "no"  # YAML takes it for false
    assert (said["spdx:energyQuantity"], said["spdx:energyUnit"]) == ("12.5", "kWh")
    assert said["spdx:metric"] == "accuracy, f1"
    parameters = bom["metadata"]["component"]["modelCard"]["modelParameters"]
    assert parameters["modelArchitecture"] == "A transformer of six layers."
    links = {row["type"]: row["url"] for row in bom["metadata"]["component"]["externalReferences"][1:]}
    assert links == {
        "distribution": "hf://acme/model@" + "0" * 40,
        "vcs": "https://git.example/acme/model",
        "documentation": "https://papers.example/1910.01108",
        "website": "https://model.example/about%20it",
    }
    for version, schema in (("1.6", SchemaVersion.V1_6), ("1.7", SchemaVersion.V1_7)):
        text = canonical.dump(completeness_version(bom, version)).decode()
        assert JsonStrictValidator(schema).validate_str(text) is None
    spdx.convert(bom)
    spdx3.convert(bom, spdx3.Publication(None, None))


def completeness_version(bom: dict[str, Any], version: str) -> dict[str, Any]:
    from packager.formats import cyclonedx

    return cyclonedx.as_version(bom, version)


def test_without_a_card_much_is_missing_and_nothing_is_made_up() -> None:
    score = aibom_score(scored(None, description=None, licence=None, authors=(), datasets=[]))
    assert score.factor == pytest.approx(0.9 * 0.95)
    assert score.total < 50
    assert "properties" not in scored(None)["metadata"]


def test_each_remedy_fills_its_field() -> None:
    """A heading or a line of front matter that the report names is what the field is filled by."""
    bare = aibom_score(scored("---\nlicense: mit\n---\n# A model\n"))
    tried = 0
    for name, category in bare.categories.items():
        for field in category.fields:
            assert field.filled or field.remedy
            front = re.fullmatch(r"in the front matter of the model card: `(\w+)`", field.remedy)
            section = re.fullmatch(r"a section of the model card: ([\w ]+?)(, with `N kWh`)?", field.remedy)
            if field.filled or not (front or section) or field.name == "metric":
                continue
            text = f"{front[1]}: some\n" if front else ""
            body = f"## {section[1]}\n\nSome text of 3 kWh.\n" if section else ""
            after = aibom_score(scored(f"---\n{text}---\n{body}"))
            assert next(item.filled for item in after.categories[name].fields if item.name == field.name), field
            tried += 1
    assert tried >= 18


def test_the_weights_and_penalties_are_those_of_the_method() -> None:
    score = aibom_score(scored(FULL.replace("pipeline_tag: text-classification\n", ""), authors=()))
    assert score.categories["metadata"].reached == 12.0
    assert score.factor == 0.9, "two critical fields are missing"
    assert {name: (item.points, len(item.fields)) for name, item in score.categories.items()} == {
        "required fields": (20, 4),
        "metadata": (20, 5),
        "component": (20, 7),
        "model card": (30, 17),
        "external references": (10, 4),
    }


def test_cisa_elements_of_2026() -> None:
    report = completeness.assess_sbom(made(), signed=True)
    assert len(report.cisa) == 17
    missing = {item.name for item in report.cisa if not item.filled}
    assert missing == {"SBOM timestamp", "SBOM tool version", "component producer"}
    unsigned = completeness.assess_sbom(made(authors=()), signed=False)
    assert {item.name for item in unsigned.cisa if not item.filled} == missing | {
        "SBOM author",
        "SBOM author signature",
    }
    assert all(item.remedy for item in unsigned.cisa if not item.filled)


@pytest.mark.parametrize(
    "line", ["\n" * 500_000, "- **Repository:** " * 50_000, "- **Paper:** http://" + "a" * 900_000]
)
def test_a_hostile_card_is_read_quickly(line: str) -> None:
    started = time.process_time()
    card: ModelCard = read_card(line[: 1 << 20].encode(), "c")
    assert time.process_time() - started < 2
    assert all(len(address) < 1100 for _, address in card.links)
