# SPDX-License-Identifier: Apache-2.0
"""The types of a step's facts state what the step's schema admits, member by member."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

import pytest

from packager import plugins
from packager.build import step_facts

STEPS = {
    "export": step_facts.GraphFacts,
    "export_generation": step_facts.GraphFacts,
    "compile": step_facts.ArtefactFacts,
    "measure": step_facts.MeasurementFacts,
    "measure_generation": step_facts.MeasurementFacts,
    "measure_seq2seq": step_facts.MeasurementFacts,
    "reference": step_facts.ReferenceFacts,
    "reference_seq2seq": step_facts.ReferenceFacts,
    "pipeline": step_facts.PipelineFacts,
}
PARTS = {
    ("export", "interface"): step_facts.InterfaceFacts,
    ("export", "interface", "inputs"): step_facts.PortFacts,
    ("export", "interface", "outputs"): step_facts.PortFacts,
    ("measure", "cases"): step_facts.CaseFacts,
}


def answer_of(step: str, *members: str) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = plugins.load("steps", step).ANSWER
    for name in members:
        schema = schema["properties"][name]
        schema = schema.get("items", schema)
    return schema


@pytest.mark.parametrize("step", STEPS)
def test_every_member_of_an_answer_has_a_type(step: str) -> None:
    schema, facts = answer_of(step), STEPS[step]
    assert set(schema["properties"]) <= set(get_type_hints(facts))
    assert facts.__required_keys__ <= set(schema["required"]), "what may be absent is `NotRequired`"


@pytest.mark.parametrize("facts", list(dict.fromkeys(STEPS.values())), ids=lambda facts: facts.__name__)
def test_no_type_states_what_no_step_answers(facts: type[Any]) -> None:
    schemas = [answer_of(step) for step, own in STEPS.items() if own is facts]
    assert set(get_type_hints(facts)) == {name for schema in schemas for name in schema["properties"]}


@pytest.mark.parametrize("place", PARTS, ids=".".join)
def test_nested_records_are_those_of_the_schema(place: tuple[str, ...]) -> None:
    schema, facts = answer_of(*place), PARTS[place]
    assert set(get_type_hints(facts)) == set(schema["properties"]) == set(schema["required"])
