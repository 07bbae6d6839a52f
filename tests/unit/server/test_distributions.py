# SPDX-License-Identifier: Apache-2.0
"""PSI and KS are those of scipy on real data, distributions keep no row, and gauges follow what is served."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import prometheus_client
import pytest
from scipy.special import rel_entr
from scipy.stats import chi2, ks_2samp
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from packager.server.telemetry import distribution_file as documents
from packager.server.telemetry.distributions import (
    LEAST,
    Distribution,
    Tally,
    compare,
    describe_numbers,
    describe_texts,
    measure_psi,
    psi_by_chance,
)
from packager.server.telemetry.reference_drift import ReferenceDrift

CANCER = load_breast_cancer()


def tallied(about: Distribution, values: Any) -> Tally:
    tally = Tally(about)
    for value in values:
        tally.add(value)
    return tally


def halves(column: Any) -> tuple[Any, Any]:
    order = np.random.default_rng(1).permutation(len(column))
    return column[order[: len(order) // 2]], column[order[len(order) // 2 :]]


def columns() -> Iterator[tuple[str, Any]]:
    for found in (CANCER, load_diabetes(), load_wine()):
        for index, name in enumerate(found.feature_names):
            yield str(name), found.data[:, index]


def test_ks_is_scipy_s_but_for_one_bin() -> None:
    """At most the exact statistic, and less by at most the share of the reference's largest bin."""
    seen = 0
    for name, column in columns():
        before, after = halves(column)
        about = describe_numbers(name, before.tolist())
        for now in (after, after * 1.3, after + column.std()):
            found, exact = compare(tallied(about, now.tolist())), ks_2samp(before, now).statistic
            most = max(about.counts) / about.present
            assert found.ks is not None and exact - most - 1e-6 <= found.ks <= exact + 1e-6, name
            seen += 1
    assert seen > 150


def test_psi_is_the_sum_of_both_relative_entropies() -> None:
    """`scipy.special.rel_entr` of the same shares, in both directions."""
    for name, column in columns():
        before, after = halves(column)
        edges = np.quantile(before, np.arange(0.1, 1, 0.1))
        counts = [np.bincount(np.searchsorted(edges, side), minlength=10) for side in (before, after * 1.2)]
        shares = [np.maximum(count / count.sum(), 1e-4) for count in counts]
        exact = sum(rel_entr(*pair).sum() for pair in (shares, shares[::-1]))
        assert measure_psi(counts[0].tolist(), counts[1].tolist()) == pytest.approx(exact, rel=1e-9), name


def test_a_shuffled_half_is_stable_and_a_shifted_one_is_not() -> None:
    over = []
    for name, column in columns():
        before, after = halves(column)
        about = describe_numbers(name, before.tolist())
        same, moved = (compare(tallied(about, now.tolist())) for now in (after, after + column.std()))
        over += [name] if same.psi > same.chance else []
        if len(set(column)) > 10:
            assert moved.psi > max(0.25, moved.chance), name
    assert len(over) <= 1, f"of {len([*columns()])} columns, one in a thousand is over by chance: {over}"


def test_what_chance_gives_is_chi_squared() -> None:
    """The quantile is scipy's within two percent, and draws of one population exceed it about never."""
    for bins in (2, 5, 10, 11, 50):
        exact = chi2.ppf(0.999, bins - 1) * (1 / 300 + 1 / 200)
        assert psi_by_chance(bins, 300, 200) == pytest.approx(exact, rel=0.02 if bins > 2 else 0.05)
    generator = np.random.default_rng(3)
    over = 0
    for _ in range(500):
        about = describe_numbers("x", generator.normal(size=400).tolist())
        found = compare(tallied(about, generator.normal(size=300).tolist()))
        over += found.psi > found.chance
    assert over <= 5


def test_a_distribution_names_nothing_rare() -> None:
    """Few persons share a bin or a category with none; the one who earns most is in no edge."""
    generator = random.Random(5)
    cities = ["Berlin"] * 200 + ["Paris"] * 60 + ["Rome"] * (LEAST - 1) + ["Anna Schmidt, Hauptstrasse 1"]
    found = describe_texts("city", cities)
    assert found.values == {"Berlin": 200, "Paris": 60} and found.other == LEAST
    earned = [generator.lognormvariate(10, 1) for _ in range(997)] + [9e9, -1.0, None]
    pay = describe_numbers("pay", earned)
    assert pay.missing == 1 and sum(pay.counts) == 999 and len(pay.edges) > 50
    assert all(not count or count >= LEAST for count in pay.counts)
    assert min(pay.edges) > min(v for v in earned[:997] if v) and max(pay.edges) < max(v for v in earned[:997] if v)
    texts = describe_texts("note", [f"{'x' * (number % 90)} secret {number}" for number in range(500)])
    assert texts.kind == "text" and "secret" not in json.dumps(texts.to_json())
    few = describe_numbers("few", [1.0, 2.0, 3.0])
    assert not few.edges and few.counts == (3,) and not few.comparable


