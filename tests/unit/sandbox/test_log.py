# SPDX-License-Identifier: Apache-2.0
"""The end of a failed worker's log travels with its error, without what libraries write whenever they start."""

from __future__ import annotations

from packager.actions import runner

NOISE = """WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795912038.249620   27451 cudart_stub.cc:31] Could not find cuda drivers on your machine
Fontconfig error: Cannot load default config file: No such file: (null)
"""


def test_noise_of_a_start_is_left_out() -> None:
    log = f"{NOISE}Warning: the weights are from 1997\n{NOISE}KeyError: 'weights'\n"
    assert runner._tail(log.encode()) == "Warning: the weights are from 1997\nKeyError: 'weights'"
    assert runner._tail(NOISE.encode()) == ""


def test_a_long_log_keeps_its_end() -> None:
    log = runner._tail(b"x\n" * 9000 + b"the end\n")
    assert log.endswith("the end") and len(log) <= runner.LOG_TAIL
