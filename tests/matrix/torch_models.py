# SPDX-License-Identifier: Apache-2.0
"""Write one torch or transformers model, weights from a fixed seed: `python torch_models.py KIND FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

SIDE = 64


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.net(image)


def settled(model: nn.Module) -> nn.Module:
    """Give batch norms statistics of data, as training would."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, SIDE, SIDE))
    return model.eval()


def exported(model: nn.Module, path: Path) -> None:
    dims = ({0: torch.export.Dim("batch", min=1, max=8)},)
    torch.export.save(torch.export.export(model, (torch.randn(2, 3, SIDE, SIDE),), dynamic_shapes=dims), path)


def resnet(path: Path) -> None:
    """ResNet-50 by its configuration: 25.6 million parameters."""
    from transformers import ResNetConfig, ResNetForImageClassification

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = ResNetForImageClassification(ResNetConfig(num_labels=1000))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.model(pixel_values=image).logits

    exported(settled(Logits()), path)


def bert(folder: Path) -> None:
    """BERT-base by its configuration: 110 million parameters."""
    from transformers import BertConfig, BertModel

    BertModel(BertConfig()).eval().save_pretrained(folder)


def decoder(folder: Path) -> None:
    """A small GPT-2, without a cache of keys and values: 14 million parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=4, n_head=4, n_embd=256, vocab_size=40000, n_positions=256, use_cache=False)
    GPT2LMHeadModel(config).eval().save_pretrained(folder)


def main(kind: str, folder: Path) -> None:
    torch.manual_seed(7)
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "pickled":
        torch.save(settled(Cnn()), folder / "model.pth")
        (folder / "code").mkdir()
        (folder / "code" / "torch_models.py").write_text(Path(__file__).read_text())
    elif kind == "pt2":
        exported(settled(Cnn()), folder / "model.pt2")
    elif kind == "script":
        torch.jit.save(torch.jit.script(settled(Cnn())), folder / "model.ts")
    elif kind == "resnet":
        resnet(folder / "model.pt2")
    elif kind == "bert":
        bert(folder)
    elif kind == "decoder":
        decoder(folder)


if __name__ == "__main__":
    if sys.argv[1] == "pickled":  # under its own name, as a module that the pickle can name
        sys.path.insert(0, str(Path(__file__).parent))
        import torch_models

        torch_models.main(sys.argv[1], Path(sys.argv[2]))
    else:
        main(sys.argv[1], Path(sys.argv[2]))
