# SPDX-License-Identifier: Apache-2.0
"""Real models for end-to-end tests, written to disk by a process of their own. Usage: models.py KIND FOLDER [SEED].

cnn      a convolutional net with batch norm, as .pt2 with a dynamic batch
resnet   a residual net of the size and shape of ResNet-50 (25.6 M parameters), as .pt2 with a dynamic batch
sinus    positions computed in `forward`: the exporter folds exp, sin and cos with the host's instructions
branch   Python control flow on data, as a pickle: cannot be exported
network  a pickle whose opening tries to reach the network
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.net(image)


class Bottleneck(nn.Module):
    def __init__(self, width: int, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, outer, 1, bias=False),
            nn.BatchNorm2d(outer),
        )
        fits = stride == 1 and width == outer
        self.skip = nn.Identity() if fits else nn.Sequential(nn.Conv2d(width, outer, 1, stride), nn.BatchNorm2d(outer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class ResNet(nn.Module):
    """ResNet-50: four stages of 3, 4, 6 and 3 bottlenecks."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        width = 64
        for stage, count in enumerate((3, 4, 6, 3)):
            for index in range(count):
                inner = 64 << stage
                layers.append(Bottleneck(width, inner, 4 * inner, 2 if stage and not index else 1))
                width = 4 * inner
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.net(image)


class Sinus(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        position = torch.arange(48, dtype=torch.float32)[:, None]
        rate = torch.exp(torch.arange(0, 64, 2, dtype=torch.float32) * -(9.210340371976184 / 64))
        table = torch.cat([torch.sin(position * rate), torch.cos(position * rate)], dim=1)
        scale = torch.tanh(torch.log1p(torch.arange(64, dtype=torch.float32)))
        return self.mix(x * scale + table)


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return self.mix(x)
        return -self.mix(x)


class Caller:
    """Pickles to a call that opens a connection and writes a canary when it is opened."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("import socket; socket.create_connection(('127.0.0.1', 9), timeout=5)",)


def settle(model: nn.Module, example: torch.Tensor) -> nn.Module:
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn_like(example))
    return model.eval()


def main(kind: str, folder: Path, seed: int = 3) -> None:
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    batch = torch.export.Dim("batch", min=1, max=64)
    if kind == "cnn":
        example = torch.randn(4, 1, 8, 8)
        torch.export.save(
            torch.export.export(settle(Cnn(), example), (example,), dynamic_shapes=({0: batch},)), folder / "model.pt2"
        )
    elif kind == "resnet":
        example = torch.randn(2, 3, 64, 64)
        small = torch.export.Dim("batch", min=1, max=8)
        torch.export.save(
            torch.export.export(settle(ResNet(), example), (example,), dynamic_shapes=({0: small},)),
            folder / "model.pt2",
        )
    elif kind == "sinus":
        example = torch.randn(4, 48, 64)
        torch.export.save(
            torch.export.export(Sinus().eval(), (example,), dynamic_shapes=({0: batch},)), folder / "model.pt2"
        )
    elif kind == "branch":
        torch.save(Branch().eval(), folder / "model.pth")
        (folder / "models.py").write_text(Path(__file__).read_text())
    elif kind == "network":
        torch.save(Caller(), folder / "model.pth")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
