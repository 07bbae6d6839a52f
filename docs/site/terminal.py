# SPDX-License-Identifier: Apache-2.0
"""Take pictures of verbs in a terminal for the documentation: where a bundle runs, a matrix of runtimes and its progress.

    python docs/site/terminal.py docs/how-to/images

The model is a softmax regression on handwritten digits, built in a folder of its own for two runtimes. Each verb runs in a pseudo-terminal, whose screen is kept by
pyte, an emulator of terminals, and drawn by Chromium: a picture shows what a person sees at that moment. Needs Chromium
and the packages `pillow`, `playwright` and `pyte`.
"""

from __future__ import annotations

import fcntl
import html
import importlib
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyte
from PIL import Image
from playwright.sync_api import sync_playwright

EXAMPLE = Path(__file__).parents[1] / "examples" / "release"
COLUMNS, ROWS = 108, 60
PALETTE = {
    "black": "#3b4252",
    "red": "#e06c75",
    "green": "#98c379",
    "brown": "#e5c07b",
    "blue": "#61afef",
    "magenta": "#c678dd",
    "cyan": "#56b6c2",
    "white": "#dcdfe4",
}
PAGE = """<!doctype html><meta charset="utf-8"><title>terminal</title>
<style>body{margin:0;background:#1e2127}pre{display:inline-block;margin:0;padding:14px 18px;color:#dcdfe4;
font:14px/1.35 "DejaVu Sans Mono",monospace}</style><pre>%s</pre>"""


RECIPE = """name: digits
version: 1.0.0
source: ./model.onnx
license: Apache-2.0
policy: dev
platforms: [linux_x86_64-cp311]
runs-on:
  onnxruntime: {versions: ">=1.17", precision: [fp32, fp32_optimised]}
  openvino: ">=2025.4.1,!=2026.0.0,!=2026.2.0"
  triton: ">=2.51"
"""
CELLS = ("--runtime", "onnxruntime==1.31.1", "--runtime", "openvino==2026.4.1", "--jobs", "2")

_BUSY = re.compile(r"[2-9] steps done, 2 running  [1-9]")


@dataclass(frozen=True)
class Shot:
    """A verb, and when its screen is what the picture shows, given the text of the screen; else its last one."""

    name: str
    words: Sequence[str]
    at: Callable[[str], bool] = lambda text: False


SHOTS = (
    Shot("compat", ["compat", "digits:1.0.0"]),
    Shot("progress", ["conform", "digits:1.0.0", *CELLS], lambda text: bool(_BUSY.search(text))),
    Shot("matrix", ["conform", "digits:1.0.0", *CELLS]),
)


def record_screen(words: Sequence[str], folder: Path, store: Path, at: Callable[[str], bool]) -> pyte.Screen:
    """Run a verb in a terminal until its screen is the wanted one, or it ends, and return the screen."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PACKAGER_STORE": str(store)}
    command = [sys.executable, "-m", "packager", *words]
    stream.feed(f"$ packager {' '.join(words)}\r\n".encode())
    with subprocess.Popen(command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        try:
            while True:
                if not select.select([ours], [], [], 120)[0]:
                    raise SystemExit(f"`packager {words[0]}` says nothing for two minutes")
                try:
                    data = os.read(ours, 1 << 16)
                except OSError:  # it has ended, and with it the other end
                    break
                if not data:
                    break
                stream.feed(data)
                if at("\n".join(screen.display)):
                    process.terminate()
                    break
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
            os.close(ours)
    return screen


def draw_screen(screen: pyte.Screen) -> str:
    """Return the screen as HTML, without the empty rows below its text."""
    used = [number for number, text in enumerate(screen.display) if text.strip()]
    lines = []
    for row in range(max(used, default=0) + 1):
        width = len(screen.display[row].rstrip())
        parts, last, held = [], "", ""
        for column in range(width):
            cell = screen.buffer[row][column]
            style = _style(cell)
            if style != last:
                parts.append(_span(held, last))
                last, held = style, ""
            held += cell.data
        lines.append("".join([*parts, _span(held, last)]))
    return PAGE % "\n".join(lines)


def _style(cell: pyte.screens.Char) -> str:
    colour = PALETTE.get(cell.fg.removeprefix("bright"), f"#{cell.fg}" if cell.fg != "default" else "")
    return ";".join(
        part
        for part in (
            f"color:{colour}" if colour else "",
            "font-weight:bold" if cell.bold else "",
            "text-decoration:underline" if cell.underscore else "",
        )
        if part
    )


def _span(text: str, style: str) -> str:
    return f'<span style="{style}">{html.escape(text)}</span>' if style and text else html.escape(text)


def make_project(folder: Path, store: Path) -> None:
    """Train the model of `docs/examples/release`, lock and build it."""
    sys.path.insert(0, str(EXAMPLE))
    train = importlib.import_module("train")
    train.HERE = folder.parent
    train.main()
    (folder / "bundle.yaml").write_text(RECIPE)
    for words in (["lock"], ["build", "--locked"]):
        command = [sys.executable, "-m", "packager", *words, "--quiet", "--store", str(store)]
        subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)


def take_pictures(folder: Path) -> None:
    """Write `terminal-NAME.png` into `folder` for each shot."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as scratch:
        project, store = Path(scratch) / "digits", Path(scratch) / "store"
        project.mkdir()
        make_project(project, store)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1400, "height": 900}, device_scale_factor=1.5)
        for shot in SHOTS:
            page = Path(scratch) / f"{shot.name}.html"
            page.write_text(draw_screen(record_screen(shot.words, project, store, shot.at)))
            shown.goto(page.as_uri())
            picture = folder / f"terminal-{shot.name}.png"
            shown.locator("pre").screenshot(path=picture)
            with Image.open(picture) as drawn:  # a third of the bytes
                drawn.convert("RGB").quantize(32).save(picture, optimize=True)
        browser.close()


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]))
