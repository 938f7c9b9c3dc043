"""Transfer learning: a network that begins with the weights of another one, and how its stages are then trained.

A network is a row of stages, told by its parameters' names: a top-level layer with what follows it and is no layer of
its own (a norm, an embedding of positions). A fully connected network has a stage a linear layer, a CNN one a
convolution and a linear layer, a ResNet the stem and each stage of blocks, a sequence model the embedding, each layer
or block. The last stage is always the output.

With `freeze` n the first n stages are not trained: neither gradient, penalty nor decay touches them, their gradient is
no part of the norm, and their batch norms run in evaluation mode, by the statistics that were loaded, which stay.
Their dropout goes on. Each epoch of `unfreeze_every` one more of them is trained, the last one first (gradual
unfreezing, Howard & Ruder 2018, section 3.3); its moments, and the steps that its bias correction counts, begin then,
as those of a parameter group that torch's optimisers have had no gradient of before.

The rate of a stage with loaded weights is the schedule's times `rate` / `stage_decay` ** d, d being how many stages
there are between it and the end of the network (discriminative fine-tuning, the same, section 3.2: 2.6 and a `rate` of
1). A new output layer has the schedule's own.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from swathe.errors import BadInputError, bad_value
from swathe.training.recipe import FineTune

# Layers that belong to the stage before them.
_NO_STAGE = re.compile("norm|position")
# Of torch's batch normalisation, whose momentum makes a count of batches superfluous.
_COUNTER = "num_batches_tracked"
_ALLOWED = (
    "a sweep that was launched here, models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID/NAME, or a file that "
    "torch.save has made of a state dictionary"
)


def stages(names: Iterable[str]) -> dict[str, int]:
    """Return the stage, from 0, of each parameter and buffer of a network by its name, as `state_dict` has them."""
    found: dict[str, int] = {}
    stage, before = -1, ""
    for name in names:
        layer = _layer(name)
        if layer != before and not (found and _NO_STAGE.search(layer)):
            stage += 1
        before = layer
        found[name] = stage
    return found


def _layer(name: str) -> str:
    """Return the top-level layer of a parameter; of a list of layers, the one in the list: `blocks.0`."""
    first, *others = name.split(".")
    return f"{first}.{others[0]}" if others and others[0].isdecimal() else first


def frozen_stages(transfer: FineTune, epoch: int) -> int:
    """Return how many of the first stages are not trained in an epoch, which are counted from 1."""
    unfrozen = (epoch - 1) // transfer.unfreeze_every if transfer.unfreeze_every is not None else 0
    return max(0, transfer.freeze - unfrozen)


def first_epoch(transfer: FineTune, stage: int) -> int:
    """Return the first epoch that trains a stage which is trained at all."""
    frozen = transfer.freeze - stage
    return 1 if frozen <= 0 or transfer.unfreeze_every is None else 1 + frozen * transfer.unfreeze_every


def rate_factors(transfer: FineTune, count: int) -> list[float]:
    """Return by what the learning rate of each of `count` stages is multiplied, once it is trained."""
    loaded = [transfer.rate * transfer.stage_decay ** (stage + 1 - count) for stage in range(count)]
    return [*loaded[:-1], loaded[-1] if transfer.head == "keep" else 1.0]


def initial_state(transfer: FineTune, state: Mapping[str, Tensor], cache: Path) -> dict[str, Tensor]:
    """Return what a network begins with whose own fresh state is `state`; `cache` is the data's.

    Raises `BadInputError` naming the tensor and both shapes where the weights are not those of this network.
    """
    stage_of = stages(state)
    count = 1 + max(stage_of.values())
    loaded = read_weights(transfer, cache)
    fresh = {name for name, stage in stage_of.items() if stage == count - 1 and transfer.head == "new"}
    output = {_layer(name) for name in fresh}
    unknown = next((name for name in loaded if name not in state and _layer(name) not in output), None)
    if unknown is not None:
        raise _misfit(transfer, unknown, loaded[unknown], None)
    for name, own in state.items():
        given = loaded.get(name)
        if name not in fresh and (given is None or given.shape != own.shape):
            raise _misfit(transfer, name, given, own, is_output=stage_of[name] == count - 1)
    return {name: value if name in fresh else loaded[name].to(value.dtype) for name, value in state.items()}


def _misfit(
    transfer: FineTune, name: str, loaded: Tensor | None, own: Tensor | None, *, is_output: bool = False
) -> BadInputError:
    there, here = (
        "no such tensor" if tensor is None else f"the shape {list(tensor.shape)}" for tensor in (loaded, own)
    )
    hint = "; transfer.head new draws the output layer anew" if is_output else ""
    return BadInputError(
        f"transfer.weights: {transfer.weights!r} does not fit: {name} has {there} there and {here} in this "
        f"network; allowed: weights of the same layers{hint}."
    )


def weights_file(sha256: str, cache: Path) -> Path:
    """Return where the weights with this digest are kept; `cache` is the data's, beside which they lie."""
    return cache.absolute().parent / "weights" / f"{sha256}.pt"


def read_weights(transfer: FineTune, cache: Path) -> dict[str, Tensor]:
    """Return the tensors that a transfer begins with, on the CPU, which must not be written to.

    They are those with its digest, or without one what the file `weights` holds. Raises `BadInputError` for a file that
    is not there, holds something else or has changed.
    """
    if not transfer.weights and transfer.sha256 is None:
        raise bad_value("transfer.weights", transfer.weights, _ALLOWED)
    kept = None if transfer.sha256 is None else weights_file(transfer.sha256, cache)
    path = kept if kept is not None and kept.is_file() else Path(transfer.weights)
    if not path.is_file():
        if transfer.sha256 is None:
            raise bad_value("transfer.weights", transfer.weights, _ALLOWED)
        raise BadInputError(
            f"transfer.weights: {transfer.weights!r} is not on this machine any more; allowed: its file, with the "
            f"SHA-256 {transfer.sha256}, at {kept}."
        )
    return _read(path, path.stat().st_mtime_ns, transfer.weights, transfer.sha256)


# The last few of the process: a block of lanes asks once a trial.
@lru_cache(maxsize=4)
def _read(path: Path, changed: int, name: str, sha256: str | None) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"transfer.weights: {name!r} cannot be read ({error.strerror}).") from error
    digest = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, digest):
        raise BadInputError(
            f"transfer.weights: {name!r} has changed: its SHA-256 is {digest}; allowed: {sha256}, which was recorded."
        )
    return tensors_of(path, name)


def tensors_of(path: Path, name: str) -> dict[str, Tensor]:
    """Return the tensors in a file of a state dictionary by their names; raises `BadInputError` where it holds none.

    Nothing in the file is run, as a pickle's content could be.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise bad_value("transfer.weights", name, _ALLOWED) from error
    named = isinstance(state, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    )
    if not (named and state):
        raise bad_value("transfer.weights", name, f"{_ALLOWED}, with a tensor for each name")
    return {key: value for key, value in state.items() if not key.endswith(_COUNTER)}


def first_weights(shapes: Sequence[torch.Size], stage_of: Sequence[int]) -> list[int]:
    """Return, of each stage, which parameter is its first weight matrix, or its first of all where it has none."""
    found = []
    for stage in range(1 + max(stage_of)):
        own = [index for index, one in enumerate(stage_of) if one == stage]
        found.append(next((index for index in own if len(shapes[index]) > 1), own[0]))
    return found
