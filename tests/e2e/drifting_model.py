# SPDX-License-Identifier: Apache-2.0
"""Write a torch model with a custom operator whose exported form is deliberately wrong. Usage: drifting_model.py FOLDER.

The operator computes x·sigmoid(x) when it runs; what an exporter may put in its place adds a little to that.
"""

from __future__ import annotations

import sys
from pathlib import Path

OPERATOR = """
import torch

library = torch.library.Library("drift", "FRAGMENT")
library.define("swish(Tensor x) -> Tensor")
library.impl("swish", lambda x: x * torch.sigmoid(x), "CPU")
library.impl("swish", torch.empty_like, "Meta")


@torch._decomp.register_decomposition([torch.ops.drift.swish.default])
def exported(x):
    return x * torch.sigmoid(x) + 1e-3


class Drifting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(8, 4)

    def forward(self, x):
        return torch.ops.drift.swish(self.mix(x))
"""


def main(folder: Path) -> None:
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "drifting.py").write_text(OPERATOR)
    sys.path.insert(0, str(folder / "code"))
    import drifting
    import torch

    torch.manual_seed(5)
    torch.save(drifting.Drifting().eval(), folder / "model.pth")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
