# SPDX-License-Identifier: Apache-2.0
"""The public API: its names, which only grow within a major version, what they say of themselves, and that they do."""

from __future__ import annotations

import builtins
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from packager import api, events
from packager.errors import NegativeAnswerError, UsageError
from packager.store.store import Store
from packager.trust.keys import generate_key, save
from tests.support import deployments, pki

NAMES = {
    "packager.api": """
        Attested Blob BuildResult Bundle Check Contract Evidence Finding Installed Judgement Lock Measured
        PackagerError Port Project Promise Signer Statement Target Terms Tree Verdict Verification Verifier
        Workspace __version__ build_bundle check_compatibility copy_bundle import_bundle install_bundle
        judge_bundle lock_recipe open_bundle open_project open_signer read_schema sign_bundle translate_error
        utc_now verify_bundle
    """,
    "packager.api.recipes": """
        Change Edit InspectedModel RecipeDraft Replace apply_edits draft_recipe explain_level
        explain_unmoved_source find_model_files inspect_model measured_facts save_misses show_edits
    """,
    "packager.api.bundles": """
        AttachedStatement Change DeltaSize Difference Element Freed ListedBundle Pushed Referrer Removed
        SbomReport SbomScore SbomScoreCategory StoreCondition StoreSize check_files check_store collect_store compare_bundles convert_sbom
        export_bundle find_model_signatures list_bundles list_names list_statements list_tags list_unreadable
        measure_store open_delta open_extracted push_bundle read_evaluations read_origin remove_bundle
        report_sbom unpack_bundle write_delta
    """,
    "packager.api.signing": """
        Comparison FileDifference Gate ImageVerification KeyPair PrivateKey PromiseDraft Promotion PublicKey
        SignedImage attest_bundle create_key_pair draft_promise list_drafts load_private_key load_public_key
        open_bundle_to_sign open_gate prepare_legacy_signature promote_bundle read_predicate rebuild_bundle
        remove_signatures says_how_it_was_made sign_image verify_image
    """,
    "packager.api.trust": """
        Period Requirement Revocations Roots Trust TrustDraft TrustFile add_signatures describe_signers
        read_trust_file update_trust_file verify_model_files write_trust_file
    """,
    "packager.api.policies": """
        AdvisoryDatabase Profile RuleSettings RuleTest Vulnerabilities Waiver describe_rule describe_verdict
        draft_waivers explain_rule find_vulnerabilities format_verdict gather_facts import_advisories
        judge_facts list_profiles list_rules read_advisories read_profile run_rule_tests
    """,
    "packager.api.runtimes": """
        Arrival Cell Compatibility Device HostReport Outcome Probed Reach Reason Row Site Span Step Table
        describe_host find_row format_operator_report join_cells list_broken_operators list_remarks
        list_runtimes list_shipped_versions probe_runtime read_fleet read_table report_compatibility
        report_host run_operator_tests sign_table update_table write_site
    """,
    "packager.api.deploy": """
        Answer BatchAnswers ColumnDrift Conversation Drift DriftReport DriftVerdict Installation Knob KnobSources Override Pipeline
        RegisteredModel RenderOption Rendering Resolved
        Service ServiceLog Setting Status TritonDeployment TritonModel answer_rows chat_with_bundle
        chat_with_installation compare_knobs describe_knob hold_secrets is_installation list_render_options
        list_renderers measure_drift read_knob_schema read_pipeline read_status register_model remove_adapter render_ensemble render_files render_triton
        roll_back uninstall upgrade_bundle
    """,
    "packager.api.conformance": """
        Endpoint attach_results count_processors format_result merge_results run_conformance sign_result
        write_report
    """,
    "packager.api.releases": """
        CiFile Model ModelRow Problem Receiver ReleaseFile Rows TaskRow Totals describe_release format_plan
        format_release list_secrets read_release_file release_models render_ci_file watch_registries write_report
    """,
    "packager.api.performance": """
        Curves Plan Subject Tuned draw_curves format_curves format_values measure_curves open_subject tune_knobs
    """,
    "packager.api.passports": """
        Dossier Form Passport make_dossier make_passport
    """,
}
"""The public names by module: within a major version none goes."""
PASSPHRASE = b"correct horse"
RECIPE = """
name: cnn
version: 1.2.3
source: ./model/model.pt2
inputs:
  image: {dtype: float32, shape: [batch, 1, 8, 8], range: [0, 1]}
"""


PUBLIC = [(module, name) for module, names in NAMES.items() for name in names.split()]
KNOWN = {
    "Any",
    "Callable",
    "Iterable",
    "Literal",
    "Mapping",
    "None",
    "OnEvent",
    "Path",
    "Sequence",
    "datetime",
    "date",
    "JSON",
}


