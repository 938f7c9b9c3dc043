"""Tracing a step of K lanes into one graph of plain tensor operations, for any K.

What is left of a step has no `vmap`, no autograd and no module in it. The number of lanes is a symbol of the graph, so
that one program serves a block of any size, and a lane's bits do not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten = torch.ops.aten

# Any number that is no size of its own kind; it is only looked at where a choice of code depends on the size.
_HINT = 16


def traced(function: Callable[..., Any], examples: Sequence[Tensor], laned: Sequence[bool]) -> tuple[GraphModule, Any]:
    """Return the graph of `function` and fake tensors for its inputs.

    Of the `examples` that are `laned`, the first dimension is the number of lanes, which the graph leaves open.
    """
    from torch._dispatch.python import enable_python_dispatcher
    from torch._dynamo.source import ConstantSource
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

    environment = ShapeEnv(duck_shape=False)
    source = ConstantSource("lanes")
    symbol = environment.create_symbol(_HINT, source=source, dynamic_dim=DimDynamic.DYNAMIC)
    lanes = environment.create_symintnode(symbol, hint=_HINT, source=source)
    mode = FakeTensorMode(shape_env=environment)
    with mode:
        inputs = [
            torch.empty_strided(
                (lanes, *example.shape[1:]) if open_ else example.shape,
                example.stride(),
                dtype=example.dtype,
                device=example.device,
            )
            for example, open_ in zip(examples, laned, strict=True)
        ]
    with torch.no_grad(), mode, enable_python_dispatcher():
        graph = make_fx(function, tracing_mode="real")(*inputs)
    if environment.replacements:
        raise RuntimeError("the program of a block depends on its number of lanes")
    _drop_views(graph)
    _turn_products(graph)
    return graph, inputs


def _drop_views(graph: GraphModule) -> None:
    """Take out the views of a tensor in the shape that it has; vmap leaves one after each product."""
    for node in list(graph.graph.nodes):
        if node.target is aten.view.default and node.meta["val"].shape == node.args[0].meta["val"].shape:
            node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()


def _turn_products(graph: GraphModule) -> None:
    """Replace the transpose of a product by the product of the transposes.

    Autograd has the gradient of a weight `[out, in]` as the transpose of `[in, out]`: what reads it afterwards would
    jump through memory, or copy it.
    """
    for node in list(graph.graph.nodes):
        product = node.args[0] if node.target is aten.transpose.int else None
        if not (isinstance(product, Node) and product.target is aten.bmm.default and len(product.users) == 1):
            continue
        if sorted(axis % 3 for axis in node.args[1:]) != [1, 2]:
            continue
        left, right = product.args
        with graph.graph.inserting_before(node):
            turned = [graph.graph.call_function(aten.transpose.int, (factor, 1, 2)) for factor in (right, left)]
            replacement = graph.graph.call_function(aten.bmm.default, tuple(turned))
        replacement.meta = dict(node.meta)
        node.replace_all_uses_with(replacement)
        for user in list(replacement.users):
            # Made because the transpose was not contiguous; the product is.
            if user.target is aten.clone.default:
                user.replace_all_uses_with(replacement)
    graph.graph.eliminate_dead_code()
    graph.recompile()
