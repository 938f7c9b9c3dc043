"""A network of the user's own: made from its dotted path under the trial's seed, and made fit for lanes.

What it is given as x: an image `[batch, channels, height, width]`, a row of a table `[batch, columns]`, a series
`[batch, length, variables]`, a text the numbers of its tokens `[batch, length]`. What it is to return: logits
`[batch, classes]`, a quantity `[batch, 1]`, or `[batch, length, vocabulary]` where each step has a target.

Arguments that a constructor names and a config does not give are given to it: `in_features` (values of an example),
`out_features` (numbers that it is to return for one), `classes` of a classification, `image_shape` (channels, height,
width) of an image, `length` and `variables` of a series, `length` and `vocabulary` of a text.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from swathe.errors import BadInputError, bad_value
from swathe.training.lane_modules import LaneDropout, mask_sizes, put_masks
from swathe.training.own_source import KEY, arguments_of, load, source_digest
from swathe.training.recipe import Own, SequenceShape

# Examples of the batch that is tried.
_BATCH = 2
# Letters of an error that fit into a line.
_MOST_TEXT = 200
# The largest integer up to which float32 has all, and so a row of a lane's.
_MOST_INTEGER = 2**24

# Structures that have taken a batch in this process, and the sizes of their masks; None: torch draws them.
_tried: dict[str, dict[str, list[int]] | None] = {}


def own_network(
    model: Own,
    inputs: int,
    outputs: int,
    image_shape: tuple[int, int, int] | None,
    generator: torch.Generator | None,
    sequence: SequenceShape | None,
) -> nn.Module:
    """Make the network on the CPU with `generator`'s seed for all global streams, which are put back afterwards.

    It takes `[batch, inputs]` as any network of `swathe.training.models` does. Its layers that drop are ours, by the
    masks of the trial's seed, as far as lanes could have them. Raises `BadInputError` for what is no network, cannot be
    made so, or does not take a batch and return `[batch, outputs]`.
    """
    offers = _offers(inputs, outputs, image_shape, sequence)
    arguments = arguments_of(model, offers)
    with seeded(0 if generator is None else generator.initial_seed()):
        network = _made(model, arguments)
        network.register_forward_pre_hook(_Shaped(image_shape, sequence))
        key = json.dumps([model.target, source_digest(model.target), arguments, [inputs, outputs]], default=str)
        example = _example(inputs, sequence)
        if key not in _tried or _is_lazy(network):
            _try(model, network, example, outputs, sequence)
        _check_parameters(model, network)
        if key not in _tried:
            _tried[key] = mask_sizes(network, example)
    if (sizes := _tried[key]) is not None:
        put_masks(network, sizes, example)
    return network.train()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from the global streams of torch, NumPy and Python as they are after this seed, and put them back."""
    python_s, numpy_s = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        seed_everything(seed)
        try:
            yield
        finally:
            random.setstate(python_s)
            np.random.set_state(numpy_s)


def seed_everything(seed: int) -> None:
    """Set the global streams of torch, NumPy and Python."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def why_no_lane(network: nn.Module) -> str | None:
    """Return in one line why what an own network holds cannot be a lane's, None where it can."""
    known = {id(one) for one in (*network.parameters(), *network.buffers())}
    for path, layer in network.named_modules():
        for name, value in vars(layer).items():
            held = value if isinstance(value, (list, tuple)) else [value]
            if any(isinstance(one, Tensor) and id(one) not in known for one in held):
                place = f"{path}.{name}".lstrip(".")
                return f"{place}: is a tensor that is no parameter and no buffer, so the trial is trained alone."
    for name, buffer in lane_buffers(network).items():
        if buffer.is_complex() or (not buffer.is_floating_point() and _most(buffer) > _MOST_INTEGER):
            return f"{name}: is a buffer of numbers that float32 does not have, so the trial is trained alone."
    return None


