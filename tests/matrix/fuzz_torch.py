# SPDX-License-Identifier: Apache-2.0
"""Random small torch modules, each exported, measured and compared on fresh inputs.

`python -m tests.matrix.fuzz_torch FIRST COUNT [FILE]` judges the modules of the seeds FIRST, FIRST+1, … and appends one
row of JSON each to FILE. The same seed is the same module.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.matrix import shape_verdicts
from tests.matrix.torch_shapes import AUTO, Shape
from tests.matrix.verdicts import Row

Step = tuple[str, nn.Module | None, Callable[..., torch.Tensor]]  # a name, its part, and what it computes
Made = tuple[Step, tuple[int, ...]]  # with the shape it leaves, without the batch


class Chain(nn.Module):
    """Steps one after the other; `taps` are the places whose results are returned beside the last."""

    def __init__(self, steps: list[Step], taps: list[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList([part or nn.Identity() for _, part, _ in steps])
        self.steps, self.taps = steps, taps

    def forward(self, x: torch.Tensor) -> Any:
        seen = []
        for part, (_, _, compute) in zip(self.parts, self.steps, strict=True):
            x = compute(part, x)
            seen.append(x)
        kept = [seen[index] for index in self.taps]
        return (*kept, x) if kept else x


def applied(name: str, part: nn.Module, out: tuple[int, ...]) -> Made:
    return (name, part, lambda part, x: part(x)), out


def computed(name: str, compute: Callable[[torch.Tensor], torch.Tensor], out: tuple[int, ...]) -> Made:
    return (name, None, lambda part, x: compute(x)), out


def elementwise(rng: Random, shape: tuple[int, ...]) -> Made:
    name = rng.choice(sorted(ELEMENTWISE))
    return computed(name, ELEMENTWISE[name], shape)


ELEMENTWISE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "elu": F.elu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "square": lambda x: x.clamp(-9, 9).square(),
    "abs": torch.abs,
    "clamp": lambda x: x.clamp(-1, 1),
    "sin": lambda x: x.clamp(-9, 9).sin(),
    "exp": lambda x: x.clamp(-5, 5).exp(),
    "log": lambda x: x.abs().log1p(),
    "sqrt": lambda x: (x.abs() + 1e-3).sqrt(),
    "half": lambda x: x / 2,
    "residual": lambda x: x + F.relu(x),
    "erf": torch.erf,
    "rsqrt": lambda x: (x * x + 1).rsqrt(),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "softsign": F.softsign,
    "reciprocal": lambda x: 1 / (x.abs() + 1),
    "mask": lambda x: x.masked_fill(x < -1, -1.0),
    "pow": lambda x: x.abs().clamp(max=9).pow(1.5),
    "minus": lambda x: -x,
    "maximum": lambda x: torch.maximum(x, -0.5 * x),
    "atan": torch.atan,
    "fraction": lambda x: x * 1.25 - 0.5,
}


def on_vector(rng: Random, shape: tuple[int, ...]) -> Made:
    (n,) = shape
    out = rng.choice((3, 4, 8, 12))
    options: list[Callable[[], Made]] = [
        lambda: applied("linear", nn.Linear(n, out, bias=rng.random() < 0.7), (out,)),
        lambda: applied("layer norm", nn.LayerNorm(n), shape),
        lambda: applied("batch norm", nn.BatchNorm1d(n), shape),
        lambda: computed("softmax", lambda x: x.softmax(-1), shape),
        lambda: computed("log softmax", lambda x: x.log_softmax(-1), shape),
        lambda: computed("normalise", lambda x: F.normalize(x, dim=-1, eps=1e-3), shape),
        lambda: computed("cumsum", lambda x: x.cumsum(1), shape),
        lambda: computed("flip", lambda x: x.flip(1), shape),
        lambda: computed("concat", lambda x: torch.cat((x, x.abs()), 1), (2 * n,)),
        lambda: computed("outer", lambda x: x[:, :, None] * x[:, None, :3], (n, min(3, n))),
        lambda: computed("sequence", lambda x: x.view(-1, 1, n), (1, n)),
        lambda: computed("roll", lambda x: x.roll(1, 1), shape),
        lambda: computed("centre", lambda x: x - x.mean(1, keepdim=True), shape),
        lambda: computed("sorted", lambda x: x.sort(1)[0], shape),
        lambda: computed("top", lambda x: x.topk(min(3, n), 1)[0], (min(3, n),)),
        lambda: computed("pad", lambda x: F.pad(x, (1, 2)), (n + 3,)),
        lambda: elementwise(rng, shape),
    ]
    return rng.choice(options)()


def on_sequence(rng: Random, shape: tuple[int, ...]) -> Made:
    t, n = shape
    out = rng.choice((4, 8))
    options: list[Callable[[], Made]] = [
        lambda: applied("linear", nn.Linear(n, out), (t, out)),
        lambda: applied("layer norm", nn.LayerNorm(n), shape),
        lambda: applied("rms norm", nn.RMSNorm(n), shape),
        lambda: (("lstm", nn.LSTM(n, out, batch_first=True, bidirectional=rng.random() < 0.3), first), (t, -out)),
        lambda: (("gru", nn.GRU(n, out, batch_first=True), first), (t, out)),
        lambda: (("conv1d", nn.Conv1d(n, out, 3, padding=1), turned), (t, out)),
        lambda: attention(n, shape),
        lambda: computed("mean", lambda x: x.mean(1), (n,)),
        lambda: computed("largest", lambda x: x.amax(1), (n,)),
        lambda: computed("last", lambda x: x[:, -1], (n,)),
        lambda: computed("flatten", lambda x: x.flatten(1), (t * n,)),
        lambda: computed("transpose", lambda x: x.transpose(1, 2), (n, t)),
        lambda: computed("scores", lambda x: torch.einsum("bid,bjd->bij", x, x).softmax(-1), (t, t)),
        lambda: computed("cumsum", lambda x: x.cumsum(1), shape),
        lambda: computed("image", lambda x: x[:, None], (1, t, n)),
        lambda: elementwise(rng, shape),
    ]
    step, left = rng.choice(options)()
    if left[-1] < 0:  # a recurrent layer says by itself how wide it is
        part: Any = step[1]
        left = (t, out * (2 if part.bidirectional else 1))
    return step, left


def first(part: Any, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = part(x)[0]
    return found


def turned(part: Any, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = part(x.transpose(1, 2)).transpose(1, 2)
    return found


def attention(n: int, shape: tuple[int, ...]) -> Made:
    heads = 2 if n % 2 == 0 else 1
    part = nn.MultiheadAttention(n, heads, batch_first=True)
    return ("attention", part, lambda part, x: x + part(x, x, x, need_weights=False)[0]), shape


def on_image(rng: Random, shape: tuple[int, ...]) -> Made:
    c, h, w = shape
    out, kernel, stride = rng.choice((2, 4)), rng.choice((1, 3)), rng.choice((1, 2))
    size = tuple((side + 2 * (kernel // 2) - kernel) // stride + 1 for side in (h, w))
    options: list[Callable[[], Made]] = [
        lambda: applied("conv", nn.Conv2d(c, out, kernel, stride=stride, padding=kernel // 2), (out, *size)),
        lambda: applied("depthwise", nn.Conv2d(c, c, 3, padding=1, groups=c), shape),
        lambda: applied("batch norm", nn.BatchNorm2d(c), shape),
        lambda: applied("group norm", nn.GroupNorm(1, c), shape),
        lambda: applied("instance norm", nn.InstanceNorm2d(c), shape) if h * w > 3 else elementwise(rng, shape),
        lambda: applied("up", nn.ConvTranspose2d(c, out, 2, stride=2), (out, 2 * h, 2 * w)),
        lambda: computed("max pool", lambda x: F.max_pool2d(x, 3, 1, 1), shape),
        lambda: computed("average pool", lambda x: F.avg_pool2d(x, 3, 1, 1), shape),
        lambda: computed("pooled", lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), (c,)),
        lambda: computed("resize", lambda x: F.interpolate(x, size=(5, 6), mode="bilinear"), (c, 5, 6)),
        lambda: computed("nearest", lambda x: F.interpolate(x, scale_factor=2), (c, 2 * h, 2 * w)),
        lambda: computed("flatten", lambda x: x.flatten(1), (c * h * w,)),
        lambda: computed("tokens", lambda x: x.flatten(2).transpose(1, 2), (h * w, c)),
        lambda: computed("channel softmax", lambda x: x.softmax(1), shape),
        lambda: computed("squeeze and excite", lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), shape),
        lambda: (
            computed("reflect", lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), (c, h + 2, w + 2))
            if min(h, w) > 1
            else elementwise(rng, shape)
        ),
        lambda: elementwise(rng, shape),
    ]
    return rng.choice(options)()


def on_integers(rng: Random, shape: tuple[int, ...]) -> Made:
    """Take a step from integers, of shape [batch, n], to floats."""
    (n,) = shape
    size, k = rng.choice((7, 50, 300)), rng.choice((3, 7, -5, 1000))
    options: list[Callable[[], Made]] = [
        lambda: applied("embedding", nn.Embedding(size, 8), (n, 8)),
        lambda: (("bag", nn.EmbeddingBag(size, 8, mode=rng.choice(("mean", "sum", "max"))), lambda p, x: p(x)), (8,)),
        lambda: (("hashed", nn.Embedding(16, 8), lambda p, x: p((x * 40503 % 65537) % 16)), (n, 8)),
        lambda: computed("one hot", lambda x: F.one_hot(x, 9).float(), (n, 9)),
        lambda: computed("quotient", lambda x: (torch.div(x, k, rounding_mode="trunc") % 100).float(), shape),
        lambda: computed("floor", lambda x: (torch.div(x, k, rounding_mode="floor") % 97).float(), shape),
        lambda: computed(
            "parts", lambda x: torch.cat((x // 60 % 60, x % 60, torch.fmod(x, 24)), 1).float() / 60, (3 * n,)
        ),
        lambda: computed("clamped", lambda x: x.clamp(0, 99).float() / 99, shape),
        lambda: computed("compared", lambda x: (x > 1 << 31).float() + x.sign().float(), shape),
        lambda: computed("largest", lambda x: (x - x.amin(1, keepdim=True)).clamp(max=9).float(), shape),
        lambda: computed("total", lambda x: (x.sum(1, keepdim=True) % 1001).float(), (1,)),
        lambda: computed("bits", lambda x: ((x[:, :, None] >> torch.arange(8)) & 1).float(), (n, 8)),
    ]
    return rng.choice(options)()


STEPS = {1: on_vector, 2: on_sequence, 3: on_image}
STARTS: list[tuple[int, ...]] = [(6,), (5, 8), (3, 8, 8)]
_MOST = 4096  # numbers per row


def chain(seed: int) -> tuple[Shape, str]:
    """Return the module of a seed and the names of its steps."""
    rng = Random(seed)
    torch.manual_seed(seed)
    whole = rng.random() < 0.3
    shape = (rng.choice((1, 4, 7)),) if whole else rng.choice(STARTS)
    given = torch.ones(3, *shape, dtype=torch.int64) if whole else torch.randn(3, *shape)
    steps: list[Step] = []
    for index in range(rng.randint(2, 8)):
        step, left = on_integers(rng, shape) if whole and not index else STEPS[len(shape)](rng, shape)
        if torch.Size(left).numel() > _MOST or min(left) < 1:
            continue
        steps.append(step)
        shape = left
    taps = [rng.randrange(len(steps))] if steps and rng.random() < 0.3 else []
    free = ({0: AUTO},)
    return Shape(lambda: Chain(steps, taps), lambda: (given,), free), ", ".join(name for name, _, _ in steps)


def judged(seed: int, folder: Path) -> Row:
    """Return what becomes of the module of a seed."""
    shape, names = chain(seed)
    (folder / "source").mkdir(parents=True)
    shape.save(folder / "source", seed)
    return shape_verdicts.judged(
        "fuzz", f"{seed}: {names}", folder / "source", folder / "out", dynamic={"batch": [1, 7]}
    )


def main(start: int, count: int, file: str = "/dev/stdout") -> None:
    """Judge modules and write their rows."""
    for seed in range(start, start + count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = judged(seed, Path(folder))
            except Exception as error:  # a module that torch itself does not capture is not judged
                row = Row("fuzz", str(seed), "not captured", reason=repr(error)[:300])
        with open(file, "a") as sink:
            sink.write(f"{row.line()}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
