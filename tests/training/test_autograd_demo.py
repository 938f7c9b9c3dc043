"""Backpropagation from first principles against torch.autograd and finite differences, and its page in docs/."""

from __future__ import annotations

import math
import re
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from swathe.training import autograd_demo
from swathe.training.autograd_demo import XOR, Network, Value, cross_entropy, descend, lines, neuron, softmax
from swathe.training.models import build
from swathe.training.recipe import MLP

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "backprop.md").read_text()
PRINTED = "\n".join(lines())

# What both kinds of number can do, of one or two arguments.
Operation = Callable[..., Any]
UNARY: dict[str, Operation] = {
    "-a": lambda a: -a,
    "exp a": lambda a: a.exp(),
    "log a": lambda a: a.log(),
    "tanh a": lambda a: a.tanh(),
    "sigmoid a": lambda a: a.sigmoid(),
    "relu a": lambda a: a.relu(),
    "a + 2": lambda a: a + 2,
    "2 + a": lambda a: 2 + a,
    "a - 1.5": lambda a: a - 1.5,
    "1.5 - a": lambda a: 1.5 - a,
    "a * 3": lambda a: a * 3,
    "3 * a": lambda a: 3 * a,
    "a / 4": lambda a: a / 4,
    "4 / a": lambda a: 4 / a,
    "a ** 0": lambda a: a**0,
    "a ** 1": lambda a: a**1,
    "a ** 3": lambda a: a**3,
    "a ** -1.5": lambda a: a**-1.5,
    "1.5 ** a": lambda a: 1.5**a,
}
BINARY: dict[str, Operation] = {
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "a * b": lambda a, b: a * b,
    "a / b": lambda a, b: a / b,
    "a ** b": lambda a, b: a**b,
}
OPERATIONS = UNARY | BINARY
# Where an operation has a kink, a pole or a huge slope, rounding decides and no comparison means anything.
DOMAINS: dict[str, Callable[[float, float], bool]] = {
    "log a": lambda a, b: a > 0.1,
    "relu a": lambda a, b: abs(a) > 1e-3,
    "4 / a": lambda a, b: abs(a) > 0.1,
    "a ** -1.5": lambda a, b: a > 0.1,
    "a / b": lambda a, b: abs(b) > 0.1,
    "a ** b": lambda a, b: a > 0.1,
}
LARGEST = 20.0
Step = tuple[str, int, int]


def applied(step: Step, values: Sequence[Any]) -> Any:
    """Apply a step to earlier values, which its numbers choose: several steps may choose the same."""
    name, i, j = step
    a, b = values[i % len(values)], values[j % len(values)]
    return OPERATIONS[name](a) if name in UNARY else OPERATIONS[name](a, b)


def grown(inputs: list[float], steps: list[Step]) -> tuple[list[Value], list[Step]]:
    """Return a graph's values and those steps that lie within the domains and stay small."""
    values, taken = [Value(number) for number in inputs], []
    for name, i, j in steps:
        a, b = values[i % len(values)].data, values[j % len(values)].data
        if name in DOMAINS and not DOMAINS[name](a, b):
            continue
        value = applied((name, i, j), values)
        if abs(value.data) <= LARGEST:
            values.append(value)
            taken.append((name, i, j))
    return values, taken


INPUTS = st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=3)
STEPS = st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 99), st.integers(0, 99)), max_size=15)


@given(INPUTS, STEPS)
def test_graphs_with_shared_values_are_as_torch_has_them(inputs: list[float], steps: list[Step]) -> None:
    values, taken = grown(inputs, steps)
    oracle = [torch.tensor(number, dtype=torch.float64, requires_grad=True) for number in inputs]
    for step in taken:
        oracle.append(applied(step, oracle))
        oracle[-1].retain_grad()
    values[-1].backward()
    oracle[-1].backward()
    assert [value.data for value in values] == pytest.approx([tensor.item() for tensor in oracle], rel=1e-10)
    expected = [0.0 if tensor.grad is None else tensor.grad.item() for tensor in oracle]
    # Where large terms cancel, what remains of them is rounding: relative to the largest derivative of the graph.
    largest = max(map(abs, expected))
    assert [value.grad for value in values] == pytest.approx(expected, rel=1e-10, abs=1e-10 * largest)