LIBRARY = {
    "AbstractContextManager",
    "Iterator",
    "State",
    "ClassVar",
    "TextIO",
    "timedelta",
    "Level",
    "Kind",
    "Needs",
    "Limit",
    "Reproducibility",
    "Event",
}
INTERNAL = """
    BuildResult.distributions Bundle.descriptor Bundle.medium ColumnDrift.role Contract.base Contract.generation Contract.pipeline Curves.comparison Curves.rounds
    Dossier.sections KnobSources.read Lock.dependencies Lock.environment Measured.lengths Measured.limit
    Model.settings PrivateKey.key PrivateKey.repeats PrivateKey.sign Project.here Project.memo Project.open
    Project.recipe Project.runner PublicKey.key PublicKey.made PublicKey.verifies Signer.sign Table.kernels
    Table.kernels_of TritonModel.repository Trust.timestamping TrustDraft.content Tuned.after Tuned.before Tuned.gain
    Tuned.search Verifier.remember Workspace.open_remote Workspace.open_store Workspace.registry_settings
    Workspace.tables
"""
"""Members that are no part of the API: stores, media, runners, keys in memory, signed bytes, loads."""


@pytest.mark.parametrize("module", NAMES)
def test_no_name_is_missing_and_none_is_new_by_accident(module: str) -> None:
    assert sorted(importlib.import_module(module).__all__) == sorted(NAMES[module].split())


def test_every_module_is_listed() -> None:
    found = {f"packager.api.{info.name}" for info in pkgutil.iter_modules(api.__path__) if info.name[0] != "_"}
    assert found | {"packager.api"} == set(NAMES)


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda text: text.removeprefix("packager."))
def test_a_name_says_what_it_is(module: str, name: str) -> None:
    """Functions have types that are public themselves, and say what they raise; records say what they hold."""
    one = getattr(importlib.import_module(module), name)
    if inspect.isclass(one):
        assert one.__doc__ and not one.__doc__.startswith(f"{name}(")
        silent = [key for key, member in members(one) if not member.__doc__ and key != "to_json"]
        assert not silent
    if not inspect.isfunction(one):
        return
    assert one.__doc__ and (name == "utc_now" or re.search("[Rr]aises", one.__doc__)), one.__doc__
    found = inspect.signature(one)
    texts = [parameter.annotation for parameter in found.parameters.values()] + [found.return_annotation]
    assert all(isinstance(text, str) for text in texts)
    words = {word for text in texts for word in re.findall(r"[A-Za-z_]\w*", re.sub(r"'[^']*'|\"[^\"]*\"", "", text))}
    unknown = words - KNOWN - LIBRARY - {public for _, public in PUBLIC} - set(dir(builtins))
    assert not unknown, f"no public name: {unknown}"


def test_what_a_record_holds_is_public_or_is_known_to_be_internal() -> None:
    """The command line uses no member whose type has no name here, but those of the standard library."""
    records = {name: getattr(importlib.import_module(module), name) for module, name in PUBLIC}
    known = {*KNOWN, *LIBRARY, *records, *(one.__name__ for one in records.values() if inspect.isclass(one))}
    internal = set()
    for name, record in records.items():
        if not inspect.isclass(record):
            continue
        texts = {
            key: [str(text)] for key, text in inspect.get_annotations(record).items() if not issubclass(record, tuple)
        }
        for key, member in members(record):
            found = inspect.signature(member)
            shown = [one.annotation for one in found.parameters.values() if one.annotation is not one.empty]
            texts[key] = [str(text) for text in (*shown, found.return_annotation)]
        for key, shown in texts.items():
            words = {word.rpartition(".")[2] for text in shown for word in re.findall(r"[A-Za-z_][\w.]*", text)}
            if not key.startswith("_") and words - known - set(dir(builtins)):
                internal.add(f"{name}.{key}")
    assert internal == set(INTERNAL.split())


def members(kind: type) -> Iterator[tuple[str, Any]]:
    for key, value in vars(kind).items():
        member = value.__func__ if isinstance(value, classmethod | staticmethod) else getattr(value, "fget", value)
        if not key.startswith("_") and inspect.isfunction(member):
            yield key, member


def test_nothing_is_imported_before_it_is_used() -> None:
    modules = ", ".join(NAMES)
    code = f"import sys, {modules}; print(*(name for name in sys.modules if name.startswith('packager.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {
        *NAMES,
        "packager.api._lazy",
        "packager.errors",
        "packager.escape",
        "packager.events",
        "packager.records",
    }


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute `verify_bundel`"):
        getattr(api, "verify_bundel")  # noqa: B009 - a type checker would find it


