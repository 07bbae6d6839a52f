# SPDX-License-Identifier: Apache-2.0
"""Hostile bundles end in our own errors, never in a crash: bytes mangled at random, and JSON that lies with right digests."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packager import canonical
from packager.bundle.bundle import RECORD, open_bundle
from packager.bundle.readers import blob_path
from packager.errors import PackagerError
from packager.formats import dsse, intoto, oci
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport import copy as transport
from packager.trust import keys
from packager.trust.keys import PrivateKey
from packager.trust.verify import Verification
from tests.support import bundles
from tests.support.breadth import examples
from tests.support.tampering import judge, no_store

KEY: PrivateKey = keys.generate_key("p256")
FUZZ = settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz")
    bundle = sign(bundles.make(Store(root / "store")), KEY)
    transport.save(bundle, root / "layout")
    transport.save(bundle, root / "file.bundle.tar")
    return root


def refuses_or_accepts(path: Path) -> Verification | PackagerError:
    """Anything but a verdict or one of our errors fails the test by escaping."""
    return judge(path, KEY.public)


edits = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=40), st.integers(0, 600)), min_size=1, max_size=4)


@FUZZ
@given(edits=edits)
def test_mangled_single_files(forms: Path, tmp_path: Path, edits: list[tuple[float, bytes, int]]) -> None:
    original = (forms / "file.bundle.tar").read_bytes()
    data = original
    for place, inserted, dropped in edits:
        at = int(place * len(data))
        data = data[:at] + inserted + data[at + dropped :]
    path = tmp_path / "x.bundle.tar"
    path.write_bytes(data)
    answer = refuses_or_accepts(path)
    assert data == original or not (isinstance(answer, Verification) and answer.ok and len(data) != len(original))


odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.just("sha256:" + "0" * 64),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a JSON document."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, child in children for inner in places(child, (*path, key)))]


def changed(value: Any, choose: int, new: Any, drop: bool) -> Any:
    """Replace or drop one member of a document."""
    path = places(value)[choose % len(places(value))]
    if not path:
        return new
    result = copy.deepcopy(value)
    holder = result
    for key in path[:-1]:
        holder = holder[key]
    if drop:
        del holder[path[-1]]
    else:
        holder[path[-1]] = new
    return result


def text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


def place_manifest(layout: Path, data: bytes) -> None:
    """Put a manifest with a right digest into a layout, and point the index at it alone."""
    digest = canonical.sha256(data)
    (layout / blob_path(digest)).write_bytes(data)
    entry = {"mediaType": oci.MANIFEST, "digest": digest, "size": len(data)}
    (layout / "index.json").write_bytes(text({"schemaVersion": 2, "manifests": [entry]}))


@FUZZ
@given(choose=st.integers(0, 500), new=odd, drop=st.booleans())
def test_manifests_that_lie(forms: Path, choose: int, new: Any, drop: bool) -> None:
    layout = forms / "layout"
    bundle = bundles_manifest(forms)
    place_manifest(layout, text(changed(json.loads(bundle), choose, new, drop)))
    answer = refuses_or_accepts(layout)
    assert not (isinstance(answer, Verification) and answer.ok), "no statement is about this manifest"


def bundles_manifest(forms: Path) -> bytes:
    return open_bundle(str(forms / "file.bundle.tar"), no_store).manifest


@FUZZ
@given(choose=st.integers(0, 500), new=odd, drop=st.booleans())
def test_records_that_lie(forms: Path, choose: int, new: Any, drop: bool) -> None:
    """`bundle.json` changed inside a manifest that fits it."""
    layout = forms / "layout"
    bundle = open_bundle(str(forms / "file.bundle.tar"), no_store)
    record = text(changed(bundle.load(RECORD), choose, new, drop))
    digest = canonical.sha256(record)
    (layout / blob_path(digest)).write_bytes(record)
    manifest = json.loads(bundle.manifest)
    for layer in manifest["layers"]:
        if layer["annotations"]["org.cncf.model.filepath"] == RECORD:
            metadata = json.loads(layer["annotations"]["org.cncf.model.file.metadata+json"])
            metadata["size"] = layer["size"] = len(record)
            layer["digest"] = digest
            layer["annotations"]["org.cncf.model.file.metadata+json"] = canonical.dump(metadata).decode()
    place_manifest(layout, text(manifest))
    answer = refuses_or_accepts(layout)
    assert not (isinstance(answer, Verification) and answer.ok)


@FUZZ
@given(choose=st.integers(0, 60), new=odd, drop=st.booleans())
def test_indexes_that_lie(forms: Path, choose: int, new: Any, drop: bool) -> None:
    bundle = open_bundle(str(forms / "file.bundle.tar"), no_store)
    layout = forms / "layout"
    (layout / "index.json").write_bytes(text(changed(json.loads(bundle.index()), choose, new, drop)))
    refuses_or_accepts(layout)


@FUZZ
@given(choose=st.integers(0, 60), new=odd, drop=st.booleans())
def test_envelopes_and_statements_that_lie(forms: Path, choose: int, new: Any, drop: bool) -> None:
    bundle = open_bundle(str(forms / "file.bundle.tar"), no_store)
    statement = intoto.bundle_statement(bundle.name, bundle.version, bundle.digest, bundle.tree)
    envelope = json.loads(KEY.sign(statement.to_bytes()).to_bytes())
    signed = text(changed(envelope, choose, new, drop))
    lying = KEY.sign(text(changed(json.loads(statement.to_bytes()), choose, new, drop))).to_bytes()
    for content, parse in (
        (signed, dsse.parse),
        (lying, lambda data: intoto.parse(dsse.parse(data).payload, limit=1 << 20)),
    ):
        try:
            parse(content)
        except ValueError:
            continue


@FUZZ
@given(data=st.binary(max_size=300))
def test_noise_is_no_bundle(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    assert isinstance(refuses_or_accepts(tmp_path / "x.tar"), PackagerError)
