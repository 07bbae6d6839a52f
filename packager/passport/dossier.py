# SPDX-License-Identifier: Apache-2.0
"""Write technical documentation for regulators from what is signed about a bundle, and say what is missing.

Every sentence has a mark: `declared` (the publisher's word in recipe or model card), `measured` (a build or conformance
run recorded it in a signed statement), `verified` (checked here, against bytes and keys). Its evidence is the digest of
the file or statement that it comes from. What a form asks and no evidence answers is listed as a gap with who fills it;
nothing is phrased to look like an answer. Equal bundles and trust give equal bytes: no date of today is in it.

Sources: Regulation (EU) 2024/1689, Annex IV (technical documentation, nine sections) and Annex XI section 1 (providers
of general-purpose models). The headings are short forms of ours, the points are the regulation's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from packager.canonical import JSON
from packager.escape import html as escape
from packager.escape import line
from packager.passport.page import read_style

Mark: TypeAlias = Literal["declared", "measured", "verified"]
MARKS: tuple[Mark, ...] = get_args(Mark)
Form: TypeAlias = Literal["annex-iv", "gpai"]
FORMS: tuple[Form, ...] = get_args(Form)
_TITLES: Mapping[Form, str] = {
    "annex-iv": "Technical documentation (Annex IV)",
    "gpai": "Documentation of a general-purpose model (Annex XI)",
}
_PROVENANCE, _CONFORMANCE = "https://slsa.dev/provenance/v1", "https://in-toto.io/attestation/test-result/v0.1"


@dataclass(frozen=True, slots=True)
class Sentence:
    """One statement of a dossier; `evidence` is the digest of what says it, None where that is the bundle itself."""

    text: str
    mark: Mark
    evidence: str | None


@dataclass(frozen=True, slots=True)
class Gap:
    """What a form asks and the bundle does not answer, and how it can be filled."""

    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Section:
    """One numbered section of a form."""

    number: str
    title: str
    entries: tuple[Sentence | Gap, ...]


@dataclass(frozen=True, slots=True)
class Dossier:
    """A filled form. `facts` are those of the passport it was made of."""

    form: Form
    name: str
    version: str
    digest: str
    sections: tuple[Section, ...]

    def to_json(self) -> JSON:
        return {
            "form": self.form,
            "bundle": {"name": self.name, "version": self.version, "digest": self.digest},
            "sections": [
                {
                    "number": section.number,
                    "title": section.title,
                    "sentences": [
                        {"text": item.text, "mark": item.mark, "evidence": item.evidence}
                        for item in section.entries
                        if isinstance(item, Sentence)
                    ],
                    "gaps": [
                        {"text": item.text, "remedy": item.remedy} for item in section.entries if isinstance(item, Gap)
                    ],
                }
                for section in self.sections
            ],
            "counts": self.counts,
        }

    def to_markdown(self) -> str:
        """Return the dossier as Markdown: a table of sentences for each section, then its gaps."""
        return _markdown(self)

    def to_html(self) -> str:
        """Return the dossier as one page without script or request."""
        return _html(self, read_style())

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of sentences by mark, and of gaps."""
        entries = [item for section in self.sections for item in section.entries]
        marks: dict[str, int] = {
            mark: sum(isinstance(item, Sentence) and item.mark == mark for item in entries) for mark in MARKS
        }
        return {**marks, "gaps": sum(isinstance(item, Gap) for item in entries)}


def write_dossier(facts: JSON, form: Form) -> Dossier:
    """Fill a form from the facts of a verified bundle (`contents.describe_bundle`).

    Raises ValueError where the facts are of a bundle that was not verified.
    """
    if not facts["verification"]["checked"] or not facts["verification"]["ok"]:
        raise ValueError("a dossier is made of signed evidence: the bundle is not verified")
    source = _Evidence(facts)
    sections = tuple(Section(number, title, tuple(fill(source))) for number, title, fill in _FORMS[form])
    bundle = facts["bundle"]
    return Dossier(form, bundle["name"], bundle["version"], bundle["digest"], sections)


