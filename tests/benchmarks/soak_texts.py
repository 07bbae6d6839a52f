# SPDX-License-Identifier: Apache-2.0
"""Seeded random clients against a server of texts, for some minutes: what they get is held against what is right.

    python -m tests.benchmarks.soak_texts SITE [--minutes 5] [--clients 12] [--burst 160] [--seed 0]

SITE is an installation of a bundle with a task. Each client draws what it does: a whole answer, a stream, a stream that
it leaves, one that it reads slowly, a prompt that fills most of the context, a document of a JSON schema, a prompt
beyond the context, a bad schema, nonsense; and now and then as many of them at once as `--burst` says, which by default
is ten times what the server takes.
Greedy answers are asked for once alone, at the beginning, and every later one has to begin with the same text: answers
of other clients, lost tokens and mixed caches would show. The end of the report says what was counted, and the memory
of the server at the beginning, in the middle and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx  # what `openai` brings
import jsonschema

PROMPTS = ("What is a module?", "import sys", "Say hello.", "2 + 2 =", "Größe und Maß", "class A:\n    def f(self):")
IN_FLIGHT = 16
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "b"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}


@dataclass
class Seen:
    """What was counted: outcomes by name, and what was wrong in words."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


@dataclass
class Client:
    """One client with its own chance."""

    http: httpx.AsyncClient
    model: str
    context: int
    expected: Mapping[str, str]
    chance: random.Random
    seen: Seen

    def body(self, prompt: str, **more: Any) -> dict[str, Any]:
        return {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, **more}

    async def act(self) -> None:
        """Do one drawn thing."""
        acts: Sequence[tuple[str, Callable[[], Awaitable[str]], int]] = (
            ("whole", self.whole, 6),
            ("stream", self.stream, 6),
            ("leaves", self.leaves, 3),
            ("slow", self.slow, 1),
            ("long", self.long, 1),
            ("document", self.document, 3),
            ("too long", self.too_long, 1),
            ("bad schema", self.bad_schema, 1),
            ("nonsense", self.nonsense, 1),
        )
        name, act, _ = self.chance.choices(acts, [weight for *_, weight in acts])[0]
        self.seen.counts[f"{name}: {await act()}"] += 1

    async def whole(self, prompt: str | None = None) -> str:
        prompt = prompt or self.chance.choice(PROMPTS)
        found = await self.http.post(
            "/v1/chat/completions", json=self.body(prompt, max_tokens=self.chance.randint(1, 60))
        )
        if found.status_code != 200:
            return self.refused(found)
        self.check(prompt, found.json()["choices"][0]["message"]["content"])
        return "answered"

    async def stream(self, leave: int = 10**9, wait: float = 0.0) -> str:
        prompt, text, began = self.chance.choice(PROMPTS), "", time.perf_counter()
        body = self.body(prompt, max_tokens=self.chance.randint(8, 60), stream=True)
        async with self.http.stream("POST", "/v1/chat/completions", json=body) as found:
            if found.status_code != 200:
                await found.aread()
                return self.refused(found)
            self.seen.first.append(time.perf_counter() - began)
            ended = False
            async for line in found.aiter_lines():
                if line == "data: [DONE]":
                    ended = True
                elif line and '"choices"' not in line:
                    self.seen.wrong.append(f"a stream of {prompt!r} has the line {line[:200]!r}")
                    return "broken"
                elif line:
                    choice = json.loads(line[6:])["choices"][0]
                    text += choice["delta"].get("content") or ""
                leave -= 1
                if leave < 0:
                    self.check(prompt, text)
                    return "left"
                if wait:
                    await asyncio.sleep(wait)
            if not ended:
                self.seen.wrong.append(f"a stream of {prompt!r} ended before its end")
        self.check(prompt, text)
        return "answered"

    async def leaves(self) -> str:
        return await self.stream(leave=self.chance.randint(1, 6))

    async def slow(self) -> str:
        return await self.stream(wait=0.2)

    async def long(self) -> str:
        return await self.whole(max(self.expected, key=len))

    async def document(self) -> str:
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
        body = self.body(self.chance.choice(PROMPTS), max_tokens=120, response_format=wanted)
        body |= {"temperature": 1.0, "seed": self.chance.randrange(1000)}
        found = await self.http.post("/v1/chat/completions", json=body)
        if found.status_code != 200:
            return self.refused(found)
        choice = found.json()["choices"][0]
        if choice["finish_reason"] != "stop":
            return "cut off"
        try:
            jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
        except (ValueError, jsonschema.ValidationError) as error:
            self.seen.wrong.append(f"no document of the schema: {error!s:.200}")
        return "answered"

    async def too_long(self) -> str:
        return await self.expect(self.body("word " * self.context), 400, "context_length_exceeded")

    async def bad_schema(self) -> str:
        schema = self.chance.choice(
            ({"type": "array", "uniqueItems": True}, {"$ref": "file:///etc/passwd"}, {"not": {}})
        )
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        return await self.expect(self.body("x", response_format=wanted), 400, "response_format")

    async def nonsense(self) -> str:
        body = self.chance.choice(
            ({"model": self.model}, self.body("x", n=2), self.body("x", temperature=-1), self.body("x", max_tokens=0))
        )
        return await self.expect(body, 400, "")

    async def expect(self, body: Mapping[str, Any], status: int, words: str) -> str:
        found = await self.http.post("/v1/chat/completions", json=body)
        if found.status_code in (408, 429):
            return self.refused(found)
        if found.status_code != status or words not in found.text:
            self.seen.wrong.append(f"expected {status}, got {found.status_code}: {found.text[:200]}")
        return "refused by name"

    def refused(self, found: httpx.Response) -> str:
        if found.status_code == 408:  # this process had no processor for as long as a body may take
            return "body too slow"
        if found.status_code != 429:
            self.seen.wrong.append(f"{found.status_code}: {found.text[:200]}")
            return f"refused with {found.status_code}"
        if int(found.headers.get("retry-after", "0")) < 1:
            self.seen.wrong.append("429 without `Retry-After`")
        return "overload"

    def check(self, prompt: str, text: str) -> None:
        if not self.expected[prompt].startswith(text.removesuffix("\ufffd")):
            self.seen.wrong.append(f"{prompt!r}: got {text!r:.120}, expected {self.expected[prompt]!r:.120}")


