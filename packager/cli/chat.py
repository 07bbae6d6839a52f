# SPDX-License-Identifier: Apache-2.0
"""Talk to a language model in a bundle, or in an installation.

A bundle is verified before it runs, and written to a scratch directory; it runs in this Python (extra `chat`). An
installation runs in its own environment. Without --prompt the conversation goes on line by line until end of input.
What the publisher states about sampling is the default; with --temperature 0 the most likely token is taken.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager import escape
from packager.cli import options
from packager.cli.console import Console
from packager.errors import UsageError

if TYPE_CHECKING:
    from packager.api.deploy import Answer, Conversation

FOR = "site"
HELP = "talk to a language model in a bundle or an installation"
EXAMPLES = """  packager chat smollm.bundle.tar --key release.pub
  packager chat smollm:1.0.0 --trust acme.trust --prompt "What is a hash function good for?"
  packager chat /srv/smollm
  packager chat /srv/smollm --prompt "Write a haiku." --temperature 0.7 --seed 7 --max-tokens 64 --json
  packager chat /srv/smollm --prompt "Name a colour as JSON." --schema colour.json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    options.add_trust(parser, "whom to trust; an installation was verified when it was made")
    parser.add_argument("--prompt", metavar="TEXT", help="answer this and end")
    parser.add_argument("--system", metavar="TEXT", help="what the conversation begins with, of the role `system`")
    parser.add_argument(
        "--raw", action="store_true", help="give the prompt to the model as it is, without its template"
    )
    parser.add_argument("--max-tokens", type=int, metavar="N", help="tokens of an answer (default: all that fit)")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 takes the most likely token")
    parser.add_argument("--top-k", type=int, metavar="N", help="choose among so many tokens; 0: all")
    parser.add_argument("--top-p", type=float, metavar="P", help="choose among tokens that together have this share")
    parser.add_argument("--seed", type=int, metavar="N", help="repeat the same chance")
    parser.add_argument(
        "--schema",
        type=Path,
        metavar="FILE",
        help="a JSON schema; the answer is a document of it, unless it is cut off",
    )
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end the answer before this text; repeatable")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads of the model (default: one per core)"
    )
    parser.add_argument("--target", metavar="NAME", help="target of the bundle to run (default: the most exact one)")


def main(args: argparse.Namespace, console: Console) -> int:
    with _open(args, console) as model:
        chat = bool(model.about["chat"]) and not args.raw
        history = [{"role": "system", "content": args.system}] if args.system else []
        if args.prompt is not None:
            return _answer_once(args, console, model, _prompt(args.prompt, history, chat))
        console.message(f"{model.about['runtime']}, a context of {model.about['context']} tokens; end with Ctrl-D")
        for line in _lines():
            text, _ = _say(args, model, _prompt(line, history, chat))
            history += [{"role": "user", "content": line}, {"role": "assistant", "content": text}]
    return 0


def _open(args: argparse.Namespace, console: Console) -> AbstractContextManager[Conversation]:
    from packager.api import deploy
    from packager.cli._trust import verifier_of

    workspace = options.open_workspace(args, console)
    if deploy.is_installation(Path(args.bundle)):
        return deploy.chat_with_installation(Path(args.bundle), workspace, threads=args.threads)
    judge = verifier_of(args)
    with console:
        bundle = options.open_bundle(args)
        return deploy.chat_with_bundle(bundle, judge, workspace, target=args.target, threads=args.threads)


def _prompt(text: str, history: list[dict[str, str]], chat: bool) -> dict[str, Any]:
    if not chat:
        return {"text": text}
    return {"messages": [*history, {"role": "user", "content": text}]}


def _options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("max_tokens", "temperature", "top_k", "top_p", "seed", "stop")
    schema = {} if args.schema is None else {"schema": _read_schema(args.schema)}
    return {**{name: getattr(args, name) for name in names}, **schema}


def _read_schema(path: Path) -> dict[str, Any]:
    """Return a JSON schema. Raises UsageError for a file that holds none."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"`{path}` is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"`{path}` holds no JSON schema", hint='a schema is an object, as in {"type": "object"}')
    return found


def _lines() -> Iterator[str]:
    """Yield the lines of the person, with a prompt where one types."""
    shown = sys.stdin.isatty()
    while True:
        if shown:
            sys.stderr.write("> ")
            sys.stderr.flush()
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise UsageError(
                f"the input is no {error.encoding} text", hint="type or pipe it in the encoding of the locale (LANG)"
            ) from None
        if not line:
            return
        if line.strip():
            yield line.rstrip("\n")


def _say(
    args: argparse.Namespace, model: Conversation, prompt: dict[str, Any], *, shown: bool = True
) -> tuple[str, Answer]:
    """Write an answer as it comes; return its text, and what it was."""
    parts: list[str] = []
    for piece in model.ask(prompt, _options(args)):
        if not isinstance(piece, str):
            answer = piece
            continue
        parts.append(piece)
        if shown:
            sys.stdout.write(escape.block(piece))
            sys.stdout.flush()
    if shown:
        print(flush=True)
    return "".join(parts), answer


def _answer_once(args: argparse.Namespace, console: Console, model: Conversation, prompt: dict[str, Any]) -> int:
    started = time.monotonic()
    text, answer = _say(args, model, prompt, shown=not console.json)
    if console.json:
        value = {
            "text": text,
            "finish": answer.finish,
            "prompt_tokens": answer.prompt_tokens,
            "tokens": list(answer.tokens),
            "logprobs": list(answer.logprobs),
            "runtime": model.about["runtime"],
            "seconds": round(time.monotonic() - started, 3),
        }
        console.result(value, text)
    return 0
