# SPDX-License-Identifier: Apache-2.0
"""Serve many adapters of one base while others come and go: every answer is that of its adapter.

    python -m tests.benchmarks.bench_adapters FOLDER [ADAPTERS [REQUESTS [CLIENTS]]]

FOLDER is empty, or one that an earlier run made. A seeded Llama of two layers is built as the base, and one adapter as
a bundle, by the command line. The others are put together by the same build from their own matrices and from the
measurement of the first, because transformers and PEFT take half a minute per process; their own answers are found
here, with PEFT, in one process. Each is signed, and installed by `packager`'s API, which verifies it.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packager import api, plugins
from packager.api import deploy
from packager.build import adapter as adapters_of_build
from packager.build import bundle_files
from packager.build.made import Place
from packager.lock import locking
from packager.types import Result, Tree
from tests.e2e.conftest import Project
from tests.e2e.test_adapters import ADAPTER, BASE, PROMPT, build
from tests.e2e.test_generation import serving
from tests.support import adapters, forks, language_models

TOKENS = 4
KEPT = 0.8  # of the adapters stay for the whole run; the others are removed and added again


@dataclass
class Served:
    """The adapters that requests may name now, and how many name each."""

    names: set[str]
    busy: dict[str, int] = field(default_factory=dict)
    change: threading.Condition = field(default_factory=threading.Condition)

    @contextlib.contextmanager
    def chosen(self, drawn: random.Random) -> Iterator[str]:
        with self.change:
            name = drawn.choice(sorted(self.names))
            self.busy[name] = self.busy.get(name, 0) + 1
        try:
            yield name
        finally:
            with self.change:
                self.busy[name] -= 1
                self.change.notify_all()

    def take(self, name: str) -> None:
        """Let no request name an adapter any more, and wait for those that do."""
        with self.change:
            self.names.discard(name)
            self.change.wait_for(lambda: not self.busy.get(name))

    def give(self, name: str) -> None:
        with self.change:
            self.names.add(name)


class Plain(Project):
    """A project with a store of its own alone."""

    def run(self, *arguments: str | Path, code: int | None = 0, prefix: tuple[str, ...] = (), **extra: str) -> Any:
        variables = {**forks.variables(self.folder), "PACKAGER_STORE": str(self.store), **self.extra}
        command = [sys.executable, "-m", "packager", *map(str, arguments)]
        return subprocess.run(command, cwd=self.folder, env=variables, check=True)


def prepare(folder: Path, count: int) -> Project:
    """Build the base and the first adapter, and put the bundles of all adapters together and sign them."""
    made = Plain(folder, folder / "store", {"PACKAGER_PASSPHRASE": "secret"})
    if (folder / "ready.json").is_file():
        return made
    language_models.write(folder / "model")
    for number in range(count):
        adapters.write(folder / f"lora-{number}", number, rank=8)
    made.run("keygen", "release")
    build(made, BASE, "bundle.yaml")
    recipe = ADAPTER.format(name="a-0", version="1.0.0", source="lora-0", base="tiny:1.0.0")
    build(made, recipe, "a-0.yaml")
    workspace = api.Workspace(folder / "store", variables={"PATH": "", "HOME": str(folder)})
    opened = api.open_project(folder / "a-0.yaml", workspace)
    lock = opened.read_lock()
    source = locking.fetch_locked(lock, opened.runner, opened.here.settings(opened.recipe, opened.memo))
    place = Place(opened.runner, source, Result("", {}), folder, None)
    first = adapters_of_build.make_adapter(opened.recipe, lock, place)
    store, signer = opened.runner.store, api.open_signer(f"key:{folder / 'release.pem'}", lambda: b"secret")
    base = api.open_bundle("tiny:1.0.0", workspace)
    params = adapters_of_build.export_action(lock, place, base).params
    vectors = Tree.of(
        {path: blob for path, blob in store.tree(first.place.answers.tree) if path == "prompts.json"}  # type: ignore[union-attr]
    )
    for number in range(count):
        out = folder / "out" / str(number)
        out.mkdir(parents=True)
        plugins.load("steps", "export_adapter").run({"source": folder / f"lora-{number}"}, out, params)
        graph = replace(first.place.graph, tree=store.put_tree(store.ingest(out)).digest)
        named = replace(opened.recipe, name=f"a-{number}")
        files = bundle_files.write_files(
            named, lock, replace(first.place, graph=graph), first.artefacts, vectors, {}, None, first.promise
        )
        bundle = bundle_files.keep(named, files, opened.runner, over=True)
        signed = api.sign_bundle(bundle, signer, folder / f"a-{number}.bundle.tar")
        assert signed.name == f"a-{number}"
    (folder / "ready.json").write_text(json.dumps({"adapters": count}))
    return made


def expect(folder: Path, count: int) -> dict[str, str]:
    """Return the text that PEFT answers with each adapter, and transformers without any."""
    import torch
    import transformers
    from peft import PeftModel

    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    ids = torch.tensor([tokenizer(PROMPT).input_ids])

    def text(adapted: Any) -> str:
        with torch.inference_mode():
            whole = adapted.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
            )
        return str(tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True))

    found = {"tiny": text(model)}
    adapted = PeftModel.from_pretrained(model, str(folder / "lora-0"), adapter_name="a-0").eval()
    for number in range(count):
        if number:
            adapted.load_adapter(str(folder / f"lora-{number}"), adapter_name=f"a-{number}")
        adapted.set_adapter(f"a-{number}")
        found[f"a-{number}"] = text(adapted)
    return found


def ask(address: str, model: str) -> str:
    body = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    request = urllib.request.Request(f"{address}/v1/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=120) as answer:
        found = json.load(answer)
    assert found["model"] == model
    return str(found["choices"][0]["text"])


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def memory(process: int) -> int:
    """Return the resident bytes of a process and its children."""
    total = 0
    for pid in (process, *map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))
    return total


def main(folder: Path, count: int = 100, requests: int = 10_000, clients: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made = prepare(folder, count)
    wanted = expect(folder, count)
    print(f"answers: {len(set(wanted.values()))} different ones of {len(wanted)}")
    site = folder / "site"
    if not site.exists():
        wheels = ("--wheelhouse", str(folder / "wheels")) if (folder / "wheels").is_dir() else ()
        made.run("install", "tiny-1.0.0.bundle.tar", "site", "--key", "release.pub", *wheels)
    workspace = api.Workspace(folder / "store", variables={"PATH": "", "HOME": str(folder)})
    verifier = api.Verifier.from_keys([folder / "release.pub"], api.utc_now())
    bundles = {f"a-{n}": api.open_bundle(str(folder / f"a-{n}.bundle.tar"), workspace) for n in range(count)}
    with serving(site) as (address, server):
        assert ask(address, "tiny") == wanted["tiny"]
        print(f"resident before: {memory(server.pid) / 1e6:.0f} MB")
        started = time.monotonic()
        for bundle in bundles.values():
            api.install_bundle(bundle, site, verifier, workspace)
        print(f"added {count} adapters in {time.monotonic() - started:.1f} s")
        served, over = Served({"tiny", *bundles}), threading.Event()
        changes = 0

        def come_and_go() -> None:
            nonlocal changes
            drawn, moving = random.Random(1), sorted(bundles)[int(count * KEPT) :]
            while not over.is_set():
                name = drawn.choice(moving)
                served.take(name)
                deploy.remove_adapter(site, name, workspace)
                api.install_bundle(bundles[name], site, verifier, workspace)
                served.give(name)
                changes += 2

        changing = threading.Thread(target=come_and_go)
        changing.start()
        drawn = [random.Random(number) for number in range(clients)]
        wrong: list[str] = []

        def work(number: int) -> int:
            with served.chosen(drawn[number % clients]) as name:
                try:
                    found = ask(address, name)
                except Exception as error:
                    wrong.append(f"{name}: {error!r}")
                    return 0
                if found != wanted[name]:
                    wrong.append(f"{name}: {found!r}, expected {wanted[name]!r}")
            return 1

        started = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            answered = sum(pool.map(work, range(requests)))
        spent = time.monotonic() - started
        over.set()
        changing.join()
        print(f"{answered} of {requests} answered in {spent:.0f} s, {changes} changes beside them, {len(wrong)} wrong")
        print(f"resident after: {memory(server.pid) / 1e6:.0f} MB")
    for line in wrong[:5]:
        print(line)
    plain = sum(blob.size for _, blob in bundles["a-0"].tree)
    files = {name: (folder / f"{name}.bundle.tar").stat().st_size for name in ("tiny-1.0.0", "a-0")}
    print(
        f"bytes shipped: base {files['tiny-1.0.0']}, each adapter {files['a-0']} ({plain} of files, signatures beside)"
    )
    print(f"adapters on disk: {size(site / 'current' / 'adapters')} in all")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), *map(int, sys.argv[2:]))
