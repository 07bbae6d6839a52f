# SPDX-License-Identifier: Apache-2.0
"""Write the plain files of a bundle once: a directory that holds this very bundle is checked and left as it is."""

from __future__ import annotations

from pathlib import Path

from packager.bundle.bundle import Bundle, read
from packager.bundle.readers import UnpackedTree, blob_path
from packager.events import OnEvent, ignore
from packager.formats.intoto import METADATA_DIRECTORY, MODEL_SIGNING_PREDICATE
from packager.transport import copy
from packager.trust.verify import check_files, list_statements


def unpack_once(bundle: Bundle, directory: Path, on_event: OnEvent = ignore) -> None:
    """Write the files of `bundle` to `directory`, complete or not at all: an init container may run twice.

    Raises UsageError for a directory with something else in it, IntegrityError for what is damaged here or there.
    """
    bundle.medium.check_extent(bundle.tree, bundle.held)
    if not _is_there(bundle, directory, on_event):
        copy.unpack(bundle, directory, on_event)


def _is_there(bundle: Bundle, directory: Path, on_event: OnEvent) -> bool:
    """Say whether `directory` holds this very bundle, every byte of it. Raises IntegrityError if that is damaged."""
    if not (directory / METADATA_DIRECTORY).is_dir():
        return False
    found = read(UnpackedTree(directory))
    if found.digest != bundle.digest:
        return False
    check_files(found, on_event)
    return True


def find_model_signatures(bundle: Bundle, directory: Path) -> list[Path]:
    """Return where the OpenSSF Model Signing statements of an unpacked bundle are, for `model_signing verify`."""
    found = [item.digest for item in list_statements(bundle) if item.predicate_type == MODEL_SIGNING_PREDICATE]
    return [directory / METADATA_DIRECTORY / blob_path(digest) for digest in found]