@pytest.fixture
def workspace(tmp_path: Path) -> api.Workspace:
    return api.Workspace.default(tmp_path / "store")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    save(generate_key("p256"), tmp_path / "release.pem", tmp_path / "release.pub", PASSPHRASE)
    return tmp_path


def signed(bundle: api.Bundle, keys: Path, output: Path | None = None) -> api.Bundle:
    return api.sign_bundle(bundle, api.open_signer(f"key:{keys / 'release.pem'}", lambda: PASSPHRASE), output)


def test_twelve_lines_build_and_verify_a_model(cnn: Path, tmp_path: Path, keys: Path, workspace: api.Workspace) -> None:
    shutil.copytree(cnn, tmp_path / "model")
    (tmp_path / "bundle.yaml").write_text(RECIPE)
    (tmp_path / "gate.yaml").write_text("rules: [formats, provenance]\n")
    project = api.open_project(tmp_path / "bundle.yaml", workspace)
    result = api.build_bundle(project, api.lock_recipe(project))
    assert result.verdict.ok and result.bundle
    bundle = signed(result.bundle, keys)
    verification = api.verify_bundle(bundle, api.Verifier.from_keys([keys / "release.pub"], api.utc_now()))
    verification.raise_for_failure()
    assert api.judge_bundle(bundle, tmp_path / "gate.yaml", verification).ok
    assert api.check_compatibility(bundle, "onnxruntime", "1.20.0").outcome == "ok"
    assert api.copy_bundle(bundle, tmp_path / "cnn.bundle.tar") > 0
    assert api.open_bundle(tmp_path / "cnn.bundle.tar").digest == api.open_bundle("cnn:1.2.3", workspace).digest


def test_a_bundle_is_installed_only_if_it_is_trusted(tmp_path: Path, keys: Path, workspace: api.Workspace) -> None:
    wheel = deployments.installable("kleines", "1.0", {"kleines/__init__.py": b""})
    carrier = deployments.carrier(Store(tmp_path / "built"), kleines=wheel)
    bundle = signed(carrier, keys, tmp_path / "carrier.bundle.tar")
    save(generate_key("p256"), tmp_path / "stranger.pem", tmp_path / "stranger.pub", PASSPHRASE)
    stranger = api.Verifier.from_keys([tmp_path / "stranger.pub"], api.utc_now())
    with pytest.raises(NegativeAnswerError):
        api.install_bundle(bundle, tmp_path / "site", stranger, workspace)
    assert not (tmp_path / "site").exists()
    verifier = api.Verifier.from_keys([keys / "release.pub"], api.utc_now())
    done = api.install_bundle(bundle, tmp_path / "site", verifier, workspace, knobs={"batch.max": "4"})
    assert (done.name, done.version, done.digest) == (bundle.name, bundle.version, bundle.digest)
    assert api.open_bundle(tmp_path / "site").digest == bundle.digest


def test_a_certificate_that_no_verifier_accepts_does_not_sign(tmp_path: Path) -> None:
    """The check of a certificate belongs to the library, so that no caller can forget it."""
    ended = pki.NOW - pki.DAY
    leaf = pki.root().issue("leaf", purposes=[pki.CODE_SIGNING], start=pki.NOW - 9 * pki.DAY, end=ended)
    key, certificate = leaf.save(tmp_path, "leaf")
    with pytest.raises(UsageError, match="had expired"):
        api.open_signer(f"certificate:{certificate}?key={key}")


def test_progress_is_reported_to_the_callback(tmp_path: Path, keys: Path) -> None:
    bundle = signed(deployments.carrier(Store(tmp_path / "built")), keys, tmp_path / "carrier.bundle.tar")
    seen: list[Any] = []
    verifier = api.Verifier.from_keys([keys / "release.pub"], api.utc_now())
    assert api.verify_bundle(bundle, verifier, seen.append).ok
    assert seen and all(type(record).__module__ == events.__name__ for record in seen)


@pytest.mark.parametrize("reference", ["digits:1.4.0", "oci://registry.example/digits:1.4.0"])
def test_what_needs_a_workspace_says_so(reference: str) -> None:
    with pytest.raises(UsageError):
        api.open_bundle(reference)


def test_the_environment_is_read_in_one_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PACKAGER_STORE", str(tmp_path / "there"))
    assert api.Workspace.default().store == tmp_path / "there"
    assert api.Workspace(tmp_path / "given").store == tmp_path / "given"


def test_missing_recipe_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read recipe"):
        api.open_project(tmp_path / "bundle.yaml", api.Workspace(tmp_path / "store"))
    assert not (tmp_path / "store").exists()