class _Evidence:
    """The facts, with the digests that sentences refer to."""

    def __init__(self, facts: JSON) -> None:
        self.facts = facts
        self.about, self.made = facts["about"], facts["provenance"]
        self.files = {path: blob["digest"] for path, blob in facts["bundle"]["files"].items()}
        self.statements = {row["predicate_type"]: row["digest"] for row in facts["verification"]["statements"]}
        self.sbom, self.contract = self.files.get("sbom.cdx.json"), self.files.get("contract.json")
        self.provenance = self.statements.get(_PROVENANCE)
        self.conformance = self.statements.get(_CONFORMANCE)

    def declared(self, text: str, evidence: str | None = None) -> Sentence:
        return Sentence(text, "declared", evidence or self.sbom)

    def measured(self, text: str, evidence: str | None = None) -> Sentence:
        return Sentence(text, "measured", evidence or self.provenance)

    def verified(self, text: str, evidence: str | None = None) -> Sentence:
        return Sentence(text, "verified", evidence or self.facts["bundle"]["digest"])

    def from_card(self, key: str, lead: str, gap: str) -> Iterator[Sentence | Gap]:
        """Yield what the card says under `key`, or the gap."""
        rows = self.about[key] if isinstance(self.about[key], list) else [self.about[key]]
        texts = [str(text) for text in rows if text]
        yield from (self.declared(f"{lead}: {text}") for text in texts)
        if not texts:
            yield Gap(gap, "say it in the model card that `card:` in the recipe names")


Entries: TypeAlias = Iterator[Sentence | Gap]

# the sections of Annex IV


def _general(of: _Evidence) -> Entries:
    bundle, about = of.facts["bundle"], of.about
    yield from of.from_card("intended_use", "Intended purpose", "intended purpose (1a)")
    authors = ", ".join(about["authors"])
    if authors:
        yield of.declared(f"Provider: {authors}")
    else:
        yield Gap("name of the provider (1a)", "`authors` in the recipe")
    yield of.verified(f"Version {bundle['version']} of {bundle['name']}, identified by {bundle['digest']}")
    yield from _predecessor(of)
    for target in of.facts["targets"]:
        versions = target["versions"] or ""
        yield of.declared(
            f"It runs on {target['runtime']} {versions}, on {target['device']}, in {target['precision']}"
            + (f": {target['quantised']}" if target["quantised"] else ""),
            of.contract,
        )
    yield of.verified(
        f"It is supplied as one OCI artifact of {len(bundle['files'])} files, {bundle['size']} bytes, each listed with "
        "its SHA-256"
    )
    for kind in ("inputs", "outputs"):
        for port in of.facts["interface"][kind]:
            shape = ", ".join(map(str, port["shape"]))
            yield of.declared(f"Interface, {kind[:-1]} `{port['name']}`: {port['dtype']} [{shape}]", of.contract)
    yield Gap("user interface for the deployer, instructions for use (1g, 1h)", "the provider's own documents")


def _predecessor(of: _Evidence) -> Entries:
    found = of.facts["difference"]
    if found is not None:
        before = found["before"]
        yield of.verified(f"It follows version {before['version']}, {before['digest']}")
    else:
        yield Gap("relation to previous versions (1a)", "name the release before with `--previous`")


def _development(of: _Evidence) -> Entries:
    source = of.facts["source"]
    named = source["reference"] or source["uri"]
    yield of.declared(
        f"The model was registered as `{named}`; its files have the digest {source['tree']}", of.provenance
    )
    if publisher := of.made["publisher"]:
        yield of.measured(f"The source was signed by its publisher, {publisher['signer']} ({publisher['form']})")
    yield from of.from_card("base_models", "Pre-trained model used", "use of pre-trained systems (2a)")
    for node in of.made["nodes"]:
        if node["step"] == "export":
            tools = ", ".join(f"{name} {version}" for name, version in sorted(node["tools"].items()))
            yield of.measured(f"It was converted {node['title']} with {tools}")
        if node["step"] == "graph":
            count = f", {node['parameters']} parameters" if node.get("parameters") else ""
            yield of.measured(f"The graph has {node['title']}{count}", of.contract)
    if of.made["builder"]:
        yield of.declared(f"It was built by {of.made['builder']}", of.provenance)
    level = (of.made["confinement"] or {}).get("level")
    if level:
        yield of.measured(f"The model was opened only in confinement ({level})")
    yield from of.from_card("datasets", "Data set", "data: origin, scope, characteristics, labelling, cleaning (2d)")
    yield Gap("design choices, assumptions, optimisation goals (2b)", "the provider's own documents")
    yield Gap("human oversight measures (2e)", "the provider's own documents, or a section of the model card")
    yield from _validation(of)
    yield from _security(of)