def test_equal_data_give_equal_bytes_in_any_order() -> None:
    def document(rows: Any) -> bytes:
        makers = [
            lambda bins, i=i: describe_numbers(f"x[{i}]", [row[i] for row in rows], bins) for i in range(len(rows[0]))
        ]
        return json.dumps(documents.describe("sha256:0", len(rows), makers, []).to_json()).encode()

    made = document(CANCER.data.tolist())
    shuffled = CANCER.data[np.random.default_rng(2).permutation(len(CANCER.data))]
    assert document(shuffled.tolist()) == made
    read = documents.Distributions.from_json(json.loads(made))
    assert json.dumps(read.to_json()).encode() == made and read.left_out == 0
    wide = np.tile(CANCER.data, (1, 20))  # 600 columns
    large = document(wide.tolist())
    assert len(large) <= documents.MOST_BYTES
    left = documents.Distributions.from_json(json.loads(large))
    assert left.left_out + len(left.inputs) == 600 and left.left_out > 0


def test_values_that_many_share_have_edges_of_their_own() -> None:
    """A column that is always 0 has moved when it is always something else, above or below."""
    about = describe_numbers("flag", [0.0] * 100)
    for other in (-1.0, 1.0, 0.5):
        assert compare(tallied(about, [other] * 50)).psi > 1
    assert compare(tallied(about, [0.0] * 50)).psi == 0
    steps = describe_numbers("step", [0.1 * (number % 5) for number in range(500)])
    floats = np.array([0.1 * (number % 5) for number in range(300)], np.float32)
    assert compare(tallied(steps, floats.tolist())).psi == 0, "0.1 of float32 is 0.1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "expected format 1"),
        ({"more": 1}, "unknown key"),
        ({"inputs": [{"name": "x", "kind": "number", "missing": 0, "edges": [2, 1], "counts": [1, 1, 1]}]}, "grow"),
        ({"inputs": [{"name": "x", "kind": "number", "missing": 0, "edges": [1], "counts": [1]}]}, "one count more"),
        ({"inputs": [{"name": "x", "kind": "number", "missing": -1, "edges": [], "counts": [1]}]}, "a count"),
        ({"inputs": [{"name": "x", "kind": "number", "missing": 0, "edges": ["1"], "counts": [1, 1]}]}, "numbers"),
        ({"inputs": [{"name": "x", "kind": "blob", "missing": 0, "edges": [], "counts": [1]}]}, "one of"),
        (
            {"inputs": [{"name": "x", "kind": "category", "missing": 0, "values": [], "other": 0}]},
            "not an object",
        ),
        ({"inputs": 2 * [{"name": "x", "kind": "number", "missing": 0, "edges": [], "counts": [1]}]}, "twice"),
        ({"inputs": {}}, "lists"),
    ],
)
def test_another_form_is_refused(change: Any, words: str) -> None:
    value = {"format": 1, "data": "sha256:0", "rows": 1, "least": 10, "left_out": 0, "inputs": [], "outputs": []}
    documents.Distributions.from_json(value)
    with pytest.raises(ValueError, match=words):
        documents.Distributions.from_json(value | change)


def served(known: documents.Distributions, batches: Any) -> dict[str, float]:
    """What the gauges say after requests, each a tenth of a second after the one before."""
    registry, times = prometheus_client.CollectorRegistry(), iter(range(10**6))
    drift = ReferenceDrift(known, registry, clock=lambda: 0.1 * next(times))
    for feeds, results in batches:
        drift.count(feeds, results)
    drift.refresh()
    return {
        f"{sample.name.removeprefix('packager_server_drift_')} {sample.labels['column']}": sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def test_gauges_follow_what_is_served() -> None:
    """The same rows as from a file give the same figures, a shift is seen, and an old one fades."""
    data = CANCER.data[:, :3].astype(np.float32)
    before, after = halves(data)
    known = documents.describe(
        "sha256:0",
        len(before),
        [lambda bins, i=i: describe_numbers(f"x[{i}]", before[:, i].tolist(), bins) for i in range(3)],
        [lambda bins: describe_texts("label", ["yes"] * 90 + ["no"] * 60, bins)],
    )
    labels = {"label": np.array(["yes", "no", "new"] * 30, object)}
    same = served(known, [({"x": after[:250]}, labels)] * 3)
    for index in range(3):
        exact = compare(tallied(known.inputs[index], after[:250, index].tolist()))
        assert same[f"psi x[{index}]"] == pytest.approx(exact.psi, rel=1e-9)
        assert same[f"ks x[{index}]"] == pytest.approx(exact.ks, rel=1e-9)
        assert same[f"psi x[{index}]"] < 0.1
        assert same[f"values x[{index}]"] == 750
    assert same["psi label"] > 0.25 and "ks label" not in same
    moved = after + data.std(0)
    assert served(known, [({"x": moved[:250]}, {})] * 3)["psi x[0]"] > 0.25
    back = [({"x": moved[:250]}, {})] * 40 + [({"x": after[:250]}, {})] * 200
    faded = served(known, back)
    assert faded["psi x[0]"] < 0.1 and faded["values x[0]"] <= 10_000
    assert not served(known, [({"x": after[:50]}, {})]), "too few values say nothing"


def test_a_sample_costs_little_whatever_is_sent() -> None:
    """Not every request is counted, and of a long one only the first rows."""
    known = documents.describe("sha256:0", 100, [lambda bins: describe_numbers("x", list(range(1000)), bins)], [])
    registry = prometheus_client.CollectorRegistry()
    drift = ReferenceDrift(known, registry, clock=lambda: 0.0)
    for _ in range(100):
        drift.count({"x": np.arange(100_000.0)}, {})
    drift.refresh()
    (value,) = (s.value for m in registry.collect() for s in m.samples if s.name.endswith("drift_values"))
    assert value == 256
