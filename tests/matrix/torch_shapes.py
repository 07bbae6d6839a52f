# SPDX-License-Identifier: Apache-2.0
"""Torch modules of every common kind of layer, small, with weights from a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

AUTO = torch.export.Dim.AUTO


class Do(nn.Module):
    """A module of one expression over its parts and inputs."""

    def __init__(self, compute: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: Any) -> Any:
        return self.compute(self, *inputs)


@dataclass(frozen=True)
class Shape:
    """A module, the inputs it is captured with, and which axes of each stay free."""

    module: Callable[[], nn.Module]
    given: Callable[[], tuple[Any, ...]]
    free: tuple[Any, ...] | None = None

    def save(self, folder: Path, seed: int = 7) -> None:
        torch.manual_seed(seed)
        module, given = self.module().eval(), self.given()
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
        dims = self.free if self.free is not None else tuple(axes(x) for x in given)
        if isinstance(module, Do):  # its inputs are one argument to torch
            dims = (tuple(dims),)
        torch.export.save(torch.export.export(module, given, dynamic_shapes=dims), folder / "model.pt2")


def axes(value: Any) -> Any:
    return {0: AUTO} if isinstance(value, torch.Tensor) and value.ndim else None


def floats(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[], tuple[Any, ...]]:
    return lambda: (torch.randn(*shape, dtype=dtype),)


def ids(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape)


def of(compute: Callable[..., Any], given: Callable[[], tuple[Any, ...]], free: Any = None, **parts: Any) -> Shape:
    return Shape(lambda: Do(compute, **{name: make() for name, make in parts.items()}), given, free)


def layer(make: Callable[[], nn.Module], *shape: int) -> Shape:
    return Shape(make, floats(*shape))


def choose(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.cond(x.sum() > 0, lambda x, s: x * s, lambda x, s: -x, (x, scale))


def causal(self: Any, x: torch.Tensor) -> torch.Tensor:
    mask = torch.triu(torch.full((x.shape[1], x.shape[1]), float("-inf")), 1)
    return self.block(x, src_mask=mask, is_causal=False)


def rotary(self: Any, x: torch.Tensor) -> torch.Tensor:
    angle = torch.arange(x.shape[1])[:, None] / 10000 ** (torch.arange(0, 8, 2) / 8)
    left, right = x[..., 0::2], x[..., 1::2]
    turned = torch.stack((left * angle.cos() - right * angle.sin(), left * angle.sin() + right * angle.cos()), -1)
    return turned.flatten(-2)


def calendar(self: Any, ms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    seconds = torch.div(ms, 1000, rounding_mode="trunc")
    return seconds, (ms // 86400000 + 4) % 7, (seconds % 86400).float() / 86400


def time_embedding(self: Any, step: torch.Tensor) -> torch.Tensor:
    angle = step[:, None].float() * torch.exp(-torch.arange(4) * 2.0)
    return self.out(torch.cat((angle.sin(), angle.cos()), -1))


SHAPES: dict[str, Shape] = {
    # convolutions
    "conv1d": layer(lambda: nn.Conv1d(3, 8, 5, stride=2, padding=2, dilation=2), 3, 3, 40),
    "conv2d grouped": layer(lambda: nn.Conv2d(4, 8, 3, groups=4, padding="same"), 3, 4, 12, 12),
    "conv3d": layer(lambda: nn.Conv3d(2, 4, 3, padding=1), 3, 2, 6, 6, 6),
    "conv transposed 2d": layer(lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1), 3, 3, 7, 7),
    "conv transposed 1d": layer(lambda: nn.ConvTranspose1d(3, 4, 4, stride=2, padding=1), 3, 3, 9),
    "conv reflect padding": layer(lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), 3, 3, 8, 8),
    "conv free length": Shape(lambda: nn.Conv1d(3, 8, 3, padding=1), floats(3, 3, 40), ({0: AUTO, 2: AUTO},)),
    "pixel shuffle": layer(lambda: nn.PixelShuffle(2), 3, 8, 5, 5),
    "unfold": layer(lambda: nn.Unfold(3, padding=1), 3, 2, 7, 7),
    # norms
    "batch norm": layer(lambda: nn.BatchNorm2d(4), 3, 4, 6, 6),
    "layer norm": layer(lambda: nn.LayerNorm(16), 3, 5, 16),
    "group norm": layer(lambda: nn.GroupNorm(2, 8), 3, 8, 6, 6),
    "instance norm": layer(lambda: nn.InstanceNorm2d(4, affine=True), 3, 4, 6, 6),
    "rms norm": layer(lambda: nn.RMSNorm(16), 3, 5, 16),
    "local response norm": layer(lambda: nn.LocalResponseNorm(3), 3, 6, 5, 5),
    "weight norm": layer(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)), 3, 8),
    # pooling
    "max pool": layer(lambda: nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), 3, 4, 11, 11),
    "average pool": layer(lambda: nn.AvgPool2d(3, stride=2, count_include_pad=False, padding=1), 3, 4, 11, 11),
    "adaptive average pool": layer(lambda: nn.AdaptiveAvgPool2d((2, 3)), 3, 4, 8, 9),
    "adaptive max pool": layer(lambda: nn.AdaptiveMaxPool1d(4), 3, 4, 16),
    "lp pool": layer(lambda: nn.LPPool2d(2, 3, stride=2), 3, 4, 9, 9),
    # recurrent
    "rnn": of(lambda m, x: m.rnn(x)[0], floats(3, 7, 6), rnn=lambda: nn.RNN(6, 8, batch_first=True)),
    "lstm": of(lambda m, x: m.rnn(x)[0], floats(3, 7, 6), rnn=lambda: nn.LSTM(6, 8, batch_first=True)),
    "lstm two ways": of(
        lambda m, x: m.rnn(x)[0][:, -1],
        floats(3, 7, 6),
        rnn=lambda: nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True),
    ),
    "gru": of(lambda m, x: m.rnn(x)[1], floats(3, 7, 6), rnn=lambda: nn.GRU(6, 8, batch_first=True)),
    "lstm with state": of(
        lambda m, x, h, c: m.rnn(x, (h, c)),
        lambda: (torch.randn(7, 3, 6), torch.randn(1, 3, 8), torch.randn(1, 3, 8)),
        ({1: AUTO}, {1: AUTO}, {1: AUTO}),
        rnn=lambda: nn.LSTM(6, 8),
    ),
    "gru cell": of(
        lambda m, x, h: m.cell(x, h), lambda: (torch.randn(3, 6), torch.randn(3, 8)), cell=lambda: nn.GRUCell(6, 8)
    ),
    # attention
    "attention": of(
        lambda m, x: m.att(x, x, x, need_weights=False)[0],
        floats(3, 7, 16),
        att=lambda: nn.MultiheadAttention(16, 4, batch_first=True),
    ),
    "attention with weights": of(
        lambda m, x, y: m.att(x, y, y),
        lambda: (torch.randn(3, 7, 16), torch.randn(3, 5, 16)),
        att=lambda: nn.MultiheadAttention(16, 4, batch_first=True),
    ),
    "transformer encoder": Shape(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2),
        floats(3, 7, 16),
        ({0: AUTO, 1: AUTO},),
    ),
    "transformer encoder, hidden padding": of(
        lambda m, t, pad: m.enc(m.emb(t), src_key_padding_mask=pad),
        lambda: (ids(50, 3, 7), torch.zeros(3, 7, dtype=torch.bool)),
        ({0: AUTO, 1: AUTO},) * 2,
        emb=lambda: nn.Embedding(50, 16),
        enc=lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2),
    ),
    "transformer encoder, shown places": of(
        lambda m, t, keep: m.enc(m.emb(t), src_key_padding_mask=~keep).mean(1),
        lambda: (ids(50, 3, 7), torch.ones(3, 7, dtype=torch.bool)),
        ({0: AUTO, 1: AUTO},) * 2,
        emb=lambda: nn.Embedding(50, 16),
        enc=lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2),
    ),
    "softmax over hidden places": of(
        lambda m, x, pad: m.out(x).masked_fill(pad[..., None], float("-inf")).softmax(1),
        lambda: (torch.randn(3, 7, 8), torch.zeros(3, 7, dtype=torch.bool)),
        ({0: AUTO, 1: AUTO},) * 2,
        out=lambda: nn.Linear(8, 4),
    ),
    "causal attention": of(
        causal, floats(3, 7, 16), block=lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    ),
    "transformer decoder": of(
        lambda m, x, y: m.dec(x, y),
        lambda: (torch.randn(3, 5, 16), torch.randn(3, 7, 16)),
        dec=lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), 1),
    ),
    "rotary positions": of(rotary, floats(3, 7, 8)),
    "vision transformer": of(
        lambda m, x: m.head(m.enc(m.patch(x).flatten(2).transpose(1, 2)).mean(1)),
        floats(3, 3, 16, 16),
        patch=lambda: nn.Conv2d(3, 16, 4, stride=4),
        head=lambda: nn.Linear(16, 5),
        enc=lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu"),
    ),
    # embeddings and indices
    "embedding": of(
        lambda m, x: m.out(m.emb(x).mean(1)),
        lambda: (ids(97, 3, 7),),
        ({0: AUTO, 1: AUTO},),
        emb=lambda: nn.Embedding(97, 8, padding_idx=0),
        out=lambda: nn.Linear(8, 3),
    ),
    "embedding bag": of(
        lambda m, x: m.bag(x), lambda: (ids(40, 3, 7),), bag=lambda: nn.EmbeddingBag(40, 8, mode="mean")
    ),
    "two vocabularies": of(
        lambda m, user, item: (m.users(user) * m.items(item)).sum(-1),
        lambda: (ids(1000, 3), ids(30, 3)),
        users=lambda: nn.Embedding(1000, 8),
        items=lambda: nn.Embedding(30, 8),
    ),
    "one hot": of(lambda m, x: m.out(F.one_hot(x, 11).float()), lambda: (ids(11, 3, 4),), out=lambda: nn.Linear(11, 3)),
    "gather": of(lambda m, x, i: x.gather(1, i), lambda: (torch.randn(3, 9), ids(9, 3, 4))),
    "scatter add": of(
        lambda m, x, i: torch.zeros(x.shape[0], 9).scatter_add(1, i, x), lambda: (torch.randn(3, 4), ids(9, 3, 4))
    ),
    "index select": of(lambda m, x: x[:, torch.tensor([3, 0, 2])], floats(3, 5)),
    "advanced indexing": of(lambda m, x, i: x[torch.arange(x.shape[0]), i], lambda: (torch.randn(3, 6), ids(6, 3))),
    "writes in place": of(lambda m, x: write(x), floats(3, 6)),
    # functions
    "interpolate bilinear": of(lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"), floats(3, 2, 6, 6)),
    "interpolate nearest": of(lambda m, x: F.interpolate(x, size=(9, 13), mode="nearest"), floats(3, 2, 6, 6)),
    "interpolate bicubic": of(
        lambda m, x: F.interpolate(x, size=(9, 13), mode="bicubic", align_corners=True), floats(3, 2, 6, 6)
    ),
    "interpolate antialias": of(
        lambda m, x: F.interpolate(x, size=(4, 5), mode="bilinear", antialias=True), floats(3, 2, 9, 9)
    ),
    "grid sample": of(
        lambda m, x, g: F.grid_sample(x, g.tanh(), align_corners=False),
        lambda: (torch.randn(3, 2, 6, 6), torch.randn(3, 4, 4, 2)),
    ),
    "affine grid": of(
        lambda m, x: F.grid_sample(x, F.affine_grid(m.out(x.flatten(1)).view(-1, 2, 3), [x.shape[0], 2, 6, 6])),
        floats(3, 2, 6, 6),
        out=lambda: nn.Linear(72, 6),
    ),
    "einsum": of(
        lambda m, x, y: torch.einsum("bij,bkj->bik", x, y), lambda: (torch.randn(3, 4, 5), torch.randn(3, 6, 5))
    ),
    "cumulative sum": of(lambda m, x: (x.cumsum(1), x.flip(1).cumsum(-1)), floats(3, 7)),
    "cumulative product": of(lambda m, x: x.cumprod(1), floats(3, 7)),
    "top k": of(lambda m, x: tuple(x.topk(3, dim=1)), floats(3, 9)),
    "sort": of(lambda m, x: x.sort(dim=1, descending=True)[0], floats(3, 9)),
    "argmax": of(lambda m, x: m.out(x).argmax(-1), floats(3, 9), out=lambda: nn.Linear(9, 5)),
    "where and masks": of(
        lambda m, x, on: torch.where(on, x, x.exp()).masked_fill(x > 2, 0),
        lambda: (torch.randn(3, 5), torch.ones(3, 5) > 0),
    ),
    "log sum exp": of(lambda m, x: torch.logsumexp(x * 50, 1), floats(3, 9)),
    "variance": of(lambda m, x: (x.var(1), x.std(1, unbiased=False), x.norm(dim=1)), floats(3, 9)),
    "distances": of(lambda m, x: torch.cdist(x, m.ref.weight), floats(3, 9), ref=lambda: nn.Linear(9, 4)),
    "cosine similarity": of(lambda m, x, y: F.cosine_similarity(x, y), lambda: (torch.randn(3, 9), torch.randn(3, 9))),
    "triangular": of(lambda m, x: x.tril() - x.triu(1), floats(3, 5, 5)),
    "activations": of(
        lambda m, x: torch.cat(
            [
                f(x)
                for f in (
                    F.gelu,
                    F.silu,
                    F.mish,
                    F.softplus,
                    F.hardswish,
                    F.elu,
                    F.selu,
                    F.celu,
                    F.hardtanh,
                    F.relu6,
                    F.logsigmoid,
                    F.tanhshrink,
                    F.softsign,
                    F.glu,
                )
            ],
            -1,
        ),
        floats(3, 8),
    ),
    "prelu and friends": Shape(lambda: nn.Sequential(nn.Linear(8, 8), nn.PReLU(8), nn.LeakyReLU(0.2)), floats(3, 8)),
    "fourier": of(lambda m, x: torch.fft.rfft(x).abs(), floats(3, 16)),
    "stft": of(
        lambda m, x: torch.stft(x, 16, 8, window=torch.hann_window(16), return_complex=True).abs(), floats(3, 64)
    ),
    "inverse": of(lambda m, x: torch.linalg.inv(x + 5 * torch.eye(4)), floats(3, 4, 4)),
    "determinant": of(lambda m, x: torch.linalg.det(x), floats(3, 4, 4)),
    "roll and flip": of(lambda m, x: x.roll(2, 1).flip(1), floats(3, 7)),
    "nan to num": of(lambda m, x: torch.nan_to_num(x / x.round()), floats(3, 7)),
    "bucketize": of(lambda m, x: torch.bucketize(x, torch.linspace(-2, 2, 9)), floats(3, 7)),
    "repeat interleave": of(lambda m, x: x.repeat_interleave(3, 1), floats(3, 4)),
    # structure
    "dict in and out": Shape(
        lambda: Pair(), lambda: ({"a": torch.randn(3, 4), "b": torch.randn(3, 4)},), ({"a": {0: AUTO}, "b": {0: AUTO}},)
    ),
    "none among outputs": of(
        lambda m, x: {"logits": m.out(x), "loss": None}, floats(3, 8), out=lambda: nn.Linear(8, 3)
    ),
    "tuple of tuples": of(lambda m, x: ((x, x + 1), [x * 2]), floats(3, 4)),
    "constant output": of(lambda m, x: (x * 2, torch.ones(3)), floats(3, 4)),
    "input as output": of(lambda m, x: (x, x.exp()), floats(3, 4)),
    "cond": of(lambda m, x: choose(m.out(x), torch.tensor(2.0)), floats(3, 4), out=lambda: nn.Linear(4, 4)),
    "scalar output": of(lambda m, x: x.sum(), floats(3, 4)),
    "scalar input": of(lambda m, x, s: x * s, lambda: (torch.randn(3, 4), torch.tensor(2.0))),
    # types
    "calendar of milliseconds": of(calendar, lambda: (ids(10**12, 3),)),
    "integer arithmetic": of(
        lambda m, x: (x.abs(), x % 11, torch.fmod(x, 9), x.clamp(-7, 1 << 40), x.sign(), x.sum(1), x.amax(1), x >> 2),
        lambda: (ids(99, 3, 5),),
    ),
    "integers as numbers": Shape(
        lambda: Do(lambda m, x: m.net(x.float()), net=nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))),
        lambda: (ids(99, 3, 6),),
    ),
    "time step embedding": of(time_embedding, lambda: (ids(1000, 3),), out=lambda: nn.Linear(8, 4)),
    "hashed ids": of(
        lambda m, x: m.emb((x * 2654435761 % 1000003) % 64), lambda: (ids(99, 3, 4),), emb=lambda: nn.Embedding(64, 8)
    ),
    "int32 counts": of(lambda m, x: torch.log1p(x.clamp(min=0).float()), lambda: (ids(9, 3, 4).int(),)),
    "bytes": of(
        lambda m, x: m.conv(x.float() / 255),
        lambda: (ids(255, 3, 3, 8, 8).to(torch.uint8),),
        conv=lambda: nn.Conv2d(3, 4, 3),
    ),
    "double": Shape(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double(), floats(3, 6, dtype=torch.float64)
    ),
    "double, centred": of(lambda m, x: x - x.mean(1, keepdim=True), floats(3, 6, dtype=torch.float64)),
    "bfloat16": Shape(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2)).bfloat16(),
        floats(3, 6, dtype=torch.bfloat16),
    ),
    "float16": Shape(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).half(),
        floats(3, 3, 8, 8, dtype=torch.float16),
    ),
    "complex": of(lambda m, x: torch.fft.fft(x), floats(3, 8)),
    "eigenvalues": of(lambda m, x: torch.linalg.eigvalsh(x + x.mT), floats(3, 4, 4)),
    "large inputs": Shape(lambda: nn.Sequential(nn.Flatten(), nn.Linear(512 * 128, 4)), floats(3, 512, 128)),
}


def write(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y[:, ::2] = x[:, ::2] * 2
    y[:, 1] += 1
    return y


class Pair(nn.Module):
    def forward(self, pair: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"sum": pair["a"] + pair["b"], "ratio": pair["a"] / (pair["b"].abs() + 1)}
