# SPDX-License-Identifier: Apache-2.0
"""The end of a failed worker's log travels with its error, without what libraries write whenever they start."""

from __future__ import annotations

from pathlib import Path

from packager import run

NOISE = """WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795912038.249620   27451 cudart_stub.cc:31] Could not find cuda drivers on your machine
Fontconfig error: Cannot load default config file: No such file: (null)
"""


def test_noise_of_a_start_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"{NOISE}Warning: the weights are from 1997\n{NOISE}KeyError: 'weights'\n")
    assert run._tail(log) == "Warning: the weights are from 1997\nKeyError: 'weights'"
    log.write_text(NOISE)
    assert run._tail(log) == ""


def test_a_long_log_keeps_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x\n" * 9000 + "the end\n")
    assert run._tail(log).endswith("the end") and len(run._tail(log)) <= run.LOG_TAIL
