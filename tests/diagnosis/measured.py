"""The runs that the diagnosis is measured by; no threshold was chosen by them, see `tuning` and `tuning_second`."""

from __future__ import annotations

from functools import partial

from swathe.training.recipe import (
    CNN,
    MLP,
    Adagrad,
    Adam,
    CifarResNet,
    CosineSchedule,
    DeepMLP,
    ExponentialSchedule,
    LinearSchedule,
    Momentum,
    OneCycleSchedule,
    Optim,
    PlateauSchedule,
    PolynomialSchedule,
    Regularization,
    RMSprop,
    StepSchedule,
)
from tests.diagnosis.cases import (
    Case,
    constant,
    flip_gradients,
    freeze,
    images,
    multiplied,
    rescaled,
    retargeted,
    scale_weights,
    set_biases,
    shifted,
    shuffled,
    spoil,
    table,
    validation_relabelled,
    validation_rescaled,
    validation_shuffled,
    zero_weights,
)
from tests.diagnosis.faults import (
    ALIKE,
    DEAD,
    EXPLODES,
    FROZEN,
    INPUTS,
    NOT_A_NUMBER,
    OVERFITS,
    SHIFTED,
    SHUFFLED,
    TARGETS,
    TOO_HIGH,
    TOO_LOW,
    VALIDATION_RELABELLED,
    VALIDATION_RESCALED,
    VALIDATION_SHUFFLED,
    VANISHES,
    WEIGHTS_0,
    WEIGHTS_X10,
    WRONG_SIGN,
    fault,
    healthy,
    run,
)

# Other parts of the images than those of the tuning, other splits of the tables, and tables of their own.
DIGITS = images("digits", limit=500, split_seed=21)
FASHION = images("fashion_mnist", limit=640, split_seed=17, val_fraction=0.012)
CANCER = table("breast_cancer", split_seed=31)
IRIS = table("iris", split_seed=32)
CIRCLES = table("circles", seed=11)
RARE = table("rare", seed=12)
PLANE = table("plane", seed=13)
STEPS = table("steps", seed=14)
DIABETES = table("diabetes", split_seed=33)

small = partial(run, batch_size=10)
batch25 = partial(run, batch_size=25)
batch50 = partial(run, batch_size=50)
dropout = Regularization(dropout=0.2)


def net(*hidden: int, activation: str = "relu", init: str = "default", norm: str = "none") -> MLP:
    """Return a network of a few layers."""
    return MLP(hidden=list(hidden), activation=activation, init=init, norm=norm)


def deep(depth: int, activation: str, init: str = "default", width: int = 36) -> DeepMLP:
    """Return a network with many layers."""
    return DeepMLP(depth=depth, activation=activation, init=init, width=width)


x10 = partial(scale_weights, 10)

