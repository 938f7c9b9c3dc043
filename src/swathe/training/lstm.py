"""Long short-term memory (Hochreiter & Schmidhuber 1997), with forget gates (Gers et al. 2000)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swathe.training.models import Drawn, Dropout, draw_weight, empty, linear
from swathe.training.recipe import LSTM, SequenceShape
from swathe.training.sequences import Steps, embedding, shape_of


class Cell(Drawn):
    """A layer of LSTM cells, `[batch, length, inputs] -> [batch, length, width]`, from a state of zeros.

    The equations are those of torch's `nn.LSTM`, operation by operation, with the gates in its order: input, forget,
    cell, output. There is one bias, as the sum of torch's two is one. Weights are drawn for each gate by itself; by
    `default` all are uniform within 1 / sqrt(width), as torch does.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * width, inputs, device="meta"))
        self.weight_hh = nn.Parameter(torch.empty(4 * width, width, device="meta"))
        self.bias = nn.Parameter(torch.empty(4 * width, device="meta"))

    def draw(self, init: str, generator: torch.Generator) -> None:
        if init == "default":
            bound = self.weight_hh.shape[1] ** -0.5
            for parameter in (self.weight_ih, self.weight_hh, self.bias):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            return
        for gate in (*self.weight_ih.chunk(4), *self.weight_hh.chunk(4)):
            draw_weight(gate, init, generator)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """Leave the state as it was at steps that do not count, by `counts` `[batch, length]`; None: all do."""
        # Of all steps at once: one large product in the place of many small ones.
        from_inputs = F.linear(x, self.weight_ih, self.bias).unbind(-2)
        hidden = cell = x.new_zeros(x.shape[0], self.weight_hh.shape[1])
        outputs = []
        for step, from_input in enumerate(from_inputs):
            i, f, g, o = (from_input + F.linear(hidden, self.weight_hh)).chunk(4, dim=-1)
            new_cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            new_hidden = o.sigmoid() * new_cell.tanh()
            if counts is not None:
                here = counts[:, step, None]
                new_cell, new_hidden = torch.where(here, new_cell, cell), torch.where(here, new_hidden, hidden)
            hidden, cell = new_hidden, new_cell
            outputs.append(hidden)
        return torch.stack(outputs, dim=-2)


def recurrent_network(
    model: LSTM,
    sequence: SequenceShape | None,
    image_shape: tuple[int, int, int] | None,
    outputs: int,
    dropout: float,
) -> nn.Sequential:
    """Return an LSTM `[batch, features] -> [batch, outputs]`, or `[batch, length, outputs]` with targets at all steps.

    Of tokens, a vector of `width` each is learned; values go into the first layer as they are. Dropout is after each
    layer, between them and before the output, as in Zaremba et al. 2014.
    """
    shape, layers = shape_of(model, sequence, image_shape)
    inputs = shape.variables
    if shape.vocabulary:
        layers, inputs = [("embedding", embedding(shape, model.width))], model.width
    for index in range(1, model.layers + 1):
        layers.append((f"lstm{index}", empty(Cell(inputs, model.width))))
        if dropout:
            layers.append((f"dropout{index}", Dropout(dropout, (shape.length, model.width))))
        inputs = model.width
    layers.append(("output", linear(model.width, outputs)))
    # Behind the last token the state stays as it is.
    return Steps(layers, shape, Cell, lambda x, counts: x[:, -1])