@given(INPUTS, STEPS)
def test_forward_and_reverse_mode_agree(inputs: list[float], steps: list[Step]) -> None:
    values, _ = grown(inputs, steps)
    output = values[-1]
    output.backward()
    graph = set(output.graph())
    largest = max(abs(value.grad) for value in values)
    for value in values[: len(inputs)]:
        expected = output.derivative(value) if value in graph else 0.0
        assert value.grad == pytest.approx(expected, rel=1e-10, abs=1e-10 * largest)


@given(INPUTS, STEPS)
def test_the_graph_has_each_value_once_and_after_its_parents(inputs: list[float], steps: list[Step]) -> None:
    values, _ = grown(inputs, steps)
    place = {value: index for index, value in enumerate(values[-1].graph())}
    assert len(place) == len(values[-1].graph())
    assert all(place[parent] < place[value] for value in place for parent in value.parents)
    assert all(len(value.slopes) <= 2 for value in place)


def central(function: Callable[[float], float], x: float, h: float = 1e-5) -> float:
    return (function(x + h) - function(x - h)) / (2 * h)


@pytest.mark.parametrize("name", UNARY)
@given(x=st.floats(0.5, 2.0))
def test_an_operation_of_one_has_the_slope_of_a_finite_difference(name: str, x: float) -> None:
    a = Value(x)
    UNARY[name](a).backward()
    assert a.grad == pytest.approx(central(lambda x: UNARY[name](Value(x)).data, x), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("name", BINARY)
@given(x=st.floats(0.5, 2.0), y=st.floats(0.5, 2.0))
def test_an_operation_of_two_has_the_slopes_of_finite_differences(name: str, x: float, y: float) -> None:
    a, b = Value(x), Value(y)
    BINARY[name](a, b).backward()
    by_a = central(lambda x: BINARY[name](Value(x), b).data, x)
    by_b = central(lambda y: BINARY[name](a, Value(y)).data, y)
    assert [a.grad, b.grad] == pytest.approx([by_a, by_b], rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("x", [-2.0, -0.5, 0.5, 2.0])
@pytest.mark.parametrize("name", ["tanh a", "sigmoid a", "relu a", "a ** 3", "4 / a", "1.5 ** a"])
def test_slopes_on_both_sides_of_0(name: str, x: float) -> None:
    a = Value(x)
    UNARY[name](a).backward()
    assert a.grad == pytest.approx(central(lambda x: UNARY[name](Value(x)).data, x), rel=1e-8, abs=1e-8)


def test_a_sigmoid_far_from_0_neither_overflows_nor_rounds_to_0() -> None:
    left, right = Value(-700.0), Value(700.0)
    assert left.sigmoid().data == pytest.approx(math.exp(-700), rel=1e-15)
    assert right.sigmoid().data == 1.0
    assert Value(-1e6).sigmoid().data == 0.0


def test_relu_has_slope_0_at_0_as_torch_s() -> None:
    value, tensor = Value(0.0), torch.zeros((), requires_grad=True)
    value.relu().backward()
    tensor.relu().backward()
    assert tensor.grad is not None
    assert value.grad == tensor.grad.item() == 0.0


@pytest.mark.parametrize("exponent", [0, 1, 2, 1.5])
def test_powers_of_0_that_have_a_slope_are_torch_s(exponent: float) -> None:
    value, tensor = Value(0.0), torch.zeros((), dtype=torch.float64, requires_grad=True)
    (value**exponent).backward()
    (tensor**exponent).backward()
    assert tensor.grad is not None
    assert value.grad == tensor.grad.item()


def test_the_worked_update_is_torch_s() -> None:
    w, b = Value(0.5), Value(0.1)
    *_, loss = neuron(w, b, 0.3, 0.15).values()
    loss.backward()
    assert w.grad == pytest.approx(0.03, rel=1e-14)
    descend([w, b], 0.1)
    tensors = [torch.tensor(number, dtype=torch.float64, requires_grad=True) for number in (0.5, 0.1)]
    ((torch.relu(tensors[0] * 0.3 + tensors[1]) - 0.15) ** 2 / 2).backward()
    torch.optim.SGD(tensors, lr=0.1).step()
    assert w.data == pytest.approx(0.497, rel=1e-15)
    assert [w.data, b.data] == pytest.approx([tensor.item() for tensor in tensors], rel=1e-15)
    assert w.grad == b.grad == 0.0


def test_a_chain_of_ten_thousand_needs_no_recursion() -> None:
    first = last = Value(1.0)
    for _ in range(10_000):
        last = last + 0.5
    last.backward()
    assert last.data == 5001.0
    assert first.grad == last.derivative(first) == 1.0


def test_a_value_used_twice_gets_both_gradients() -> None:
    x = Value(3.0)
    (x * x + x).backward()
    assert x.grad == 7.0


def test_the_ways_through_a_graph_are_not_walked_one_by_one() -> None:
    first = last = Value(1.0)
    for _ in range(100):
        last = last + last
    last.backward()
    assert first.grad == 2.0**100


def test_a_second_backward_adds_to_the_first_in_every_value() -> None:
    x = Value(3.0)
    square = x * x
    (square * 2).backward()
    (square * 5).backward()
    assert (x.grad, square.grad) == (6.0 * 7, 7.0)


@pytest.mark.parametrize(
    ("refused", "error", "sentence"),
    [
        (lambda: Value(1.0) / 0, ZeroDivisionError, "1.0 / 0.0: a divisor must not be 0."),
        (lambda: 2 / Value(-0.0), ZeroDivisionError, "2.0 / -0.0: a divisor must not be 0."),
        (
            lambda: Value(0.0) ** -1,
            ZeroDivisionError,
            "0.0 ** -1: for a base of 0 the exponent must be 0 or at least 1.",
        ),
        (
            lambda: Value(0.0) ** 0.5,
            ZeroDivisionError,
            "0.0 ** 0.5: for a base of 0 the exponent must be 0 or at least 1.",
        ),
        (
            lambda: Value(-2.0) ** 0.5,
            ValueError,
            "-2.0 ** 0.5: for a base below 0 the exponent must be a whole number.",
        ),
        (
            lambda: Value(0.0) ** Value(2.0),
            ValueError,
            "0.0 ** Value(2.0): with an exponent to differentiate by, the base must be above 0.",
        ),
        (lambda: Value(0.0).log(), ValueError, "log(0.0): a logarithm is taken of numbers above 0 only."),
        (lambda: Value(-1.0).log(), ValueError, "log(-1.0): a logarithm is taken of numbers above 0 only."),
        (lambda: Value(math.nan).log(), ValueError, "log(nan): a logarithm is taken of numbers above 0 only."),
    ],
)
def test_what_has_no_derivative_is_refused_in_a_sentence(
    refused: Callable[[], Value], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error) as raised:
        refused()
    assert str(raised.value) == sentence


@pytest.mark.parametrize("sizes", [[2, 4, 1], [2, 5, 3, 1], [2, 1]])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_network_s_gradients_are_torch_s_and_finite_differences(sizes: list[int], seed: int) -> None:
    network = Network.drawn(sizes, seed)
    parameters = network.parameters()
    network.loss(XOR).backward()
    found = [parameter.grad for parameter in parameters]
    assert found == pytest.approx(network.torch_gradients(XOR), rel=1e-10, abs=1e-10 * max(map(abs, found)))

    def loss_with(parameter: Value, number: float) -> float:
        kept, parameter.data = parameter.data, number
        loss = network.loss(XOR).data
        parameter.data = kept
        return loss

    differences = [central(lambda number, p=p: loss_with(p, number), p.data) for p in parameters]
    assert found == pytest.approx(differences, rel=1e-8, abs=1e-8)


def test_training_learns_xor_whatever_gradients_were_there() -> None:
    network = Network.drawn([2, 4, 1], seed=1)
    network.loss(XOR).backward()
    network.train(XOR, steps=200, lr=0.5)
    assert [network(x).data for x, _ in XOR] == pytest.approx([target for _, target in XOR], abs=0.01)


@given(
    st.lists(st.floats(-5.0, 5.0), min_size=2, max_size=6),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.1, 0.2]),
)
def test_the_slope_of_softmax_and_cross_entropy_is_p_minus_q(
    numbers: list[float], chosen: int, smoothing: float
) -> None:
    target = chosen % len(numbers)
    q = [(1 - smoothing) * (index == target) + smoothing / len(numbers) for index in range(len(numbers))]
    logits = [Value(number) for number in numbers]
    p = softmax(logits)
    loss = cross_entropy(p, q)
    loss.backward()
    tensor = torch.tensor(numbers, dtype=torch.float64, requires_grad=True)
    oracle: Tensor = F.cross_entropy(tensor, torch.tensor(target), label_smoothing=smoothing)
    oracle.backward()
    assert tensor.grad is not None
    found = [logit.grad for logit in logits]
    assert loss.data == pytest.approx(oracle.item(), rel=1e-10, abs=1e-12)
    assert found == pytest.approx(tensor.grad.tolist(), rel=1e-10, abs=1e-12)
    assert found == pytest.approx([share.data - part for share, part in zip(p, q, strict=True)], rel=1e-10, abs=1e-12)