FAULTS: list[Case] = [
    fault(TOO_HIGH, "cancer, sgd 50", batch25(net(40), Optim(lr=50.0), seed=20), CANCER),
    fault(TOO_HIGH, "cancer, adam 0.3", batch25(net(40, 20), Adam(lr=0.3), 15, seed=21), CANCER),
    fault(TOO_HIGH, "cancer, rmsprop 0.5", batch25(net(40), RMSprop(lr=0.5), seed=22), CANCER),
    fault(TOO_HIGH, "digits, sgd 15", batch25(net(72), Optim(lr=15.0), seed=23), DIGITS),
    fault(TOO_HIGH, "digits, momentum 4", batch25(net(72, 36), Momentum(lr=4.0), seed=24), DIGITS),
    fault(TOO_HIGH, "digits, adamw 1", batch25(net(72), Adam("adamw", lr=1.0), seed=25), DIGITS),
    fault(TOO_HIGH, "digits, tanh, adam 0.3", batch25(net(72, activation="tanh"), Adam(lr=0.3), seed=26), DIGITS),
    fault(
        TOO_HIGH, "digits, silu, nesterov 3", batch25(net(72, activation="silu"), Momentum("nesterov", lr=3.0)), DIGITS
    ),
    fault(TOO_HIGH, "iris, sgd 20", small(net(20), Optim(lr=20.0), 25, seed=27), IRIS),
    fault(TOO_HIGH, "circles, adam 1", batch50(net(32, 32), Adam(lr=1.0), 15, seed=28), CIRCLES),
    fault(TOO_HIGH, "rare, momentum 5", batch50(net(32), Momentum(lr=5.0), 15, seed=29), RARE),
    fault(TOO_HIGH, "steps, sgd 2", batch25(net(36), Optim(lr=2.0), seed=30), STEPS),
    fault(TOO_HIGH, "diabetes, adamw 1", batch25(net(36), Adam("adamw", lr=1.0), 20, seed=31), DIABETES),
    fault(TOO_HIGH, "plane, nesterov 1", batch25(net(20), Momentum("nesterov", lr=1.0), seed=32), PLANE),
    fault(TOO_HIGH, "fashion, cnn, sgd 10", batch50(CNN(channels=[10]), Optim(lr=10.0), 6, seed=33), FASHION),
    fault(TOO_HIGH, "digits, resnet, adam 3", batch25(CifarResNet(depth=8, width=4), Adam(lr=3.0), 6, seed=34), DIGITS),
    fault(TOO_LOW, "cancer, momentum 1e-6", batch25(net(40), Momentum(lr=1e-6), 15, seed=20), CANCER),
    fault(TOO_LOW, "cancer, adam 2e-6", batch25(net(40, 20, activation="gelu"), Adam(lr=2e-6), 15, seed=21), CANCER),
    fault(TOO_LOW, "digits, sgd 5e-4", batch25(net(72), Optim(lr=5e-4), seed=23), DIGITS),
    fault(TOO_LOW, "digits, adamw 3e-6", batch25(net(72, 36), Adam("adamw", lr=3e-6), seed=24), DIGITS),
    fault(TOO_LOW, "digits, batch norm, rmsprop 2e-6", batch25(net(72, norm="batch"), RMSprop(lr=2e-6)), DIGITS),
    fault(TOO_LOW, "iris, adam 5e-6", small(net(20), Adam(lr=5e-6), 25, seed=27), IRIS),
    fault(TOO_LOW, "circles, sgd 1e-4", batch50(net(32, 32), Optim(lr=1e-4), 15, seed=28), CIRCLES),
    fault(TOO_LOW, "steps, adagrad 1e-5", batch25(net(36), Adagrad(lr=1e-5), 15, seed=30), STEPS),
    fault(TOO_LOW, "diabetes, nesterov 1e-6", batch25(net(36), Momentum("nesterov", lr=1e-6), 15), DIABETES),
    fault(TOO_LOW, "fashion, cnn, sgd 1e-5", batch50(CNN(channels=[10]), Optim(lr=1e-5), 8, seed=33), FASHION),
    fault(VANISHES, "cancer, 10 x sigmoid, sgd", batch25(deep(10, "sigmoid"), Optim(lr=0.02), seed=35), CANCER),
    fault(VANISHES, "digits, 10 x sigmoid, rmsprop", batch25(deep(10, "sigmoid"), RMSprop(lr=1e-4), seed=36), DIGITS),
    fault(
        VANISHES, "digits, 20 x sigmoid, orthogonal", batch25(deep(20, "sigmoid", "orthogonal"), Optim(lr=0.05)), DIGITS
    ),
    fault(VANISHES, "digits, 8 x tanh, small", batch25(deep(8, "tanh", "small_normal"), Adam(lr=1e-5)), DIGITS),
    fault(VANISHES, "circles, 6 x sigmoid, small", batch50(deep(6, "sigmoid", "small_normal"), Optim(lr=0.1)), CIRCLES),
    fault(VANISHES, "iris, 12 x sigmoid", small(deep(12, "sigmoid", width=20), Momentum(lr=0.005), 20), IRIS),
    fault(VANISHES, "steps, 10 x sigmoid", batch25(deep(10, "sigmoid"), Optim(lr=0.02), 15), STEPS),
    fault(WEIGHTS_X10, "digits, he", batch25(net(72, init="he_normal"), Optim(lr=0.01)), DIGITS, x10),
    fault(WEIGHTS_X10, "iris, he, adam", small(net(20, init="he_uniform"), Adam(), 20), IRIS, x10),
    fault(
        WEIGHTS_X10,
        "rare, tanh, xavier",
        batch50(net(32, 32, activation="tanh", init="xavier_normal"), Adam()),
        RARE,
        x10,
    ),
    fault(WEIGHTS_X10, "diabetes, orthogonal", batch25(net(36, init="orthogonal"), Adam(), 15), DIABETES, x10),
    fault(WEIGHTS_X10, "fashion, cnn", batch50(CNN(channels=[10], init="he_normal"), Adam(), 5), FASHION, x10),
    fault(
        EXPLODES,
        "digits, 10 layers x 2",
        batch25(deep(10, "gelu", "he_normal"), Optim(lr=0.01), 8),
        DIGITS,
        partial(scale_weights, 2),
    ),
    fault(
        EXPLODES,
        "steps, 25 layers x 1.5",
        batch25(deep(25, "relu", "he_uniform"), Adam(), 10),
        STEPS,
        partial(scale_weights, 1.5),
    ),
    fault(
        SHUFFLED,
        "cancer",
        batch25(net(56), Adam("adamw", lr=2e-3), 25),
        table("breast_cancer", shuffled, split_seed=31),
    ),
    fault(
        SHUFFLED, "iris", small(net(40, activation="tanh"), Adam(lr=5e-3), 40), table("iris", shuffled, split_seed=32)
    ),
    fault(SHUFFLED, "digits", batch25(net(72), RMSprop(), 25), table("digits", shuffled, split_seed=21, limit=500)),
    fault(SHUFFLED, "steps", batch25(net(56), Adam(lr=3e-3), 30), table("steps", shuffled, seed=14)),
    fault(SHUFFLED, "rare", batch50(net(48, 48), Adam(lr=2e-3), 30), table("rare", shuffled, seed=12)),
    fault(
        SHIFTED, "cancer", batch25(net(40, 40), Momentum(lr=0.03), 25), table("breast_cancer", shifted, split_seed=31)
    ),
    fault(SHIFTED, "diabetes", batch25(net(56), Adam(lr=2e-3), 30), table("diabetes", shifted, split_seed=33)),
    fault(
        VALIDATION_SHUFFLED,
        "cancer",
        batch25(net(40), Adam(), 15),
        table("breast_cancer", validation_shuffled, split_seed=31),
    ),
    fault(
        VALIDATION_SHUFFLED, "steps", batch25(net(36), Adam(lr=2e-3), 20), table("steps", validation_shuffled, seed=14)
    ),
    fault(
        VALIDATION_SHUFFLED, "rare", batch50(net(32), Adam(lr=2e-3), 20), table("rare", validation_shuffled, seed=12)
    ),
    fault(
        VALIDATION_RELABELLED,
        "iris",
        small(net(20), Momentum(lr=0.02), 25),
        table("iris", validation_relabelled, split_seed=32),
    ),
    fault(
        VALIDATION_RELABELLED,
        "cancer",
        batch25(net(40), Adam(), 12),
        table("breast_cancer", validation_relabelled, split_seed=31),
    ),
    fault(
        VALIDATION_RESCALED,
        "iris",
        small(net(20), Adam(lr=5e-3), 25),
        table("iris", partial(validation_rescaled, 4), split_seed=32),
    ),
    fault(
        VALIDATION_RESCALED,
        "steps",
        batch25(net(36), Adam(lr=2e-3), 20),
        table("steps", partial(validation_rescaled, 3), seed=14),
    ),
    fault(ALIKE, "circles", batch50(net(32), Adam(), 12), table("circles", constant, seed=11)),
    fault(
        ALIKE,
        "digits, tanh",
        batch25(net(72, activation="tanh"), Optim(lr=0.05), 12),
        table("digits", constant, split_seed=21),
    ),
    fault(DEAD, "digits, biases -12", batch25(net(72), RMSprop(), 10), DIGITS, partial(set_biases, -12.0)),
    fault(DEAD, "iris, biases -10", small(net(20, 20), Adam(lr=3e-3), 15), IRIS, partial(set_biases, -10.0)),
    fault(DEAD, "steps, biases -20", batch25(net(36), Momentum(lr=0.01), 12), STEPS, partial(set_biases, -20.0)),
    fault(
        OVERFITS,
        "digits, 70 examples",
        run(net(256, 256), Adam("adamw", lr=3e-3), 80, batch_size=14),
        images("digits", limit=70, split_seed=21),
    ),
    fault(
        OVERFITS,
        "fashion, 120 examples",
        batch25(net(256, 256), Adam(lr=2e-3), 60),
        images("fashion_mnist", limit=120, split_seed=17, val_fraction=0.012),
    ),
    fault(
        OVERFITS, "rare, 80 examples", run(net(256, 256), Adam(), 60, batch_size=20), table("rare", limit=80, seed=12)
    ),
    fault(
        OVERFITS,
        "diabetes, 120 examples",
        run(net(256, 256), Adam(lr=2e-3), 60, batch_size=20),
        table("diabetes", limit=120, split_seed=33),
    ),
    fault(
        OVERFITS,
        "cancer, 50 examples",
        run(net(256, 256), RMSprop(lr=3e-3), 80, batch_size=25),
        table("breast_cancer", limit=50, split_seed=31),
    ),
    fault(
        INPUTS,
        "digits, 1e3",
        batch25(net(72), Adam(), 12),
        table("digits", partial(multiplied, 1e3), split_seed=21, standardize=False),
    ),
    fault(
        INPUTS,
        "circles, tanh, 1e3",
        batch50(net(32, activation="tanh"), Adam(), 15),
        table("circles", partial(rescaled, 1e3), seed=11, standardize=False),
    ),
    fault(
        INPUTS,
        "steps, 1e3",
        batch25(net(36), Adam(), 15),
        table("steps", partial(rescaled, 1e3), seed=14, standardize=False),
    ),
    fault(
        TARGETS,
        "plane, 300 + 20 z",
        batch25(net(20), Momentum(lr=1e-6), 15),
        table("plane", partial(retargeted, 300.0, 20.0), seed=13),
    ),
    fault(FROZEN, "digits, all", batch25(net(72), Adam("adamw", lr=1e-3), 10), DIGITS, partial(freeze, slice(None))),
    fault(FROZEN, "cancer, the first", batch25(net(40, 20), Optim(lr=0.05), 12), CANCER, partial(freeze, slice(0, 1))),
    fault(FROZEN, "steps, the last", batch25(net(36, 36), Adam(), 12), STEPS, partial(freeze, slice(-1, None))),
    fault(
        FROZEN,
        "fashion, cnn, all but the last",
        batch50(CNN(channels=[10]), Adam(), 6),
        FASHION,
        partial(freeze, slice(0, -1)),
    ),
    fault(WRONG_SIGN, "iris", small(net(20), Adam(lr=3e-3), 15), IRIS, flip_gradients),
    fault(WRONG_SIGN, "steps", batch25(net(36), Momentum(lr=0.003), 12), STEPS, flip_gradients),
    fault(WEIGHTS_0, "circles", batch50(net(32, 32), Adam(), 12), CIRCLES, zero_weights),
    fault(NOT_A_NUMBER, "digits, cnn", batch25(CNN(channels=[6]), Adam(), 3), DIGITS, spoil),
]

