# SPDX-License-Identifier: Apache-2.0
"""Read a model card as data: the YAML front matter of hubs, and the sections that say what a model is for.

A card is written by people and by tools of others, so what is missing, of another type or unknown is passed over; only
front matter that is no YAML, or that is larger than any card, is an error. Everything read here is declared, not
measured: `FIELDS` are what the SBOM, the passport and the dossier mark so.
Source: Hugging Face, "Model Cards" (`modelcard.md`, model-index); Mitchell et al., Model Cards for Model Reporting,
2019, for the sections.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import yaml

from packager.canonical import JSON
from packager.errors import UsageError
from packager.formats import licences

MAX_CARD = 1 << 20
MAX_FRONT = 64 << 10
MAX_ITEMS, MAX_TEXT = 100, 4000  # rows of a list; characters of a section
SECTIONS = {  # what a heading must contain, in the order in which it is tried
    "out-of-scope use": ("out-of-scope", "out of scope", "misuse"),
    "intended use": ("intended use", "direct use", "uses", "purpose", "intended purpose"),
    "limitations": ("limitation",),
    "risks": ("bias", "risk", "ethical", "fairness"),
    "training data": ("training data", "training set", "datasets"),
    "preprocessing": ("preprocess", "pre-process"),
    "hyperparameters": ("hyperparameter", "hyper-parameter"),
    "training procedure": ("training procedure", "training details", "training process"),
    "decision threshold": ("threshold",),
    "evaluation": ("evaluation", "results", "metrics", "performance"),
    "human oversight": ("human oversight", "oversight"),
    "environmental impact": ("environmental impact", "energy", "carbon"),
    "explainability": ("model examination", "explainab", "interpretab"),
    "architecture": ("architecture",),
    "application": ("downstream use", "application", "how to get started"),
}
TERMS = (  # of SPDX's AI profile, in front matter as `autonomy_type`
    "domain",
    "autonomyType",
    "standardCompliance",
    "safetyRiskAssessment",
    "metricDecisionThreshold",
    "useSensitivePersonalInformation",
)
LINKS = {"repository": "vcs", "website": "website", "homepage": "website", "paper": "documentation"}
_ADDRESS = r"https?://(?:[\w.~:/?#@!$&'()*+,;=-]|%[0-9A-Fa-f]{2}){1,1000}"
_LINK = re.compile(
    rf"^[ \t]{{0,8}}[-*][ \t]+\*\*(\w{{1,20}})(?: \[optional\])?:?\*\*:?[ \t]+<?({_ADDRESS})", re.MULTILINE | re.ASCII
)
_FENCE = re.compile(r"^(```|~~~)")
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")


@dataclass(frozen=True, slots=True)
class Metric:
    """One result of the model-index: `kind` is the metric's type, `value` its text as written."""

    kind: str
    value: str
    dataset: str | None = None
    split: str | None = None
    task: str | None = None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a card declares. `licence` is an SPDX expression, `licence_words` the card's own word for it.

    `terms` are those of `TERMS` with their text, `links` are (kind of CycloneDX's external references, address).
    """

    licence: str | None = None
    licence_words: str | None = None
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    base_models: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    task: str | None = None
    library: str | None = None
    emissions: str | None = None
    terms: Mapping[str, str] = field(default_factory=dict)
    links: tuple[tuple[str, str], ...] = ()
    results: tuple[Metric, ...] = ()
    sections: Mapping[str, str] = field(default_factory=dict)
    headings: tuple[str, ...] = ()
    words: int = 0

    def to_json(self) -> JSON:
        """Return the fields that the card fills."""
        value = {
            "licence": self.licence or self.licence_words,
            "languages": list(self.languages),
            "datasets": list(self.datasets),
            "base_models": list(self.base_models),
            "tags": list(self.tags),
            "task": self.task,
            "library": self.library,
            "emissions": self.emissions,
            "terms": dict(self.terms),
            "links": [{"type": kind, "url": address} for kind, address in self.links],
            "results": [
                {"metric": item.kind, "value": item.value, "dataset": item.dataset, "split": item.split}
                for item in self.results
            ],
            "sections": dict(self.sections),
        }
        return {name: member for name, member in value.items() if member}


def read_card(data: bytes, name: str) -> ModelCard:
    """Read a card; `name` is what errors call it.

    Raises UsageError for text that is not UTF-8 or too long, and for front matter that is no YAML.
    """
    if len(data) > MAX_CARD:
        raise UsageError(f"model card `{name}` has {len(data)} bytes, expected at most {MAX_CARD}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"model card `{name}` is not UTF-8", hint="save it as UTF-8") from None
    front, body = _split(text.replace("\r\n", "\n"))
    stated = _front_matter(front, name) if front is not None else {}
    headings, sections = _sections(body)
    words = _text(stated.get("license"))
    licence = licences.to_expression(words) if words else None
    return ModelCard(
        licence,
        words if licence is None and words != "other" else (words and _text(stated.get("license_name"))) or None,
        _texts(stated.get("language")),
        _texts(stated.get("datasets")),
        _texts(stated.get("base_model")),
        _texts(stated.get("tags")),
        _text(stated.get("pipeline_tag")),
        _text(stated.get("library_name")),
        _emissions(stated.get("co2_eq_emissions")),
        dict(_terms(stated)),
        tuple(_links(body)),
        tuple(_results(stated.get("model-index")))[:MAX_ITEMS],
        sections,
        headings,
        len(text.split()),
    )


def _split(text: str) -> tuple[str | None, str]:
    """Return front matter, if the card starts with it, and the rest."""
    if not text.startswith("---\n"):
        return None, text
    end = re.compile(r"^---[ \t]*$", re.MULTILINE).search(text, 4)
    return (text[4 : end.start()], text[end.end() :]) if end else (None, text)


class _Loader(yaml.SafeLoader):
    """YAML without aliases, which can expand, and without times, which are text here."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias")
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in rows if tag != "tag:yaml.org,2002:timestamp"]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _front_matter(text: str, name: str) -> Mapping[str, JSON]:
    hint = "the lines between the first two `---` are YAML; correct or remove them"
    if len(text) > MAX_FRONT:
        raise UsageError(f"the front matter of model card `{name}` has more than {MAX_FRONT} characters", hint=hint)
    try:
        value = yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader that knows less
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 2}" if mark else ""
        why = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UsageError(f"the front matter of model card `{name}`{where} is no YAML: {why:.200}", hint=hint) from None
    return value if isinstance(value, dict) else {}


