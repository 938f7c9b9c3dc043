"""Steps of lanes as CUDA graphs: one launch for a whole step, however many kernels it has.

Small networks spend a GPU's time on launching kernels. A step of a block reads and writes the same memory each time, so
that it can be captured once and replayed (NVIDIA's CUDA graphs, as `torch.cuda.graph` has them).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from swathe.training.lane_program import Step

# Steps that are run as they are before one is captured: libraries set themselves up in their first calls.
WARM_STEPS = 2
# Graphs of so many numbers of lanes are kept, those used last: each has memory of its own for what it captured.
KEPT = 16

Outputs = tuple[Tensor, Tensor]
# Captures what a function does on the device without doing it; returns what does it, and where its results lie then.
Capture = Callable[[Callable[[], Outputs]], tuple[Callable[[], object], Outputs]]


def captured(function: Callable[[], Outputs]) -> tuple[Callable[[], object], Outputs]:
    """Capture a function on the current GPU; raises `RuntimeError` for what cannot be, such as a look at a value."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return graph.replay, outputs


@dataclass(slots=True, eq=False)
class _Graphed:
    """A step for one number of lanes. `changed`: what it changes in place."""

    step: Step
    changed: Sequence[Tensor]
    capture: Capture
    calls: int = 0
    # Why it is not replayed, if it cannot be.
    refused: str = ""
    _inputs: list[Tensor] = field(default_factory=list)
    _replay: Callable[[], object] | None = None
    _outputs: Outputs | None = None

    def __call__(self, *given: Tensor) -> Outputs:
        self.calls += 1
        if self._replay is None:
            if self.refused or self.calls <= WARM_STEPS:
                return self.step(*given)
            return self._begin(list(given))
        for place, value in zip(self._inputs, given, strict=True):
            place.copy_(value)
        self._replay()
        return self._results()

    def _results(self) -> Outputs:
        # The next step writes to the same places.
        assert self._outputs is not None
        loss, norms = self._outputs
        return loss.clone(), norms.clone()

    def _begin(self, given: list[Tensor]) -> Outputs:
        """Capture the step, and replay it from now on if that gives every bit that the step itself gives."""
        self._inputs = [value.clone() for value in given]
        try:
            replay, self._outputs = self.capture(lambda: self.step(*self._inputs))
        except RuntimeError as error:
            self.refused = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return self.step(*given)
        before = [tensor.clone() for tensor in self.changed]
        loss, norms = self.step(*self._inputs)
        expected = [loss.clone(), norms.clone(), *(tensor.clone() for tensor in self.changed)]
        _put(self.changed, before)
        replay()
        if all(map(_same_bits, [*self._outputs, *self.changed], expected)):
            self._replay = replay
        else:
            self.refused = "a replayed step gives other numbers"
            _put(self.changed, expected[2:])
        return expected[0], expected[1]


class CudaGraphs:
    """The steps of one block, a graph for each number of lanes; to be made anew when its tensors are."""

    def __init__(self, capture: Capture = captured) -> None:
        self._capture = capture
        self._steps: OrderedDict[int, _Graphed] = OrderedDict()

    def stepper(self, lanes: int, step: Step, changed: Sequence[Tensor]) -> Step:
        """Return a step for so many lanes that does what `step` does; it changes those tensors, always the same."""
        if lanes not in self._steps:
            self._steps[lanes] = _Graphed(step, changed, self._capture)
        self._steps.move_to_end(lanes)
        while len(self._steps) > KEPT:
            self._steps.popitem(last=False)
        return self._steps[lanes]

    @property
    def note(self) -> str:
        """One line that says why steps are not replayed, else ""."""
        reasons = [step.refused for step in self._steps.values() if step.refused]
        return f"Steps are launched kernel by kernel: {reasons[0]}." if reasons else ""


def _put(places: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for place, value in zip(places, values, strict=True):
        place.copy_(value)


def _same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors of a shape have the same bits; NaN is equal to itself."""
    return torch.equal(left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8))
