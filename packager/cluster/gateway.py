# SPDX-License-Identifier: Apache-2.0
"""The process that speaks Ray (`python -m packager.cluster.gateway`): requests in, answers out, lines of JSON.

    in    {"address": …}, then {"id": 7, "label": …, "request": …, "needs": …} and {"cancel": [7]}
    out   {"ready": {"nodes": […]}} or {"failed": …}, then {"id": 7, "node": …, "answer": …}, first {"id": 7, "note": …}

Ray unpickles what nodes return, so this process has no secret, no store and nearly no environment. A step that was lost
with its worker or node is submitted again; a step that ended, well or not, is not. It ends when its input does, and Ray
then ends what it started.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_ATTEMPTS = 4  # of one step
_PAUSE = 1.0  # seconds before the second attempt, and twice as many before each further one
_UNFIT = 300.0  # seconds to wait for a node that has what a step needs: clusters may grow
_LOOK = 120.0  # seconds for a node to say what it has
_LINE = 256 << 20  # bytes of one line
Tell = Callable[[Mapping[str, Any]], None]


def call_node(text: str) -> str:
    """Perform a request on a node. Ray carries this function there, so that a node without packager can say so."""
    import json

    import ray

    node = ray.util.get_node_ip_address()
    try:
        from packager.cluster.node import perform
    except ImportError as error:
        said = {
            "message": f"node `{node}` has no packager of this version: {error}",
            "hint": "install it on every node",
        }
        return json.dumps({"node": node, "answer": {"refused": said}})
    return json.dumps({"node": node, "answer": json.loads(perform(text))})


def look_at_node() -> str:
    """Return what a node has: the version of packager, or None."""
    import json

    try:
        from packager import __version__ as version
    except ImportError:
        version = ""
    return json.dumps({"packager": version or None})


class Gateway:
    """Requests under work, by their numbers."""

    def __init__(self, ray: Any, tell: Tell) -> None:
        self._ray, self._tell = ray, tell
        self._call = ray.remote(max_retries=0, num_returns=1)(call_node)
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Take requests until the input ends, then cancel what is left."""
        while line := await reader.readline():
            message = json.loads(line)
            for number in message.get("cancel", ()):
                if task := self._tasks.get(number):
                    task.cancel()
            if "id" in message:
                self._tasks[message["id"]] = asyncio.create_task(self._perform(message))
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _perform(self, message: Mapping[str, Any]) -> None:
        try:
            if await self._wait_for_node(message["id"], message["needs"]):
                await self._attempt(message)
        finally:
            del self._tasks[message["id"]]

    async def _attempt(self, message: Mapping[str, Any]) -> None:
        """Submit a step until it ends, well or not, a few times at most."""
        number, text, why = message["id"], json.dumps(message["request"]), ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._tell({"id": number, "note": f"`{message['label']}` was lost and is tried again: {why}"})
                await asyncio.sleep(_PAUSE * 2 ** (attempt - 1))
            reference = self._call.options(**_options(message)).remote(text)
            try:
                found = json.loads(await reference)
            except asyncio.CancelledError:
                self._ray.cancel(reference, force=True)
                raise
            except Exception as error:  # of Ray: its worker died, its node is gone, its object is lost
                why = _line(error)
                continue
            if "lost" not in found["answer"]:
                self._tell({"id": number, **found})
                return
            why = f"{found['answer']['lost']['message']} (node `{found['node']}`)"
        self._tell({"id": number, "node": "", "answer": _said("lost", f"lost {_ATTEMPTS} times, last: {why}")})

    async def _wait_for_node(self, number: int, needs: Mapping[str, Any]) -> bool:
        """Return whether a node has what a step needs, at once or after a while; else refuse the step."""
        waited, words = 0.0, _words(needs)
        while not any(_fits(node["Resources"], needs) for node in self._ray.nodes() if node["Alive"]):
            if waited >= _UNFIT:
                hint = "add such a node, or change `resources` in the release file"
                self._tell({"id": number, "node": "", "answer": _said("refused", f"no node has {words}", hint)})
                return False
            if not waited:
                self._tell({"id": number, "note": f"no node has {words}: waiting for one"})
            await asyncio.sleep(2.0)
            waited += 2.0
        return True


def _options(message: Mapping[str, Any]) -> dict[str, Any]:
    needs = message["needs"]
    found = {"num_cpus": needs["cpus"], "num_gpus": needs["gpus"], "name": f"packager: {message['label']}"}
    if needs["memory"]:
        found["memory"] = needs["memory"]
    if needs["accelerator"]:
        found["accelerator_type"] = needs["accelerator"]
    return found


def _fits(has: Mapping[str, float], needs: Mapping[str, Any]) -> bool:
    kind = needs["accelerator"]
    return (
        has.get("CPU", 0) >= needs["cpus"]
        and has.get("GPU", 0) >= needs["gpus"]
        and has.get("memory", 0) >= needs["memory"]
        and (not kind or f"accelerator_type:{kind}" in has)
    )


def _words(needs: Mapping[str, Any]) -> str:
    words = [f"{needs['cpus']} CPU"]
    words += [f"{needs['memory']} bytes of memory"] if needs["memory"] else []
    words += [f"{needs['gpus']} GPU"] if needs["gpus"] else []
    words += [f"an accelerator `{needs['accelerator']}`"] if needs["accelerator"] else []
    return ", ".join(words)


def _said(form: str, message: str, hint: str | None = None) -> dict[str, Any]:
    return {form: {"message": message, "hint": hint}}


def _line(error: BaseException) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {first[:300]}"


async def _look(ray: Any) -> list[dict[str, Any]]:
    """Ask every node what it has; one that does not answer in time is gone, and one without an answer has nothing."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(max_retries=0, num_cpus=0)(look_at_node)

    async def one(node: Mapping[str, Any]) -> dict[str, Any] | None:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        try:
            text = await asyncio.wait_for(look.options(scheduling_strategy=there).remote(), _LOOK)
        except Exception:
            return None
        has = {name: node["Resources"].get(name, 0) for name in ("CPU", "GPU", "memory")}
        return {"node": node["NodeManagerAddress"], **json.loads(text), **has}

    found = await asyncio.gather(*(one(node) for node in ray.nodes() if node["Alive"]))
    return [node for node in found if node]


async def _run(ray: Any, tell: Tell) -> None:
    reader = asyncio.StreamReader(limit=_LINE)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tell({"ready": {"nodes": await _look(ray)}})
    await Gateway(ray, tell).serve(reader)


def main() -> None:
    """Connect, and serve until the input ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what Ray prints is no answer
    writing = ThreadPoolExecutor(1)  # the input is read on while the driver is slow to read answers

    def write(value: Mapping[str, Any]) -> None:
        line = json.dumps(value).encode() + b"\n"
        while line:
            line = line[answers.write(line) or 0 :]

    def tell(value: Mapping[str, Any]) -> None:
        writing.submit(write, value)

    with os.fdopen(os.dup(0), "rb", buffering=0) as jobs:  # unbuffered: what follows is for `serve`
        address = json.loads(jobs.readline())["address"]
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # ConnectionError, RuntimeError for other versions, and what gRPC raises
        tell({"failed": _line(error)})
        writing.shutdown()
        sys.exit(1)
    asyncio.run(_run(ray, tell))
    writing.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
