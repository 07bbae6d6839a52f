# SPDX-License-Identifier: Apache-2.0
"""Write a torch model of 2.3 GB with seeded weights as `.pt2`, in a process of its own. Usage: large_model.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

WIDTH, LAYERS = 8192, 9  # 9 matrices of 256 MiB


def main(folder: Path) -> None:
    torch.manual_seed(11)
    folder.mkdir(parents=True, exist_ok=True)
    layers = [layer for _ in range(LAYERS) for layer in (torch.nn.Linear(WIDTH, WIDTH, bias=False), torch.nn.Tanh())]
    batch = torch.export.Dim("batch", min=1, max=4)
    program = torch.export.export(
        torch.nn.Sequential(*layers).eval(), (torch.zeros(2, WIDTH),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, folder / "model.pt2")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
