"""What tells whether a network is in good health while it trains: how it is measured, for a trial alone and for lanes.

* `grad_norm_first`, `grad_norm_last`: L2 norm of the gradient of the first and of the last weight matrix, in the
  epoch's last step, with penalties and before clipping, as `grad_norm`.
* `grad_norm/LAYER`: the same of each weight matrix, counted from 01 in the network's order, as
  `grad_norm/02.linear2`; only where they are asked for, and not where stages are frozen.
* `update_ratio`: L2 norm of the epoch's last update by that of the parameters before it, of 1,024 of them where there
  are more, see `sampled`.
* `dead_units`: share of the units behind a ReLU that are 0 for every example of a part of validation, of at most 1,024
  examples; the mean over the parts.
* `saturated_units`: share of the outputs of sigmoid and tanh layers within 1 % of their range of an end of it, on
  validation.
* `peak_memory`: bytes, see `peak_memory`; no sign of health, but of what a trial costs.

Gradients that vanish with depth, and saturated units: Glorot & Bengio 2010. The ratio of updates to weights: Karpathy,
CS231n notes, "Neural networks part 3" (about 1e-3 is healthy).
"""

from __future__ import annotations

import itertools
import resource
import sys
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from swathe.training.symptoms import LAYER_NORMS

# So many parameters say how far an update moves all of them, each a place in its part that this number gives.
SAMPLE, GOLDEN = 1024, (5**0.5 - 1) / 2
# Layers whose units can be 0 for ever, and whose outputs can be at an end of their range.
_MAY_DIE = (nn.ReLU,)
_MAY_SATURATE = (nn.Sigmoid, nn.Tanh)
# Of a sigmoid's range, and of tanh's, which is twice as wide.
_NEAR_AN_END = 0.01


def first_and_last_weights(shapes: Iterable[torch.Size]) -> tuple[int, int]:
    """Return which parameters are the first and the last weight matrix; a network that has none has its ends."""
    every = list(shapes)
    matrices = [index for index, shape in enumerate(every) if len(shape) > 1] or [0, len(every) - 1]
    return matrices[0], matrices[-1]


def layer_metrics(names: Sequence[str], shapes: Iterable[torch.Size]) -> list[str]:
    """Return the metrics of the gradient's norm by layer, in order: one for each parameter that is a matrix."""
    matrices = [name for name, shape in zip(names, shapes, strict=True) if len(shape) > 1]
    digits = max(2, len(str(len(matrices))))
    layers = (name.removesuffix(".weight") for name in matrices)
    return [f"{LAYER_NORMS}{at:0{digits}}.{layer}" for at, layer in enumerate(layers, start=1)]


def layers_between(shapes: Iterable[torch.Size]) -> list[int]:
    """Return which parameters are the weight matrices between the first and the last."""
    return [index for index, shape in enumerate(shapes) if len(shape) > 1][1:-1]


def gradient_metrics(norms: Sequence[float], layers: Sequence[str]) -> dict[str, float]:
    """Return the metrics of a step's norms: of the whole, of the first and the last weights, and of those between."""
    _, first, last, *between = norms
    ends = {"grad_norm_first": first, "grad_norm_last": last}
    in_order = [first, *between, last] if len(layers) > 1 else [first]
    return {**ends, **(dict(zip(layers, in_order, strict=True)) if layers else {})}


def sampled(parameters: int) -> list[int]:
    """Return which of so many parameters stand for all when an update is measured, in rising order.

    One of each 1,024th part, at a place in it that the multiples of the golden ratio give: no row or column of a weight
    matrix is left out, as equal distances would, and none of 1,024 parameters or fewer. To look at all of them, before
    and after, would take one epoch's hundredth where it has few steps.
    """
    if parameters <= SAMPLE:
        return list(range(parameters))
    ends = [part * parameters // SAMPLE for part in range(SAMPLE + 1)]
    parts = enumerate(itertools.pairwise(ends))
    return [begin + int(part * GOLDEN % 1 * (end - begin)) for part, (begin, end) in parts]


def update_ratios(before: Tensor, after: Tensor) -> list[float]:
    """Return how far a step has moved the parameters of each lane `[K, parameters]`, by their norm before it.

    0 where that is 0. What `before` holds is overwritten: one tensor less that goes through the cache.
    """
    old, new = torch.stack([_norms(before), _norms(before.sub_(after))]).tolist()
    return [moved / norm if norm else 0.0 for norm, moved in zip(old, new, strict=True)]


def _norms(rows: Tensor) -> Tensor:
    """Return the norm of each row; its last bits do not depend on how many rows there are."""
    if rows.device.type == "cpu":
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
        return norms
    # A GPU shares a reduction out by the tensor's size and by where it begins: each row's squares begin anew.
    return torch.stack([row.square().sum() for row in rows]).sqrt()


def peak_memory(device: str) -> float:
    """Return the most bytes that torch has taken of a GPU, or that this process has had of a CPU's memory, so far."""
    if torch.device(device).type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    # In KiB on Linux, in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


class Units:
    """Counts dead and saturated units in a forward pass of a network between `begin` and `take`, by hooks.

    Nothing stays from one pass to the next, as `vmap` needs it.
    """

    def __init__(self, network: nn.Module) -> None:
        layers = list(network.modules())
        kinds = {"dead_units": _MAY_DIE, "saturated_units": _MAY_SATURATE}
        # The metrics that there are.
        self.names = [name for name, kind in kinds.items() if any(isinstance(layer, kind) for layer in layers)]
        self._on = False
        self._device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        self._dead: list[Tensor] = []
        self._saturated: list[Tensor] = []
        self._units = self._outputs = 0
        for layer in layers:
            if isinstance(layer, _MAY_DIE):
                layer.register_forward_hook(self._watch_relu)
            elif isinstance(layer, _MAY_SATURATE):
                layer.register_forward_hook(self._watch_bounded)

    def begin(self) -> None:
        """Count from now on."""
        self._on = True
        self._dead, self._saturated = [], []
        self._units = self._outputs = 0

    def take(self) -> dict[str, Tensor]:
        """Count no more; return the shares by their `names`."""
        counts = {"dead_units": (self._dead, self._units), "saturated_units": (self._saturated, self._outputs)}
        self._on, self._dead, self._saturated = False, [], []
        return {name: self._share(*counts[name]) for name in self.names}

    def _share(self, found: list[Tensor], every: int) -> Tensor:
        # A network may have layers that it does not call.
        return torch.stack(found).sum() / every if found else torch.zeros((), device=self._device)

    def _watch_relu(self, layer: nn.Module, given: object, output: Tensor) -> None:
        if not self._on or output.dim() < 2:
            return
        # A channel of a convolution is one unit, and so is a unit at all steps of a sequence `[batch, length, units]`.
        unit = 2 if output.dim() == 3 else 1
        others = [axis for axis in range(output.dim()) if axis != unit]
        # Nothing is below 0, so that a sum is 0 where the maximum is, and compiled code need not look out for what is
        # not a number at every example.
        self._dead.append((output.sum(others) <= 0).sum())
        self._units += output.shape[unit]

    def _watch_bounded(self, layer: nn.Module, given: object, output: Tensor) -> None:
        if not self._on:
            return
        low, high = (0.0, 1.0) if isinstance(layer, nn.Sigmoid) else (-1.0, 1.0)
        near = _NEAR_AN_END * (high - low)
        self._saturated.append(((output < low + near) | (output > high - near)).sum())
        self._outputs += output.numel()