def _validation(of: _Evidence) -> Entries:
    rows = [row for row in of.facts["parity"] if row["output"] is not None]
    for row in rows:
        yield of.measured(
            f"Target {row['target']}, output `{row['output']}`: {row['cases']} cases compared with the registered "
            f"model, largest difference {row['max_abs']:.3g}, {row['unequal']} unequal elements"
        )
    if not rows:
        yield Gap("validation and testing procedures and results (2g)", "provenance of a build, signed with the bundle")
    for cell in of.facts["conformance"]:
        yield of.measured(
            f"Conformance on {cell['runtime']} {cell['version']} ({cell['device']}): {cell['outcome']}", of.conformance
        )
    if not of.facts["conformance"]:
        yield Gap("test runs on the runtimes that are promised (2g)", "`packager conform`, then `packager attest`")


def _security(of: _Evidence) -> Entries:
    found = of.facts["verification"]
    yield of.verified(f"Every file is covered by signed statements of {', '.join(found['signers'])}")
    for check in found["checks"]:
        yield of.verified(f"Check `{check['check']}`: {check['detail']}")
    policy = of.facts["policy"]
    if policy is not None:
        held = ", ".join(policy["held"])
        yield of.verified(f"Policy `{policy['profile']}` allows the bundle; rules that hold: {held}")
    else:
        yield Gap("cybersecurity measures (2h): no policy was applied", "`--policy release`")
    advisories = of.facts["advisories"]
    if advisories is None:
        yield Gap("known vulnerabilities of its software (2h)", "`packager vulndb import`, then write it again")
    else:
        count, database = len(advisories["hits"]), advisories["database"]
        yield of.verified(
            f"{count} of its locked packages' versions are covered by a known advisory, by a database of "
            f"{database['advisories']} advisories",
            database["digest"],
        )


def _functioning(of: _Evidence) -> Entries:
    yield from of.from_card("limitations", "Limitation", "capabilities and limitations in performance (3)")
    yield from of.from_card("risks", "Foreseeable risk", "foreseeable unintended outcomes and sources of risk (3)")
    for takes in of.facts["interface"]["takes"]:
        yield of.measured(f"Input data: {takes}", of.contract)
    yield Gap("human oversight measures during operation (3)", "the provider's own documents")


def _metrics(of: _Evidence) -> Entries:
    stated = of.about["metrics"]
    for item in stated:
        part = f" on {item['slice']}" if item.get("slice") else ""
        yield of.declared(f"{item.get('type')}{part}: {item.get('value')}")
    for name, item in sorted((of.facts["accuracy"] or {}).items()):
        reached = f"{item['metric']} {item['target']} (source {item['source']}) over {item['rows']} rows"
        yield of.measured(f"Accuracy on the data that the recipe names: {name}: {reached}, bound {item['bound']}")
    if not stated and not of.facts["accuracy"]:
        yield Gap("performance metrics and why they are appropriate (4)", "`model-index` in the card's front matter")


def _changes(of: _Evidence) -> Entries:
    found = of.facts["difference"]
    yield from _predecessor(of)
    for change in found["changes"] if found else ():
        yield of.verified(f"Changed ({change['level']}): {change['area']} {change['subject']}: {change['message']}")
    yield Gap("changes by the provider through the life cycle, beyond these two versions (6)", "earlier dossiers")


def _standards(of: _Evidence) -> Entries:
    yield of.verified("Signatures: DSSE in Sigstore bundles; statements: in-toto, SLSA provenance v1")
    if of.sbom:
        yield of.verified("Bill of materials: CycloneDX 1.6", of.sbom)
    yield Gap("harmonised standards applied in full or in part (7)", "the provider's own list")


def _outside(text: str, remedy: str = "the provider's own documents") -> Callable[[_Evidence], Entries]:
    def fill(of: _Evidence) -> Entries:
        yield Gap(text, remedy)

    return fill


# Annex XI, section 1


def _model(of: _Evidence) -> Entries:
    yield from of.from_card("task", "Task", "tasks that the model performs (1a)")
    yield from of.from_card("intended_use", "Use", "kinds of systems that it can be integrated in (1a)")
    yield Gap("acceptable use policies (1b)", "the provider's own documents")
    yield Gap("date of release (1c)", "the registry or signature that carries a time stamp")
    bundle = of.facts["bundle"]
    yield of.verified(f"It is distributed as the OCI artifact {bundle['digest']}")
    for node in of.made["nodes"]:
        if node["step"] == "graph" and node.get("parameters"):
            yield of.measured(f"Number of parameters: {node['parameters']}", of.contract)
    for kind in ("inputs", "outputs"):
        for port in of.facts["interface"][kind]:
            yield of.declared(f"Format of {kind}: `{port['name']}` {port['dtype']}", of.contract)
    if of.about["licence"]:
        yield of.declared(f"Licence: {of.about['licence']}")
    else:
        yield Gap("licence (1f)", "`license` in the recipe")