def _text(value: JSON) -> str | None:
    """Return a scalar as text: cards write numbers and truth values where words are meant."""
    if isinstance(value, bool):
        return "no" if value is False else "yes"  # YAML's reading of the Norwegian language
    return str(value).strip()[:MAX_TEXT] or None if isinstance(value, str | int | float) else None


def _texts(value: JSON) -> tuple[str, ...]:
    rows = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(text for row in rows[:MAX_ITEMS] if (text := _text(row))))


def _emissions(value: JSON) -> str | None:
    return _text(value.get("emissions")) if isinstance(value, dict) else _text(value)


def _terms(stated: Mapping[str, JSON]) -> Iterator[tuple[str, str]]:
    for term in TERMS:
        written = re.sub("([A-Z])", r"_\1", term).lower()
        if texts := _texts(stated.get(written)):
            yield term, ", ".join(texts)[:MAX_TEXT]


def _links(body: str) -> Iterator[tuple[str, str]]:
    """Yield the first address of each kind, as the template of hubs lists them: `- **Repository:** URL`."""
    seen = set()
    for found in _LINK.finditer(body):
        kind = LINKS.get(found[1].lower())
        if kind and kind not in seen:
            seen.add(kind)
            yield kind, found[2]


def _members(value: JSON) -> Mapping[str, JSON]:
    return value if isinstance(value, dict) else {}


def _results(value: JSON) -> Iterator[Metric]:
    for model in value if isinstance(value, list) else ():
        results = model.get("results") if isinstance(model, dict) else None
        for result in results if isinstance(results, list) else ():
            if not isinstance(result, dict):
                continue
            task, dataset = _members(result.get("task")), _members(result.get("dataset"))
            metrics = result.get("metrics")
            for metric in metrics if isinstance(metrics, list) else ():
                stated = _members(metric)
                kind, found = _text(stated.get("type")), _text(stated.get("value"))
                if kind and found:
                    yield Metric(
                        kind, found, _text(dataset.get("name")), _text(dataset.get("split")), _text(task.get("type"))
                    )


def _sections(body: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return every heading, and the text under the first heading of each known section, with its sub-sections."""
    headings: list[tuple[int, str, int]] = []
    lines, fenced = body.split("\n"), False
    for number, line in enumerate(lines):
        fenced ^= bool(_FENCE.match(line))
        found = None if fenced else _HEADING.match(line)
        if found:
            headings.append((len(found[1]), found[2], number))
    sections: dict[str, str] = {}
    for index, (level, title, number) in enumerate(headings):
        kind = next((kind for kind, words in SECTIONS.items() if any(word in title.lower() for word in words)), None)
        if kind is None or kind in sections:
            continue
        end = next((n for deep, _, n in headings[index + 1 :] if deep <= level), len(lines))
        text = "\n".join(lines[number + 1 : end]).strip()
        if text and "[more information needed]" not in text.lower()[:40]:
            sections[kind] = text[:MAX_TEXT]
            if kind == "limitations" and any(word in title.lower() for word in SECTIONS["risks"]):
                sections.setdefault("risks", text[:MAX_TEXT])  # "Bias, Risks, and Limitations"
    return tuple(title for _, title, _ in headings), sections