def test_running_the_module_prints_its_lines_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(autograd_demo.__file__, run_name="__main__")
    assert capsys.readouterr().out == PRINTED.rstrip() + "\n"
    assert max(map(len, PRINTED.splitlines())) <= 80


def test_what_is_printed_is_near_to_torch() -> None:
    distances = re.findall(r"furthest from (.*): (\S+) of", PRINTED)
    assert [name for name, _ in distances] == ["forward mode", "torch.autograd"]
    assert all(float(distance) < 1e-10 for _, distance in distances)


def test_nothing_else_in_swathe_knows_of_it() -> None:
    sources = (ROOT / "src").rglob("*.py")
    assert [path.name for path in sources if "autograd_demo" in path.read_text()] == ["autograd_demo.py"]


# What the page says and the demonstration doesn't print, computed here.
COMPUTED = {
    "101,770": sum(p.numel() for p in build(MLP(hidden=[128]), 784, 10, None, 0.0, torch.Generator()).parameters()),
    "0.0000095": 10 * round(0.25**10, 8),
    "0.25": Value(0.0).sigmoid().slopes[0],
}
# Years, the network that the first of COMPUTED is about, 0, and the tolerance of the tests above.
NAMES = {"2008", "1986", "784", "128", "0", "1e-10"}
NUMBER = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")


def test_the_page_prints_what_the_module_does() -> None:
    blocks = re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 6
    assert [block for block in blocks if block not in PRINTED + "\n"] == []


def test_every_number_of_the_page_is_printed_or_computed() -> None:
    prose = re.sub(r"```text\n.*?```", "", PAGE, flags=re.DOTALL)
    known = set(NUMBER.findall(PRINTED)) | set(COMPUTED) | NAMES
    assert set(NUMBER.findall(prose)) - known == set()
    assert {text: float(text.replace(",", "")) for text in COMPUTED} == pytest.approx(COMPUTED, rel=1e-12)


def test_the_article_s_figure_is_ten_times_too_large() -> None:
    assert f"sigmoid, each at its steepest{0.25**10:10.2g}\n" in PRINTED
    times = 0.0000095 / 0.25**10
    assert times == pytest.approx(10, rel=0.01)