def _process(of: _Evidence) -> Entries:
    for target in of.facts["targets"]:
        yield of.declared(f"Integration: {target['runtime']} {target['versions'] or ''}", of.contract)
    yield Gap("design and training process, methodologies, key choices (2b)", "the provider's own documents")
    yield from of.from_card("datasets", "Training data", "data used for training, testing, validation (2c)")
    yield Gap("computational resources of training (2d), energy consumption (2e)", "the provider's own records")


_FORMS: Mapping[Form, tuple[tuple[str, str, Callable[[_Evidence], Entries]], ...]] = {
    "annex-iv": (
        ("1", "General description", _general),
        ("2", "Elements and development", _development),
        ("3", "Monitoring, functioning and control", _functioning),
        ("4", "Appropriateness of performance metrics", _metrics),
        ("5", "Risk management system", _outside("the risk management system of Article 9 (5)")),
        ("6", "Changes through the life cycle", _changes),
        ("7", "Standards", _standards),
        ("8", "Declaration of conformity", _outside("a copy of the EU declaration of conformity (8)")),
        (
            "9",
            "Post-market monitoring",
            _outside(
                "the post-market monitoring plan (9)", "the provider's plan; `packager serve` exports the counters"
            ),
        ),
    ),
    "gpai": (("1", "General description", _model), ("2", "Elements and development", _process)),
}

# as text


def _markdown(dossier: Dossier) -> str:
    rows = [f"# {_TITLES[dossier.form]}: {_cell(dossier.name)} {_cell(dossier.version)}", "", _cell(dossier.digest), ""]
    rows += [_summary(dossier), ""]
    for section in dossier.sections:
        rows += [f"## {section.number}. {section.title}", ""]
        sentences = [item for item in section.entries if isinstance(item, Sentence)]
        if sentences:
            rows += ["| statement | mark | evidence |", "| --- | --- | --- |"]
            rows += [f"| {_cell(item.text)} | {item.mark} | {_cell(item.evidence or 'none')} |" for item in sentences]
            rows.append("")
        gaps = [item for item in section.entries if isinstance(item, Gap)]
        rows += [f"- **Gap**: {_cell(item.text)}. To fill: {_cell(item.remedy)}." for item in gaps]
        rows += [""] if gaps else []
    return "\n".join(rows).rstrip() + "\n"


def _summary(dossier: Dossier) -> str:
    counts = dossier.counts
    marked = ", ".join(f"{counts[mark]} {mark}" for mark in MARKS)
    return (
        f"{marked}; {counts['gaps']} gaps. *Declared* is the publisher's word, *measured* was recorded by a signed "
        "build or test run, *verified* was checked when this was written. Evidence is a digest."
    )


def _cell(text: str) -> str:
    """Return text that stays one cell of a table and no other Markdown or HTML."""
    plain = line(text.replace("\n", " "))
    for sign in "\\`*_|<>[]":
        plain = plain.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return plain


def _html(dossier: Dossier, style_sheet: str) -> str:
    title = f"{_TITLES[dossier.form]}: {dossier.name} {dossier.version}"
    sections = "".join(_section(section) for section in dossier.sections)
    summary = escape(_summary(dossier).replace("*", ""))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{style_sheet}</style></head><body><header><h1>{escape(title)}</h1>"
        f"<p><code>{escape(dossier.digest)}</code></p><p>{summary}</p></header><main>{sections}</main></body></html>\n"
    )


def _section(section: Section) -> str:
    rows = "".join(
        f"<tr><td>{escape(item.text.replace(chr(10), ' '))}</td><td>{item.mark}</td>"
        f"<td><code>{escape(item.evidence or 'none')}</code></td></tr>"
        for item in section.entries
        if isinstance(item, Sentence)
    )
    table = (
        f'<table><thead><tr><th scope="col">statement</th><th scope="col">mark</th><th scope="col">evidence</th></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
        if rows
        else ""
    )
    gaps = "".join(
        f"<li><span class='badge unknown'>gap</span> {escape(item.text)} "
        f"<small>to fill: {escape(item.remedy)}</small></li>"
        for item in section.entries
        if isinstance(item, Gap)
    )
    listed = f"<ul>{gaps}</ul>" if gaps else ""
    return f"<section><h2>{section.number}. {escape(section.title)}</h2>{table}{listed}</section>"
