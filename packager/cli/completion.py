# SPDX-License-Identifier: Apache-2.0
"""Print the completion script of a shell; put it where that shell looks for such scripts."""

from __future__ import annotations

import argparse

from packager.cli.console import Console

FOR = "everybody"
HELP = "print a shell completion script"
EXAMPLES = """  eval "$(packager completion bash)"
  packager completion zsh > ~/.zfunc/_packager
  packager completion fish > ~/.config/fish/completions/packager.fish"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")


def main(args: argparse.Namespace, console: Console) -> int:
    import argcomplete

    script = argcomplete.shellcode(["packager"], shell=args.shell)
    console.result({"shell": args.shell, "script": script}, script)
    return 0
