"""Backpropagation from first principles, to be read beside docs/backprop.md; nothing in Swathe trains with it.

`python -m swathe.training.autograd_demo` prints what the page explains. Automatic differentiation: Griewank & Walther
2008, "Evaluating Derivatives", 2nd edition, chapter 3. Its use for networks: Rumelhart, Hinton & Williams 1986,
"Learning representations by back-propagating errors", Nature 323.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch


@dataclass(eq=False, slots=True)
class Value:
    """A number that remembers what it was computed from.

    `slopes` are its derivatives by each of `parents`, known as soon as it is computed; `grad` is what `backward` finds.
    """

    data: float
    parents: tuple[Value, ...] = field(default=(), repr=False)
    slopes: tuple[float, ...] = field(default=(), repr=False)
    grad: float = 0.0

    def __add__(self, other: Value | float) -> Value:
        """Return a + b; slopes 1 and 1."""
        other = _value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __sub__(self, other: Value | float) -> Value:
        """Return a - b; slopes 1 and -1."""
        other = _value(other)
        return Value(self.data - other.data, (self, other), (1.0, -1.0))

    def __mul__(self, other: Value | float) -> Value:
        """Return a b; slopes b and a."""
        other = _value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __truediv__(self, other: Value | float) -> Value:
        """Return a / b; slopes 1 / b and -a / b^2. Raises ZeroDivisionError for b = 0."""
        other = _value(other)
        if other.data == 0:
            raise ZeroDivisionError(f"{self.data} / {other.data}: a divisor must not be 0.")
        quotient = self.data / other.data
        return Value(quotient, (self, other), (1 / other.data, -quotient / other.data))

    def __pow__(self, exponent: Value | float) -> Value:
        """Return a^b; slopes b a^(b - 1) and, where b is a `Value`, a^b log a.

        Raises ZeroDivisionError where a = 0 and the slope is not finite, ValueError where a < 0 and b is no whole
        number or a <= 0 and b is a `Value`, OverflowError where power or slope is too large for a float.
        """
        base, power = self.data, exponent.data if isinstance(exponent, Value) else exponent
        if isinstance(exponent, Value) and not base > 0:
            raise ValueError(
                f"{base} ** Value({power}): with an exponent to differentiate by, the base must be above 0."
            )
        if base == 0 and power < 1 and power != 0:
            raise ZeroDivisionError(f"{base} ** {power}: for a base of 0 the exponent must be 0 or at least 1.")
        if base < 0 and not float(power).is_integer():
            raise ValueError(f"{base} ** {power}: for a base below 0 the exponent must be a whole number.")
        slope = power * base ** (power - 1) if power else 0.0
        if isinstance(exponent, Value):
            return Value(base**power, (self, exponent), (slope, base**power * math.log(base)))
        return Value(base**power, (self,), (slope,))

    def __neg__(self) -> Value:
        """Return -a; slope -1."""
        return Value(-self.data, (self,), (-1.0,))

    def __radd__(self, other: float) -> Value:
        return _value(other) + self

    def __rsub__(self, other: float) -> Value:
        return _value(other) - self

    def __rmul__(self, other: float) -> Value:
        return _value(other) * self

    def __rtruediv__(self, other: float) -> Value:
        return _value(other) / self

    def __rpow__(self, other: float) -> Value:
        return _value(other) ** self

    def exp(self) -> Value:
        """Return e^a; slope e^a. Raises OverflowError where it is too large for a float."""
        power = math.exp(self.data)
        return Value(power, (self,), (power,))

    def log(self) -> Value:
        """Return log a; slope 1 / a. Raises ValueError unless a > 0."""
        if not self.data > 0:
            raise ValueError(f"log({self.data}): a logarithm is taken of numbers above 0 only.")
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def tanh(self) -> Value:
        """Return t = tanh a; slope 1 - t^2."""
        t = math.tanh(self.data)
        return Value(t, (self,), (1 - t * t,))

    def sigmoid(self) -> Value:
        """Return s = 1 / (1 + e^-a); slope s (1 - s), at most 0.25."""
        power = math.exp(-abs(self.data))  # of a number that is not above 0: it cannot overflow
        s = 1 / (1 + power) if self.data >= 0 else power / (1 + power)
        return Value(s, (self,), (s * (1 - s),))

    def relu(self) -> Value:
        """Return max(a, 0); slope 1 for a > 0, else 0."""
        return Value(max(self.data, 0.0), (self,), (float(self.data > 0),))

    def graph(self) -> list[Value]:
        """Return all that this was computed from and itself, each value after its parents.

        A depth-first search with a stack of its own: Python's would end after some thousand values in a row.
        """
        order: list[Value] = []
        seen: set[Value] = set()
        stack = [(self, False)]
        while stack:
            value, parents_done = stack.pop()
            if parents_done:
                order.append(value)
            elif value not in seen:
                seen.add(value)
                stack.append((value, True))
                stack.extend((parent, False) for parent in value.parents)
        return order

    def backward(self) -> None:
        """Add to the `grad` of all values of the graph the derivative of this one by them: reverse mode.

        The adjoint of v is the sum, over all values c that v is a parent of, of c's adjoint times the slope of c by v
        (Griewank & Walther 2008, section 3.2; Rumelhart et al. 1986, equations 4 to 7).
        """
        order = self.graph()
        adjoint = dict.fromkeys(order, 0.0)
        adjoint[self] = 1.0
        for value in reversed(order):
            value.grad += adjoint[value]
            for parent, slope in zip(value.parents, value.slopes, strict=True):
                adjoint[parent] += adjoint[value] * slope

    def derivative(self, by: Value) -> float:
        """Return the derivative by one value of the graph: forward mode, a pass for each `by`.

        The tangent of v is the sum, over its parents, of the parent's tangent times v's slope by it (Griewank & Walther
        2008, section 3.1).
        """
        tangent: dict[Value, float] = {}
        for value in self.graph():
            ways = zip(value.parents, value.slopes, strict=True)
            tangent[value] = 1.0 if value is by else sum((tangent[parent] * slope for parent, slope in ways), start=0.0)
        return tangent[self]


def _value(number: Value | float) -> Value:
    return number if isinstance(number, Value) else Value(float(number))


def descend(parameters: Sequence[Value], lr: float) -> None:
    """Take one step of gradient descent, p - lr dL/dp, and set the gradients to 0."""
    for parameter in parameters:
        parameter.data -= lr * parameter.grad
        parameter.grad = 0.0


def neuron(w: Value, b: Value, x: float, t: float) -> dict[str, Value]:
    """Return, by its formula, each value on the way to the loss of y = relu(w x + b) for an example x with target t."""
    wx = w * x
    z = wx + b
    y = z.relu()
    e = y - t
    return {"w": w, "b": b, "w x": wx, "z = w x + b": z, "y = relu(z)": y, "e = y - t": e, "L = e^2 / 2": e**2 / 2}


# Pairs of inputs and a target.
Examples = Sequence[tuple[Sequence[float], float]]


@dataclass(frozen=True, slots=True)
class Network:
    """A multilayer perceptron with tanh between its layers: `layers[l][j]` are unit j's weights, its bias last."""

    layers: list[list[list[Value]]]

    @classmethod
    def drawn(cls, sizes: Sequence[int], seed: int) -> Network:
        """Draw weights uniformly within 1 / sqrt(inputs), as torch's `Linear` does by default; biases start at 0."""
        draw = random.Random(seed)

        def unit(inputs: int) -> list[Value]:
            bound = inputs**-0.5
            return [*(Value(draw.uniform(-bound, bound)) for _ in range(inputs)), Value(0.0)]

        return cls([[unit(inputs) for _ in range(outputs)] for inputs, outputs in pairwise(sizes)])

    def parameters(self) -> list[Value]:
        """Return all weights and biases."""
        return [weight for layer in self.layers for unit in layer for weight in unit]

    def __call__(self, x: Sequence[float]) -> Value:
        """Return the first output for one example."""
        units = [Value(number) for number in x]
        for layer in self.layers:
            sums = [sum((w * u for w, u in zip(unit, units, strict=False)), start=unit[-1]) for unit in layer]
            units = sums if layer is self.layers[-1] else [total.tanh() for total in sums]
        return units[0]

    def loss(self, examples: Examples) -> Value:
        """Return the mean over examples (x, t) of (y - t)^2 / 2."""
        errors = [self(x) - target for x, target in examples]
        return sum((error**2 / 2 for error in errors), start=Value(0.0)) / len(errors)

    def train(self, examples: Examples, steps: int, lr: float) -> None:
        """Descend the loss of all examples; gradients that were there are dropped."""
        parameters = self.parameters()
        for parameter in parameters:
            parameter.grad = 0.0
        for _ in range(steps):
            self.loss(examples).backward()
            descend(parameters, lr)

    def torch_gradients(self, examples: Examples) -> list[float]:
        """Return what torch.autograd finds for `parameters()`, in float64."""
        rows = [[[weight.data for weight in unit] for unit in layer] for layer in self.layers]
        layers = [torch.tensor(layer, dtype=torch.float64, requires_grad=True) for layer in rows]
        units = torch.tensor([list(x) for x, _ in examples], dtype=torch.float64)
        for layer in layers[:-1]:
            units = torch.tanh(units @ layer[:, :-1].T + layer[:, -1])
        outputs = units @ layers[-1][:, :-1].T + layers[-1][:, -1]
        error = outputs[:, 0] - torch.tensor([target for _, target in examples], dtype=torch.float64)
        gradients = torch.autograd.grad((error**2 / 2).mean(), layers)
        return [float(number) for gradient in gradients for number in gradient.flatten()]