def lane_buffers(network: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that a lane has of its own, but for the masks of dropout: those not kept in a state too."""
    masks = {path for path, layer in network.named_modules() if isinstance(layer, LaneDropout)}
    return {name: value for name, value in network.named_buffers() if name.rpartition(".")[0] not in masks}


def _most(buffer: Tensor) -> int:
    return int(buffer.long().abs().max()) if buffer.numel() else 0


def _offers(
    inputs: int, outputs: int, image_shape: tuple[int, int, int] | None, sequence: SequenceShape | None
) -> dict[str, Any]:
    offers: dict[str, Any] = {"in_features": inputs, "out_features": outputs}
    if image_shape is not None:
        offers["image_shape"] = image_shape
    if outputs > 1 and not (sequence is not None and sequence.every_step):
        offers["classes"] = outputs
    if sequence is not None:
        offers["length"] = sequence.length
        of, value = ("vocabulary", sequence.vocabulary) if sequence.vocabulary else ("variables", sequence.variables)
        offers[of] = value
    return offers


def _made(model: Own, arguments: dict[str, Any]) -> nn.Module:
    try:
        network = load(model.target)(**copy.deepcopy(arguments))
    except (BadInputError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise BadInputError(f"{KEY}: {model.target}({_written(arguments)}) raises {_words(error)}.") from error
    if not isinstance(network, nn.Module):
        raise bad_value(KEY, model.target, f"what returns an nn.Module, and no {type(network).__name__}")
    return network


class _Shaped:
    """Gives a network its examples in the shape that they have, before its forward pass."""

    def __init__(self, image_shape: tuple[int, int, int] | None, sequence: SequenceShape | None) -> None:
        self._image_shape = image_shape
        values = sequence is not None and not sequence.vocabulary
        self._steps = (sequence.variables, sequence.length) if sequence is not None and values else None

    def __call__(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *others = inputs
        if self._image_shape is not None:
            x = x.reshape(-1, *self._image_shape)
        elif self._steps is not None:
            x = x.reshape(-1, *self._steps).transpose(1, 2)
        return (x, *others)


def _example(inputs: int, sequence: SequenceShape | None) -> Tensor:
    tokens = sequence is not None and sequence.vocabulary > 0
    return torch.zeros(_BATCH, inputs, dtype=torch.int64 if tokens else torch.get_default_dtype())


def _is_lazy(network: nn.Module) -> bool:
    return any(isinstance(parameter, UninitializedParameter) for parameter in network.parameters())


def _try(model: Own, network: nn.Module, example: Tensor, outputs: int, sequence: SequenceShape | None) -> None:
    """Let the network take a batch; parameters without a shape get theirs. Raises `BadInputError`."""
    shape = [_BATCH, sequence.length, outputs] if sequence is not None and sequence.every_step else [_BATCH, outputs]
    seen: list[list[int]] = []
    hook = network.register_forward_pre_hook(lambda _, inputs: seen.append(list(inputs[0].shape)))
    try:
        with torch.no_grad():
            found = network.eval()(example)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        given = seen[-1] if seen else list(example.shape)
        raise BadInputError(f"{KEY}: {model.target} cannot take a batch {given}: {_words(error)}.") from error
    finally:
        hook.remove()
    if not isinstance(found, Tensor) or list(found.shape) != shape:
        what = f"the shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise BadInputError(
            f"{KEY}: {model.target} returns {what} for a batch {seen[-1]}; allowed: one tensor {shape} for this data."
        )


def _check_parameters(model: Own, network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise BadInputError(
                f"{KEY}: {name} of {model.target} gets no shape in a forward pass; allowed: one that does."
            )
        if parameter.dtype != torch.get_default_dtype():
            allowed = f"parameters of {torch.get_default_dtype()}"
            raise BadInputError(f"{KEY}: {name} of {model.target} is of {parameter.dtype}; allowed: {allowed}.")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise BadInputError(f"{KEY}: {model.target} has no parameters to train; allowed: a network with some.")


def _written(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())


def _words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:_MOST_TEXT].rstrip(".")