async def fill_context(client: Client) -> str:
    """Return a prompt that leaves 60 tokens of the context or a little more."""
    low, high = 1, client.context
    while high - low > 1:
        middle = (low + high) // 2
        found = await client.http.post("/v1/chat/completions", json=client.body("word " * middle, max_tokens=1))
        room = found.status_code == 200 and found.json()["usage"]["prompt_tokens"] <= client.context - 60
        low, high = (middle, high) if room else (low, middle)
    return "word " * low


async def memory(http: httpx.AsyncClient) -> int:
    """Return the resident memory of the processes that serve, in MiB."""
    lines = (await http.get("/metrics")).text.splitlines()
    found = next(line for line in lines if line.startswith("packager_server_resident_memory_bytes "))
    return int(float(found.split()[1])) >> 20


async def soak(address: str, args: argparse.Namespace, context: int) -> Seen:
    seen, until = Seen(), time.monotonic() + args.minutes * 60
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=httpx.Limits(max_connections=200)) as http:
        model = (await http.get("/v1/models")).json()["data"][0]["id"]
        expected: dict[str, str] = {}
        alone = Client(http, model, context, expected, random.Random(0), seen)
        for prompt in (*PROMPTS, await fill_context(alone)):
            found = await http.post("/v1/chat/completions", json=alone.body(prompt, max_tokens=60))
            expected[prompt] = found.json()["choices"][0]["message"]["content"]
        print(f"memory: {await memory(http)} MiB at the beginning", flush=True)

        async def client(number: int) -> None:
            own = Client(http, model, context, expected, random.Random(f"{args.seed}/{number}"), seen)
            while time.monotonic() < until:
                await own.act()
                if own.chance.random() < 0.5 / args.burst:  # a third of all requests comes in bursts
                    await asyncio.gather(*(own.act() for _ in range(args.burst)))

        async def watch() -> None:
            while time.monotonic() < until:
                await asyncio.sleep(args.minutes * 60 / 6)
                print(f"memory: {await memory(http)} MiB, {sum(seen.counts.values())} done", flush=True)

        await asyncio.gather(watch(), *(client(number) for number in range(args.clients)))
        for _ in range(300):
            text = (await http.get("/metrics")).text
            if "\npackager_server_requests_in_flight 0.0" in text and "\npackager_server_cache_bytes 0.0" in text:
                break
            await asyncio.sleep(0.1)
        else:
            seen.wrong.append("slots or bytes of caches are held though all clients are gone")
        print(f"memory: {await memory(http)} MiB at the end")
        wanted = (
            "tokens_total",
            "first_token_seconds_sum",
            "first_token_seconds_count",
            "batch_requests_sum",
            "batch_requests_count",
        )
        print(
            *(line for line in text.splitlines() if line.startswith(tuple(f"packager_server_{n}" for n in wanted))),
            sep="\n",
        )
    return seen


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("site", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--burst", type=int, default=10 * IN_FLIGHT)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--set", f"server.max_in_flight={IN_FLIGHT}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "packager", "serve", str(args.site), *options], stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(f"{address}/v2/health/ready", timeout=2).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        context = json.loads(next(args.site.rglob("contract.json")).read_text())["generation"]["context"]
        seen = asyncio.run(soak(address, args, context))
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    for name, count in sorted(seen.counts.items()):
        print(f"{name}: {count}")
    print(f"first token of streams, median: {sorted(seen.first)[len(seen.first) // 2]:.3f} s" if seen.first else "")
    print(f"end of the server: {code}; wrong: {len(seen.wrong)}")
    for words in seen.wrong[:20]:
        print("  ", words)
    return 1 if seen.wrong or code else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