def softmax(logits: Sequence[Value]) -> list[Value]:
    """Return p_j = e^(z_j) / sum_k e^(z_k)."""
    powers = [logit.exp() for logit in logits]
    total = sum(powers, start=Value(0.0))
    return [power / total for power in powers]


def cross_entropy(p: Sequence[Value], q: Sequence[float]) -> Value:
    """Return L = -sum_j q_j log p_j."""
    return -sum((share.log() * target for share, target in zip(p, q, strict=True)), start=Value(0.0))


XOR = [((0.0, 0.0), 0.0), ((0.0, 1.0), 1.0), ((1.0, 0.0), 1.0), ((1.0, 1.0), 0.0)]


def one_step() -> Iterator[str]:
    """The worked example: a neuron's forward pass, its backward pass, and one step of gradient descent."""
    w, b, x, t, lr = Value(0.5), Value(0.1), 0.3, 0.15, 0.1
    steps = neuron(w, b, x, t)
    *_, loss = steps.values()
    loss.backward()
    yield f"One neuron, one example: x = {x}, t = {t}"
    yield f"{'':14}{'value':>10}{'dL/d':>10}"
    yield from (f"{name:14}{value.data:10.4g}{value.grad:10.4g}" for name, value in steps.items())
    update = [f"{name} - lr dL/d{name} = {v.data:.4g} - {lr} * {v.grad:.4g}" for name, v in (("w", w), ("b", b))]
    descend([w, b], lr)
    yield from (f"{text} = {value.data:.4g}" for text, value in zip(update, (w, b), strict=True))
    *_, after = neuron(w, b, x, t).values()
    yield f"L before {loss.data:.4g}, after {after.data:.4g}"


