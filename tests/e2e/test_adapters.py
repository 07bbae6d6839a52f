# SPDX-License-Identifier: Apache-2.0
"""Adapters from PEFT's directories to answers of one running server: built, signed, added, replaced, removed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import openai
import pytest

from tests.e2e.conftest import Project
from tests.e2e.test_generation import serving
from tests.support import adapters, language_models

pytestmark = pytest.mark.slow  # two models are traced, and PEFT answers for each adapter
BASE = """\
name: tiny
version: 1.0.0
source: model
task: text-generation
adapters: [q_proj, v_proj]
policy: dev
runs-on:
  onnxruntime: ">=1.31"
"""
ADAPTER = """\
name: {name}
version: {version}
source: {source}
task: text-generation
base: {base}
policy: dev
"""
PROMPT = "The capital of France is"


def build(project: Project, text: str, file: str) -> str:
    """Build and sign a recipe; return the name of the signed file."""
    (project.folder / file).write_text(text)
    project.run("lock", file)
    project.run("build", file)
    fields = dict(line.split(": ", 1) for line in text.splitlines()[:2])
    signed = f"{fields['name']}-{fields['version']}.bundle.tar"
    project.run("sign", f"{fields['name']}:{fields['version']}", "--key", "release.pem", "-o", signed)
    return signed


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("adapters")
    language_models.write(folder / "model")
    adapters.write(folder / "legal", 1)
    adapters.write(folder / "medical", 3)  # of seed 2 the answer is over at once
    adapters.write(folder / "legal-2", 7, rank=6)
    made = Project(folder, folder / "store", {"PACKAGER_PASSPHRASE": "secret"})
    made.run("keygen", "release")
    build(made, BASE, "bundle.yaml")
    for name, source, version in (
        ("legal", "legal", "1.0.0"),
        ("medical", "medical", "1.0.0"),
        ("legal", "legal-2", "1.1.0"),
    ):
        build(made, ADAPTER.format(name=name, version=version, source=source, base="tiny:1.0.0"), f"{source}.yaml")
    made.run("install", "tiny-1.0.0.bundle.tar", "site", "--key", "release.pub")
    return made


@pytest.fixture(scope="module")
def client(project: Project) -> Iterator[openai.OpenAI]:
    with serving(project.folder / "site") as (address, _):
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60)


def expected(project: Project, folder: str) -> str:
    """Return the text of PEFT's own answer with an adapter."""
    import torch
    import transformers
    from peft import PeftModel

    model = transformers.AutoModelForCausalLM.from_pretrained(project.folder / "model", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, str(project.folder / folder)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(project.folder / "model")
    ids = torch.tensor([tokenizer(PROMPT).input_ids])
    with torch.inference_mode():
        whole = adapted.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    text: str = tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
    return text


def ask(client: openai.OpenAI, model: str) -> str:
    found = client.completions.create(model=model, prompt=PROMPT, max_tokens=8, temperature=0)
    assert found.model == model.partition(":")[0]
    return found.choices[0].text


def test_a_bundle_of_an_adapter_carries_the_adapter_alone(project: Project) -> None:
    project.run("unpack", "legal-1.0.0.bundle.tar", "plain", "--key", "release.pub")
    names = {p.relative_to(project.folder / "plain").as_posix() for p in (project.folder / "plain").rglob("*")}
    assert "adapter/adapter.safetensors" in names
    assert not [name for name in names if name.endswith((".onnx", ".bin", "tokenizer.json", ".whl"))]
    contract = json.loads((project.folder / "plain" / "contract.json").read_text())
    base = project.run("inspect", "tiny:1.0.0", "--json")
    assert contract["base"] == {"name": "tiny", "version": "1.0.0", "digest": base["digest"]}
    assert contract["runs-on"] == {}


def test_adapters_come_change_and_go_in_a_running_server(project: Project, client: openai.OpenAI) -> None:
    own = ask(client, "tiny")
    with pytest.raises(openai.NotFoundError, match="the model `legal` does not exist"):
        ask(client, "legal")
    wrong: list[str] = []
    over = threading.Event()

    def keep_asking() -> None:
        while not over.is_set():
            if (found := ask(client, "tiny")) != own:
                wrong.append(found)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        for bundle in ("legal-1.0.0", "medical-1.0.0"):
            project.run("install", f"{bundle}.bundle.tar", "site", "--key", "release.pub")
        assert [model.id for model in client.models.list().data] == ["tiny", "legal", "medical"]
        assert client.models.retrieve("legal").id == "legal"
        legal, medical = expected(project, "legal"), expected(project, "medical")
        assert ask(client, "legal") == ask(client, "legal:1.0.0") == legal
        assert ask(client, "medical") == medical
        assert len({own, legal, medical}) == 3
        project.run("install", "legal-1.1.0.bundle.tar", "site", "--key", "release.pub")
        assert ask(client, "legal") == expected(project, "legal-2") != legal
        shown = project.run("status", "site", "--json")["adapters"]
        assert [(item["name"], item["version"]) for item in shown] == [("legal", "1.1.0"), ("medical", "1.0.0")]
        done = project.run("install", "legal-1.0.0.bundle.tar", "site", "--key", "release.pub", code=2)
        assert "is older than the adapter that is there" in done.stderr
        assert project.run("uninstall", "site", "--adapter", "legal", "--json") == {"left": ["medical"]}
        with pytest.raises(openai.NotFoundError, match="its adapters `medical`"):
            ask(client, "legal")
        assert ask(client, "medical") == medical
    finally:
        over.set()
        asking.join()
    assert wrong == []


def test_an_adapter_is_refused_where_its_base_is_not(project: Project) -> None:
    done = project.run("install", "legal-1.0.0.bundle.tar", "empty", "--key", "release.pub", code=2)
    assert "holds no installation" in done.stderr
    other = build(project, BASE.replace("1.0.0", "1.0.1").replace("tiny", "small"), "small.yaml")
    project.run("install", other, "other", "--key", "release.pub")
    done = project.run("install", "legal-1.0.0.bundle.tar", "other", "--key", "release.pub", code=2)
    assert "`legal` is an adapter of tiny:1.0.0 (sha256:" in done.stderr and "holds small:1.0.1" in done.stderr
    assert not (project.folder / "other" / "current" / "adapters").exists()
    project.run("keygen", "stranger")
    done = project.run("install", "legal-1.0.0.bundle.tar", "site", "--key", "stranger.pub", code=1)
    assert "legal" not in {path.stem for path in (project.folder / "site" / "current" / "adapters").glob("*.json")}


def test_an_adapter_runs_by_itself_nowhere(project: Project) -> None:
    done = project.run("chat", "legal-1.0.0.bundle.tar", "--key", "release.pub", "--prompt", "x", code=2)
    assert "the bundle is an adapter: it runs in tiny:1.0.0" in done.stderr
    for kind in ("container", "systemd", "kubernetes"):
        done = project.run("render", kind, "legal-1.0.0.bundle.tar", f"out-{kind}", "--key", "release.pub", code=None)
        assert done.returncode != 0, kind


def test_a_base_that_takes_no_adapters_is_refused(project: Project) -> None:
    (project.folder / "nested.yaml").write_text(
        ADAPTER.format(name="nested", version="1.0.0", source="legal", base="legal:1.0.0")
    )
    done = project.run("lock", "nested.yaml", code=2)
    assert "the base `legal:1.0.0` takes no adapters" in done.stderr
