# SPDX-License-Identifier: Apache-2.0
"""Manifests and files that are not what was signed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from packager import canonical
from packager.bundle.bundle import RECORD
from packager.bundle.readers import blob_path
from packager.errors import (
    ForbiddenFormatError,
    MalformedError,
    WrongContentError,
    WrongSubjectError,
)
from packager.transport import copy as transport
from packager.trust.verify import require_signature
from tests.attacks.registry import fails_with, variants
from tests.attacks.stage import JSON, Attempt, Stage, put

# manifests


def _manifest(change: Callable[[JSON], object], *, follow: bool = False) -> Callable[[Stage, Path], Attempt]:
    return lambda stage, folder: stage.rewritten(folder, change, follow=follow)


def _layer(**changes: object) -> Callable[[JSON], object]:
    return lambda manifest: manifest["layers"][0].update(changes)


variants(
    MalformedError,
    "Two readers of this JSON may read two things.",
    duplicate_key_in_the_manifest=_manifest(lambda m: json.dumps(m).encode().replace(b"{", b'{"schemaVersion":1,', 1)),
    nan_in_the_manifest=_manifest(lambda m: json.dumps(m | {"annotations": {"x": float("nan")}}).encode()),
    infinite_number_in_the_manifest=_manifest(
        lambda m: json.dumps(m).encode().replace(b'"schemaVersion": 2', b'"schemaVersion": 1e999')
    ),
    deep_nesting_in_the_manifest=_manifest(lambda m: b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
)
variants(
    MalformedError,
    "A size is a whole number of bytes that every reader can hold.",
    size_of_two_to_the_63=_manifest(_layer(size=2**63)),
    negative_size=_manifest(_layer(size=-1)),
    size_that_is_text=_manifest(_layer(size="1")),
)
variants(
    MalformedError,
    "A digest is SHA-256 in 64 lower-case digits; nothing else names a blob.",
    digest_md5=_manifest(_layer(digest="md5:" + "0" * 32)),
    digest_empty=_manifest(_layer(digest="")),
    digest_upper_case=_manifest(_layer(digest="sha256:" + "A" * 64)),
    digest_short=_manifest(_layer(digest="sha256:" + "0" * 63)),
)
variants(
    MalformedError,
    "What is not understood may be critical.",
    unknown_field_in_the_manifest=_manifest(lambda m: m.update(critical=True)),
    unknown_schema_version=_manifest(lambda m: m.update(schemaVersion=3)),
)
variants(
    WrongSubjectError,
    "Equal meaning is not equal bytes; the identity is of the bytes.",
    spelled_differently=_manifest(lambda m: json.dumps(m, indent=1).encode()),
    spelled_differently_and_repointed=_manifest(lambda m: json.dumps(m, indent=1).encode(), follow=True),
)


@fails_with(MalformedError)
def unknown_format_version(stage: Stage, folder: Path) -> Attempt:
    """A bundle of a later format has rules that this reader does not know."""
    record = canonical.dump({**json.loads(stage.bundle.read(RECORD)), "format": 2})

    def change(manifest: JSON) -> None:
        for layer in manifest["layers"]:
            if layer["annotations"]["org.cncf.model.filepath"] == RECORD:
                text = layer["annotations"]["org.cncf.model.file.metadata+json"]
                layer["annotations"]["org.cncf.model.file.metadata+json"] = text.replace(
                    f'"size":{layer["size"]}', f'"size":{len(record)}'
                )
                layer |= {"digest": canonical.sha256(record), "size": len(record)}

    attempt = stage.rewritten(folder, change)
    index = json.loads((folder / "layout/index.json").read_bytes())
    (folder / "layout/index.json").write_bytes(json.dumps({**index, "manifests": index["manifests"][:1]}).encode())
    put(folder / "layout", record)
    return attempt


# files


def _tree(stage: Stage, folder: Path, change: Callable[[Path], object]) -> Attempt:
    transport.unpack(stage.signed(), folder / "tree")
    change(folder / "tree")
    return stage.shown(folder / "tree")


def _extra(name: str) -> Callable[[Stage, Path], Attempt]:
    def add(tree: Path) -> None:
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"x")

    return lambda stage, folder: _tree(stage, folder, add)


variants(
    WrongContentError,
    "A file that no signature covers must not be there, whatever its name.",
    extra_file=_extra("model/extra.py"),
    extra_git_folder=_extra(".git/config"),
    extra_git_attributes=_extra(".gitattributes"),
    extra_cache=_extra("__pycache__/model.pyc"),
    extra_desktop_file=_extra(".DS_Store"),
)


def _link(tree: Path) -> None:
    copy = tree.parent / "aside"
    shutil.move(tree / "model/model.onnx", copy)
    (tree / "model/model.onnx").symlink_to(copy)


variants(
    WrongContentError,
    "What was signed is a regular file of mode 0644 with these bytes, in exactly these folders.",
    file_missing=lambda stage, folder: _tree(stage, folder, lambda t: (t / "model/model.onnx").unlink()),
    file_changed=lambda stage, folder: _tree(stage, folder, lambda t: (t / "model/model.onnx").write_bytes(b"grapH")),
    file_renamed=lambda stage, folder: _tree(
        stage, folder, lambda t: (t / "model/model.onnx").rename(t / "model/Model.onnx")
    ),
    mode_changed=lambda stage, folder: _tree(stage, folder, lambda t: (t / "model/model.onnx").chmod(0o777)),
    set_user_id=lambda stage, folder: _tree(stage, folder, lambda t: (t / "model/model.onnx").chmod(0o4644)),
    file_became_a_link=lambda stage, folder: _tree(stage, folder, _link),
    empty_folder_added=lambda stage, folder: _tree(stage, folder, lambda t: (t / "empty").mkdir()),
)


@fails_with(ForbiddenFormatError)
def program_inside(stage: Stage, folder: Path) -> Attempt:
    """Even a trusted signer cannot put a pickle into a bundle."""
    return stage.attempt(stage.signed(bundle=stage.make(files={"model/model.pkl": b"cos\nsystem\n."})), folder)


@fails_with(WrongContentError)
def swapped_after_the_check(stage: Stage, folder: Path) -> Attempt:
    """Time of check, time of use: the copy that is used is hashed while it is made, so the swap is seen."""
    transport.save(stage.signed(), folder / "layout")

    def show() -> object:
        bundle = stage.shown(folder / "layout").show()
        require_signature(bundle, stage.trusting(), now=stage.now)
        path = folder / "layout" / blob_path(dict(bundle.tree)["model/model.onnx"].digest)
        path.chmod(0o644)
        path.write_bytes(b"grapH")
        transport.unpack(bundle, folder / "tree")
        return bundle

    return Attempt(show, stage.trusting(), stage.now)  # type: ignore[arg-type]