HEALTHY: list[Case] = [
    healthy("cancer, sgd", batch25(net(28), Optim(lr=0.02), 12), CANCER),
    healthy(
        "cancer, momentum, clip",
        batch25(net(28, 14), Momentum(lr=0.005), 12, regularization=Regularization(clip_norm=1.0)),
        CANCER,
    ),
    healthy("cancer, adam", batch25(net(28), Adam(lr=8e-4), 12), CANCER),
    healthy("cancer, adamw, cosine", batch25(net(56), Adam("adamw"), 15, schedule=CosineSchedule()), CANCER),
    healthy("cancer, silu, rmsprop", batch25(net(28, activation="silu"), RMSprop(lr=5e-4), 12), CANCER),
    healthy("cancer, sigmoid, sgd", batch25(net(28, activation="sigmoid"), Optim(lr=0.2), 15), CANCER),
    healthy("cancer, dropout", batch25(net(56), Adam(), 15, regularization=dropout), CANCER),
    healthy(
        "cancer, tanh, orthogonal",
        batch25(net(28, 28, activation="tanh", init="orthogonal"), Adam(lr=5e-4), 12),
        CANCER,
    ),
    healthy("iris, adam", small(net(20), Adam(lr=2e-3), 30), IRIS),
    healthy("iris, nesterov", small(net(20), Momentum("nesterov", lr=0.005), 30), IRIS),
    healthy("iris, tanh, step", small(net(16, activation="tanh"), Adam(lr=5e-3), 30, schedule=StepSchedule()), IRIS),
    healthy("iris, linear", small(net(), Adam(lr=0.01), 30), IRIS),
    healthy("iris, full batch", run(net(20, activation="gelu"), Adam(lr=0.01), 60, batch_size="full"), IRIS),
    healthy("circles, adam", batch50(net(32), Adam(lr=5e-3), 25), CIRCLES),
    healthy("circles, momentum", batch50(net(32, 32), Momentum(lr=0.02), 25), CIRCLES),
    healthy("circles, adagrad", batch50(net(32, activation="tanh"), Adagrad(lr=0.1), 25), CIRCLES),
    healthy("circles, batch 5", run(net(24), Optim(lr=0.03), 10, batch_size=5), CIRCLES),
    healthy("rare, adam", batch50(net(32), Adam(lr=2e-3), 12), RARE),
    healthy("rare, nesterov", batch50(net(32, 32), Momentum("nesterov", lr=0.01), 12), RARE),
    healthy(
        "rare, smoothing", batch50(net(32), Adam(lr=2e-3), 12, regularization=Regularization(label_smoothing=0.1)), RARE
    ),
    healthy("rare, batch norm", batch50(net(32, norm="batch"), Adam(), 10), RARE),
    healthy("diabetes, adam", batch25(net(14), Adam(), 20), DIABETES),
    healthy("diabetes, sgd", batch25(net(14), Optim(lr=0.005), 20), DIABETES),
    healthy(
        "diabetes, tanh, l2",
        batch25(net(14, activation="tanh"), Adam(), 20, regularization=Regularization(l2=1e-2)),
        DIABETES,
    ),
    healthy("diabetes, linear", batch25(net(), Momentum(lr=0.003), 20), DIABETES),
    healthy("steps, adam", batch25(net(36), Adam(), 20), STEPS),
    healthy("steps, he, adamw", batch25(net(36, 36, init="he_normal"), Adam("adamw", lr=5e-4), 20), STEPS),
    healthy("steps, momentum, one cycle", batch25(net(36), Momentum(lr=0.01), 20, schedule=OneCycleSchedule()), STEPS),
    healthy("steps, rmsprop", batch25(net(36, activation="leaky_relu"), RMSprop(lr=5e-4), 20), STEPS),
    healthy("plane, adam, exponential", batch25(net(20), Adam(lr=5e-3), 25, schedule=ExponentialSchedule()), PLANE),
    healthy("plane, sgd", batch25(net(20), Optim(lr=0.01), 20), PLANE),
    healthy("plane, linear, full batch", run(net(), Optim(lr=0.1), 50, batch_size="full"), PLANE),
    healthy("digits, adam", batch25(net(72), Adam(), 12, seed=40), DIGITS),
    healthy("digits, sgd", batch25(net(72), Optim(lr=0.05), 15, seed=41), DIGITS),
    healthy(
        "digits, momentum, polynomial",
        batch25(net(72, 36), Momentum(lr=0.01), 15, schedule=PolynomialSchedule()),
        DIGITS,
    ),
    healthy(
        "digits, nesterov, plateau",
        batch25(net(72), Momentum("nesterov", lr=0.01), 15, schedule=PlateauSchedule()),
        DIGITS,
    ),
    healthy("digits, adagrad", batch25(net(72), Adagrad(lr=0.02), 15), DIGITS),
    healthy("digits, warm-up", batch25(net(72, 36), Adam(), 15, schedule=LinearSchedule(warmup_steps=50)), DIGITS),
    healthy("digits, sigmoid", batch25(net(72, activation="sigmoid"), Adam(lr=2e-3), 15), DIGITS),
    healthy(
        "digits, smoothing, dropout",
        batch25(net(100), Adam(), 15, regularization=Regularization(dropout=0.4, label_smoothing=0.05)),
        DIGITS,
    ),
    healthy("digits, l1", batch25(net(72), Momentum(lr=0.01), 15, regularization=Regularization(l1=1e-4)), DIGITS),
    healthy("digits, group norm", batch25(net(64, 64, norm="group"), Adam(), 10), DIGITS),
    healthy(
        "digits, 15 layers, residual",
        batch25(DeepMLP(depth=15, width=36, residual=True, norm="layer"), Adam(lr=5e-4), 10),
        DIGITS,
    ),
    healthy(
        "digits, 9 layers, batch norm", batch25(DeepMLP(depth=9, width=36, norm="batch"), Momentum(lr=0.02), 10), DIGITS
    ),
    healthy("digits, 6 layers, he", batch25(deep(6, "relu", "he_normal"), Adam(lr=5e-4), 12), DIGITS),
    healthy("digits, 6 layers, default", batch25(deep(6, "relu"), Adam(), 15), DIGITS),
    healthy("digits, full batch", run(net(72), Adam(lr=3e-3), 50, batch_size="full"), DIGITS),
    healthy("digits, cnn", batch25(CNN(channels=[8, 8], hidden=[24]), Adam(), 8), DIGITS),
    healthy(
        "digits, cnn, batch norm", batch25(CNN(channels=[8], hidden=[24], norm="batch"), Optim(lr=0.02), 8), DIGITS
    ),
    healthy("digits, resnet", batch25(CifarResNet(depth=8, width=4), Adam("adamw", lr=2e-3), 8), DIGITS),
    healthy("digits, resnet, sgd", batch25(CifarResNet(depth=8, width=4), Optim(lr=0.1), 8), DIGITS),
    healthy("fashion, sgd", batch50(net(40), Optim(lr=0.03), 12), FASHION),
    healthy("fashion, dropout", batch50(net(64), Adam(), 10, regularization=Regularization(dropout=0.4)), FASHION),
    healthy("fashion, cnn", batch50(CNN(channels=[10], hidden=[24]), Adam(), 6), FASHION),
    healthy("fashion, cnn, momentum", batch50(CNN(channels=[6, 12], hidden=[24]), Momentum(lr=0.01), 6), FASHION),
]
