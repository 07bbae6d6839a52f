# SPDX-License-Identifier: Apache-2.0
"""Small real networks in which faults are planted, as they are registered: one function each, which writes a source."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3), nn.Softmax(-1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Means(nn.Module):
    """Sums up two axes apart."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(-1) + x.amax(-1)


class Words(nn.Module):
    """Embeddings of tokens and of their places."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place, self.last = nn.Embedding(20, 6), nn.Embedding(8, 6), nn.Linear(6, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.token(ids) + self.place.weight)).mean(1)


class Times(nn.Module):
    """Hours and days of time stamps in milliseconds."""

    def forward(self, stamp: torch.Tensor) -> torch.Tensor:
        hour = torch.div(stamp, 3_600_000, rounding_mode="floor")
        return torch.remainder(hour, 24) + 100 * torch.remainder(torch.div(hour, 24, rounding_mode="floor"), 7)


class Attention(nn.Module):
    """One head, places hidden by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = self.query(x) @ self.key(x).transpose(-1, -2) / math.sqrt(8)
        scores = scores.masked_fill(~mask[:, None, :], -1e9)
        return torch.softmax(scores, -1) @ x


class Choice(nn.Module):
    """The first of the largest of whole scores: they tie often."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.argmax(torch.round(self.score(x)), -1)


def _torch(kind: Callable[[], nn.Module], *given: torch.Tensor) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.manual_seed(5)
        module = kind().eval()
        dims = tuple({0: torch.export.Dim("batch", min=1, max=16)} for _ in given)
        folder.mkdir(parents=True)
        torch.export.save(torch.export.export(module, given, dynamic_shapes=dims), folder / "model.pt2")
        return folder

    return write


def _bert(folder: Path) -> Path:
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=50,
        max_position_embeddings=24,
        num_labels=3,
        initializer_range=0.2,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "small", "cat"]
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


MODELS: dict[str, Callable[[Path], Path]] = {
    "mlp": _torch(Mlp, torch.randn(2, 6)),
    "cnn": _torch(Cnn, torch.randn(2, 1, 8, 8)),
    "norm": _torch(Norm, torch.randn(2, 6)),
    "means": _torch(Means, torch.randn(2, 5, 5)),
    "embedding": _torch(Words, torch.randint(0, 20, (2, 8))),
    "times": _torch(Times, torch.randint(0, 1 << 40, (2, 3))),
    "attention": _torch(Attention, torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)),
    "choice": _torch(Choice, torch.randn(2, 4)),
    "bert": _bert,
}
