"""Networks such as a user may have: some are lanes, some are trained alone, some are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TABLE = torch.ones(64, dtype=torch.float32)


class Convolutional(nn.Module):
    """Has batch normalisation, two kinds of dropout, buffers of its own, and weights that NumPy has drawn."""

    def __init__(
        self, image_shape: tuple[int, int, int], classes: int, channels: int = 4, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(image_shape[0], channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.Tanh(),
            nn.Dropout2d(dropout),
            nn.MaxPool2d(2),
        )
        side = image_shape[1] // 2
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(channels * side * side, classes)
        self.scale = nn.Parameter(torch.as_tensor(np.random.uniform(0.5, 1.5, classes)).to(torch.get_default_dtype()))
        self.register_buffer("shift", torch.randn(classes))
        self.register_buffer("order", torch.randperm(classes))
        self.register_buffer("fixed", torch.rand(classes), persistent=False)

    def forward(self, x: Tensor) -> Any:
        x = self.drop(self.features(x).flatten(1))
        x = self.head(self.drop(x)) * self.scale + self.get_buffer("shift") * self.get_buffer("fixed")
        return x * self.get_buffer("order")


class Encoder(nn.Module):
    """A transformer's layer over the rows of an image, and an LSTM of two layers with dropout between them."""

    def __init__(self, image_shape: tuple[int, int, int], out_features: int) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(image_shape[2], 2, 16, dropout=0.1, batch_first=True)
        self.lstm = nn.LSTM(image_shape[2], 6, num_layers=2, dropout=0.3, batch_first=True)
        self.output = nn.Linear(6, out_features)

    def forward(self, x: Tensor) -> Any:
        outputs = self.lstm(self.encoder(x.squeeze(1)))[0]
        return self.output(outputs[:, -1])


class Linear(nn.Module):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_features, out_features)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Any:
        return self.layer(x.flatten(1))


class Draws(Linear):
    def forward(self, x: Tensor) -> Any:
        return self.layer(F.dropout(x.flatten(1), 0.5, self.training))


class Decides(Linear):
    def forward(self, x: Tensor) -> Any:
        outputs = self.layer(x.flatten(1))
        return outputs if outputs.sum() > 0 else 2 * outputs


class Closure(Linear):
    """Has a tensor that nobody sees from outside of its forward pass."""

    def forward(self, x: Tensor) -> Any:
        return self.layer(x.flatten(1) * TABLE)


class Holds(Linear):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.table = torch.ones(in_features)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x.flatten(1) * self.table)


class Frozen(Linear):
    """Has a layer that is not trained, and one that is not called."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, in_features)
        self.layer.requires_grad_(False)
        self.output = nn.LazyLinear(out_features)
        self.unused, self.silent = nn.Linear(3, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        return self.output(super().forward(x))


class Sequence(nn.Module):
    """Takes a text or a series, and says what it was given."""

    def __init__(self, length: int, out_features: int, vocabulary: int = 0, variables: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 3) if vocabulary else nn.Linear(variables, 3)
        self.output = nn.Linear(3 * length, out_features)

    def forward(self, x: Tensor) -> Any:
        return self.output(self.embedding(x).flatten(1))


class Pair(Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class Needs(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()


class Raises(nn.Module):
    def __init__(self, width: int = 3) -> None:
        raise ValueError(f"no width {width}")


class Half(Linear):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.half()

    def forward(self, x: Tensor) -> Any:
        return super().forward(x.half())


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x.flatten(1)[:, :10]


class NoNetwork:
    """Is no nn.Module."""


def small(classes: int, hidden: int = 5) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(hidden), nn.ReLU(), nn.Linear(hidden, classes))


def text() -> str:
    return "no network"