def used_often() -> Iterator[str]:
    """A value that is used more than once gets the sum of what comes back on each way."""
    x = Value(3.0)
    (x * x + x).backward()
    yield f"x^2 + x at x = {x.data:g}: derivative {x.grad:g}"


def one_network() -> Iterator[str]:
    """Both modes and torch.autograd on one network, and what they cost; then training it."""
    network = Network.drawn([2, 4, 1], seed=1)
    parameters = network.parameters()

    def state() -> str:
        outputs = ", ".join(f"{network(x).data:.2f}" for x, _ in XOR)
        return f"loss {network.loss(XOR).data:.4f}, outputs {outputs}"

    loss = network.loss(XOR)
    loss.backward()
    found = [parameter.grad for parameter in parameters]
    graph = loss.graph()
    slopes = sum(len(value.slopes) for value in graph)
    yield f"A 2-4-1 network on the four examples of XOR: {len(parameters)} parameters, {len(graph)} values"
    yield f"reverse mode: 1 pass, {slopes} products, for all {len(parameters)} derivatives"
    yield f"forward mode: {len(parameters)} passes, {len(parameters) * slopes} products"
    forward = [loss.derivative(parameter) for parameter in parameters]
    for name, others in {"forward mode": forward, "torch.autograd": network.torch_gradients(XOR)}.items():
        furthest = max(abs(mine - other) for mine, other in zip(found, others, strict=True))
        yield f"furthest from {name}: {furthest / max(map(abs, found)):.1e} of the largest derivative"
    yield f"untrained:           {state()}"
    network.train(XOR, steps=200, lr=0.5)
    yield f"200 steps of lr 0.5: {state()}"


def ten_in_a_row() -> Iterator[str]:
    """What is left of a derivative after ten activations."""
    ways: dict[str, tuple[float, Callable[[Value], Value]]] = {
        # A sigmoid is steepest at 0 and is 0.5 there.
        "sigmoid, each at its steepest": (0.0, lambda value: value.sigmoid() - 0.5),
        "sigmoid, as they come": (0.0, Value.sigmoid),
        "tanh, each at its steepest": (0.0, Value.tanh),
        "relu, switched on": (1.0, Value.relu),
    }
    yield "The derivative through 10 activations in a row"
    for name, (start, activation) in ways.items():
        first = last = Value(start)
        for _ in range(10):
            last = activation(last)
        last.backward()
        yield f"{name:31}{first.grad:8.2g}"


def p_minus_q() -> Iterator[str]:
    """The derivative of softmax and cross entropy by the logits, from the graph and from the formula."""
    logits, q = [Value(2.0), Value(1.0), Value(0.0), Value(-1.0)], [0.85, 0.05, 0.05, 0.05]
    p = softmax(logits)
    cross_entropy(p, q).backward()
    yield "Softmax and cross entropy, 4 classes, the target smoothed by 0.2"
    rows = {
        "logits": [logit.data for logit in logits],
        "p": [share.data for share in p],
        "q": q,
        "p - q": [share.data - target for share, target in zip(p, q, strict=True)],
        "backward": [logit.grad for logit in logits],
    }
    yield from (f"{name:10}" + "".join(f"{number:9.4f}" for number in row) for name, row in rows.items())


def lines() -> Iterator[str]:
    """Return all that the demonstration prints, at most 80 columns wide."""
    for part in (one_step, used_often, one_network, ten_in_a_row, p_minus_q):
        yield from part()
        yield ""


if __name__ == "__main__":
    print("\n".join(lines()).rstrip())
