# SPDX-License-Identifier: Apache-2.0
"""The levels of generation against processes that speak the worker's protocol, sound and faulty ones."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from packager.conform.generation import Reference, judge
from packager.deploy import conversation

PROCESS = """
import json, sys, time
fault, count = sys.argv[1], 0
def say(value): print(json.dumps(value), flush=True)
if fault == "loads": say({"error": "the file is damaged", "hint": None}); sys.exit(4)
say({"runtime": "toy 2" if fault == "version" else "toy 1", "chat": False, "context": 64})
for line in sys.stdin:
    asked = json.loads(line)
    if asked["do"] == "encode": say({"ids": [*asked["text"].encode()] + ([0] if fault == "ids" else [])})
    elif asked["do"] == "decode": say({"text": bytes(asked["ids"]).decode() + ("!" if fault == "text" else "")})
    elif asked["do"] == "force":
        best = [token + (fault in ("token", "tie") and place == 1) for place, token in enumerate(asked["tokens"])]
        odds = [-0.5 - (0.1 if fault == "odds" and place == 2 else 0) for place in range(len(best))]
        say({"best": best, "logprobs": odds, "of_best": odds})
    elif asked["do"] == fault[8:] and fault.startswith("crashes"): sys.exit(3)
    elif asked["do"] == fault[8:] and fault.startswith("refuses"): say({"error": "out of memory"})
    elif asked["do"] == "grammars": say({"error": "the request is unknown"} if fault == "old" else {"grammars": True})
    elif asked["do"] == "own":
        own = [
            {
                "tokens": [t + (fault in ("own token", "own tie") and n == 1) for n, t in enumerate([100, 101, 102])],
                "ids": prompt["ids"] + ([0] if fault == "own ids" else []),
            }
            for prompt in asked["prompts"]
        ]
        if fault == "own fewer": own = own[1:]
        say({"error": "the request is unknown"} if fault == "old" else {"own": own if fault[:3] == "own" else None})
    elif "grammar" in asked["options"]:
        say({"text": '"maybe"' if fault == "schema" else '"yes"'})
        say({"finish": "stop", "prompt_tokens": 1, "tokens": [1], "logprobs": [-0.5]})
    else:
        count += 1
        if fault == "dies" and count == 2: sys.exit(3)
        options = asked["options"]
        most = options.get("max_tokens", 64 - len(asked["ids"]) + (fault == "context"))
        tokens = [97 + (place + (count if fault == "memory" else 0)) % 26 for place in range(most)]
        if options.get("seed") is not None and fault == "seed": tokens = [98 + count] * most
        text = bytes(tokens).decode()
        time.sleep(0.002 * most)
        stop = options.get("stop")
        if stop and fault != "stop": text = text.split(stop)[0]
        say({"text": text})
        say({"finish": "length", "prompt_tokens": len(asked["ids"]), "tokens": tokens, "logprobs": [-0.5] * most})
"""
NAMES = ("first", "second")


def reference(gap: float = 0.3) -> Reference:
    prompts = [{"name": name, "text": name, "special": True, "ids": [*name.encode()]} for name in NAMES]
    answer: dict[str, Any] = {"tokens": [100, 101, 102], "text": "def", "logprobs": [-0.5] * 3, "gaps": [gap] * 3}
    return Reference(prompts, {name: {"name": name, **answer} for name in NAMES}, 64)


def verdict(fault: str, gap: float = 0.3, level: int = 5) -> Any:
    command = [sys.executable, "-c", PROCESS, fault]
    tolerance = {"atol": 1e-3, "rtol": 1e-4}
    return judge(reference(gap), tolerance, lambda: conversation.start_conversation(command, {}), level, "toy 1")


def test_a_sound_process_passes_every_level() -> None:
    found = verdict("none")
    assert (found["outcome"], set(found["levels"].values())) == ("pass", {"pass"}), found["reason"]
    assert found["measures"]["tokens_per_second"] > 0 and found["identity"] == {"runtime": "toy 1"}


@pytest.mark.parametrize(
    ("fault", "level", "words"),
    [
        ("loads", "L1", "the file is damaged"),
        ("version", "L1", "expected toy 1, got toy 2"),
        ("ids", "L2", "prompt first: ids: token 5: expected None, got 0"),
        ("text", "L2", "prompt first: text"),
        ("odds", "L3", "prompt first: log-probabilities: step 2: off by 0.1"),
        ("token", "L3", "prompt first: greedy tokens: step 1: expected token 101, got 102 (recorded gap 0.3)"),
        ("own ids", "L2", "prompt first: ids of the runtime's own tokenizer: token 5: expected None, got 0"),
        ("own token", "L3", "prompt first: greedy tokens of the runtime's own loop: token 1: expected 101, got 102"),
        ("own fewer", "L3", "the runtime's own loop: expected 2 answers, got 1"),
        ("crashes own", "L1", "the process of the model ended with status 3"),
        ("refuses own", "L1", "out of memory"),
        ("crashes grammars", "L1", "the process of the model ended with status 3"),
        ("refuses grammars", "L1", "out of memory"),
        ("memory", "L4", "a prompt answers the same after others"),
        ("seed", "L4", "a seed repeats"),
        ("stop", "L4", "a text that stops is kept out"),
        ("schema", "L4", 'an answer keeps to a JSON schema: expected one of yes, no, got `"maybe"`'),
        ("context", "L4", "an answer ends where the context does"),
        ("dies", "L1", "the process of the model ended with status 3"),
    ],
)
def test_a_fault_fails_its_level_and_names_prompt_and_step(fault: str, level: str, words: str) -> None:
    found = verdict(fault)
    assert found["outcome"] == "fail" and found["levels"][level] == "fail"
    assert words in found["reason"]


def test_an_installation_of_before_there_were_grammars_passes() -> None:
    names = [check["name"] for check in verdict("none")["checks"]]
    assert "an answer keeps to a JSON schema" in names
    found = verdict("old")
    assert found["outcome"] == "pass" and len(found["checks"]) == len(names) - 1


def test_another_token_is_a_tie_where_the_recorded_gap_says_so() -> None:
    assert verdict("tie", gap=1e-4)["outcome"] == "pass"
    assert verdict("own tie", gap=1e-4)["outcome"] == "pass"


def test_a_runtimes_own_loop_is_compared_where_it_has_one() -> None:
    names = [check["name"] for check in verdict("own")["checks"]]
    assert sum("runtime's own" in name for name in names) == 2 * len(NAMES)
    assert not any("runtime's own" in check["name"] for check in verdict("none")["checks"])


def test_levels_beyond_the_last_one_are_not_run() -> None:
    found = verdict("stop", level=3)
    assert found["outcome"] == "pass" and set(found["levels"]) == {"L0", "L1", "L2", "L3"}
