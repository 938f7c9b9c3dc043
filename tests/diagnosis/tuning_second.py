"""The runs of the first measurement, and others like those that it missed: thresholds were chosen by them since."""

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

# A third of the digits, by another split; and other images than those of `tuning`.
DIGITS = images("digits", limit=600, split_seed=5)
FASHION = images("fashion_mnist", limit=700, split_seed=3, val_fraction=0.01)
CANCER = table("breast_cancer", split_seed=2)
IRIS = table("iris", split_seed=4)
MOONS = table("moons", seed=3)
FRIEDMAN = table("friedman", seed=4)
PLANE = table("plane", seed=6)

small = partial(run, batch_size=16)
batch32 = partial(run, batch_size=32)
dropout = Regularization(dropout=0.25)


def tanh(*hidden: int) -> MLP:
    """Return a network with tanh."""
    return MLP(hidden=list(hidden), activation="tanh")


def relu(*hidden: int) -> MLP:
    """Return a network with ReLU."""
    return MLP(hidden=list(hidden))


def deep(depth: int, activation: str, init: str = "default", width: int = 40) -> DeepMLP:
    """Return a network with many layers."""
    return DeepMLP(depth=depth, activation=activation, init=init, width=width)


FAULTS: list[Case] = [
    fault(TOO_HIGH, "cancer, sgd 10", batch32(relu(48), Optim(lr=10.0), seed=3), CANCER),
    fault(TOO_HIGH, "cancer, adamw 0.3", batch32(relu(48, 24), Adam("adamw", lr=0.3), 15, seed=3), CANCER),
    fault(TOO_HIGH, "cancer, tanh, nesterov 5", batch32(tanh(48), Momentum("nesterov", lr=5.0), seed=4), CANCER),
    fault(TOO_HIGH, "digits, nesterov 2", run(relu(80), Momentum("nesterov", lr=2.0), seed=5), DIGITS),
    fault(TOO_HIGH, "digits, sgd 30", batch32(relu(80, 40), Optim(lr=30.0), seed=6), DIGITS),
    fault(TOO_HIGH, "digits, adam 0.5", batch32(relu(80), Adam(lr=0.5), seed=7), DIGITS),
    fault(
        TOO_HIGH,
        "digits, gelu, adamw 0.5",
        batch32(MLP(hidden=[48, 48], activation="gelu"), Adam("adamw", lr=0.5)),
        DIGITS,
    ),
    fault(TOO_HIGH, "iris, adam 1", small(relu(24), Adam(lr=1.0), 25, seed=2), IRIS),
    fault(TOO_HIGH, "iris, momentum 5", small(relu(24), Momentum(lr=5.0), 25, seed=2), IRIS),
    fault(TOO_HIGH, "moons, rmsprop 1", run(relu(40), RMSprop(lr=1.0), 15, seed=1), MOONS),
    fault(TOO_HIGH, "friedman, sgd 3", batch32(relu(40), Optim(lr=3.0), seed=1), FRIEDMAN),
    fault(TOO_HIGH, "friedman, adam 1", batch32(relu(40), Adam(lr=1.0), 15, seed=2), FRIEDMAN),
    fault(TOO_HIGH, "plane, momentum 1", batch32(relu(24), Momentum(lr=1.0), seed=3), PLANE),
    fault(TOO_HIGH, "fashion, cnn, adam 0.1", run(CNN(channels=[6, 12]), Adam(lr=0.1), 6, seed=2), FASHION),
    fault(TOO_HIGH, "digits, resnet, sgd 30", run(CifarResNet(depth=8, width=3), Optim(lr=30.0), 6, seed=1), DIGITS),
    fault(TOO_LOW, "cancer, sgd 1e-5", batch32(relu(48), Optim(lr=1e-5), 15, seed=3), CANCER),
    fault(TOO_LOW, "cancer, adamw 3e-6", batch32(relu(48, 24), Adam("adamw", lr=3e-6), 15, seed=3), CANCER),
    fault(TOO_LOW, "digits, nesterov 3e-5", batch32(relu(80), Momentum("nesterov", lr=3e-5), seed=5), DIGITS),
    fault(TOO_LOW, "digits, adam 5e-6", batch32(tanh(80, 40), Adam(lr=5e-6), seed=6), DIGITS),
    fault(TOO_LOW, "iris, sgd 1e-4", small(relu(24), Optim(lr=1e-4), 25, seed=2), IRIS),
    fault(TOO_LOW, "moons, adagrad 1e-5", run(relu(40), Adagrad(lr=1e-5), 15, seed=1), MOONS),
    fault(TOO_LOW, "friedman, momentum 1e-6", batch32(relu(40), Momentum(lr=1e-6), 15, seed=1), FRIEDMAN),
    fault(TOO_LOW, "plane, adam 3e-6", batch32(relu(24), Adam(lr=3e-6), 15, seed=3), PLANE),
    fault(TOO_LOW, "fashion, cnn, adam 2e-6", run(CNN(channels=[6, 12]), Adam(lr=2e-6), 8, seed=2), FASHION),
    fault(VANISHES, "cancer, 10 x sigmoid, adam", batch32(deep(10, "sigmoid"), Adam(lr=1e-4), seed=1), CANCER),
    fault(
        VANISHES, "digits, 10 x sigmoid, nesterov", batch32(deep(10, "sigmoid"), Momentum("nesterov", lr=0.01)), DIGITS
    ),
    fault(
        VANISHES, "digits, 15 x sigmoid, xavier", batch32(deep(15, "sigmoid", "xavier_normal"), Optim(lr=0.05)), DIGITS
    ),
    fault(VANISHES, "iris, 11 x sigmoid", small(deep(11, "sigmoid", width=24), Optim(lr=0.05), 20), IRIS),
    fault(VANISHES, "digits, 7 x tanh, small", batch32(deep(7, "tanh", "small_normal"), Optim(lr=0.05)), DIGITS),
    fault(VANISHES, "moons, 5 x sigmoid, small", run(deep(5, "sigmoid", "small_normal"), Optim(lr=0.1)), MOONS),
    fault(VANISHES, "friedman, 10 x sigmoid", batch32(deep(10, "sigmoid"), Momentum(lr=0.003), 15), FRIEDMAN),
    fault(
        WEIGHTS_X10,
        "digits, he",
        batch32(MLP(hidden=[48], init="he_uniform"), Momentum(lr=0.01)),
        DIGITS,
        partial(scale_weights, 10),
    ),
    fault(
        WEIGHTS_X10,
        "cancer, xavier",
        batch32(MLP(hidden=[48, 24], init="xavier_uniform"), Adam()),
        CANCER,
        partial(scale_weights, 10),
    ),
    fault(
        WEIGHTS_X10,
        "cancer, tanh, orthogonal",
        batch32(MLP(hidden=[48], activation="tanh", init="orthogonal"), Adam()),
        CANCER,
        partial(scale_weights, 10),
    ),
    fault(
        WEIGHTS_X10,
        "friedman, xavier",
        batch32(MLP(hidden=[40], init="xavier_normal"), Adam(), 15),
        FRIEDMAN,
        partial(scale_weights, 10),
    ),
    fault(
        EXPLODES,
        "digits, 15 layers x 2",
        batch32(deep(15, "relu", "he_normal"), Adam(), 8),
        DIGITS,
        partial(scale_weights, 2),
    ),
    fault(
        EXPLODES,
        "cancer, 30 layers x 1.7",
        batch32(deep(30, "leaky_relu", "he_normal"), Optim(lr=0.01), 8),
        CANCER,
        partial(scale_weights, 1.7),
    ),
    fault(SHUFFLED, "cancer", batch32(relu(64), Adam(lr=2e-3), 25), table("breast_cancer", shuffled, split_seed=2)),
    fault(SHUFFLED, "iris", small(relu(48), Adam(lr=5e-3), 40), table("iris", shuffled, split_seed=4)),
    fault(SHUFFLED, "friedman", batch32(relu(64, 64), Adam(lr=2e-3), 25), table("friedman", shuffled, seed=4)),
    fault(
        SHUFFLED, "digits", batch32(tanh(80), Momentum(lr=0.03), 25), table("digits", shuffled, split_seed=5, limit=600)
    ),
    fault(SHIFTED, "plane", batch32(relu(64), Momentum(lr=0.01), 25), table("plane", shifted, seed=6)),
    fault(SHIFTED, "cancer", batch32(tanh(48, 48), Optim(lr=0.1), 25), table("breast_cancer", shifted, split_seed=2)),
    fault(
        VALIDATION_SHUFFLED,
        "cancer",
        batch32(relu(48), Adam(), 15),
        table("breast_cancer", validation_shuffled, split_seed=2),
    ),
    fault(
        VALIDATION_SHUFFLED,
        "friedman",
        batch32(relu(40), Adam(lr=3e-3), 15),
        table("friedman", validation_shuffled, seed=4),
    ),
    fault(
        VALIDATION_RELABELLED,
        "iris",
        small(relu(24), Adam(lr=5e-3), 25),
        table("iris", validation_relabelled, split_seed=4),
    ),
    fault(
        VALIDATION_RELABELLED,
        "digits",
        batch32(relu(80), Adam("adamw"), 12),
        table("digits", validation_relabelled, split_seed=5, limit=600),
    ),
    fault(
        VALIDATION_RESCALED,
        "cancer",
        batch32(relu(48), Adam(), 12),
        table("breast_cancer", partial(validation_rescaled, 4), split_seed=2),
    ),
    fault(
        VALIDATION_RESCALED,
        "plane",
        batch32(relu(24), Adam(lr=3e-3), 20),
        table("plane", partial(validation_rescaled, 2), seed=6),
    ),
    fault(ALIKE, "cancer", batch32(relu(48), Adam(), 12), table("breast_cancer", constant, split_seed=2)),
    fault(ALIKE, "iris, tanh", small(tanh(24), Momentum(lr=0.02), 20), table("iris", constant, split_seed=4)),
    fault(DEAD, "digits, biases -10", batch32(relu(80), Adam("adamw"), 10), DIGITS, partial(set_biases, -10.0)),
    fault(DEAD, "cancer, biases -30", batch32(relu(48, 24), Optim(lr=0.05), 10), CANCER, partial(set_biases, -30.0)),
    fault(DEAD, "friedman, biases -15", batch32(relu(40), RMSprop(), 10), FRIEDMAN, partial(set_biases, -15.0)),
    fault(
        OVERFITS,
        "digits, 80 examples",
        run(relu(300, 300), RMSprop(), 60, batch_size=20),
        images("digits", limit=80, split_seed=5),
    ),
    fault(
        OVERFITS,
        "fashion, 150 examples",
        batch32(relu(300, 300), Adam(), 50),
        images("fashion_mnist", limit=150, split_seed=3, val_fraction=0.01),
    ),
    fault(
        OVERFITS,
        "cancer, 60 examples",
        run(relu(300, 300), Adam(lr=3e-3), 80, batch_size=20),
        table("breast_cancer", limit=60, split_seed=2),
    ),
    fault(
        OVERFITS,
        "friedman, 100 examples",
        run(relu(300, 300), Adam(lr=3e-3), 60, batch_size=20),
        table("friedman", limit=100, seed=4),
    ),
    fault(
        OVERFITS,
        "moons, 40 examples",
        run(relu(300, 300), Adam(lr=3e-3), 150, batch_size=20),
        table("moons", limit=40, seed=3),
    ),
    fault(
        INPUTS,
        "cancer, 1e3",
        batch32(relu(48), Adam(), 15),
        table("breast_cancer", partial(rescaled, 1e3), split_seed=2, standardize=False),
    ),
    fault(
        INPUTS,
        "iris, tanh, 1e3",
        small(tanh(24), Adam(lr=5e-3), 25),
        table("iris", partial(rescaled, 1e3), split_seed=4, standardize=False),
    ),
    fault(
        INPUTS,
        "friedman, 1e3",
        batch32(relu(40), Momentum(lr=0.01), 15),
        table("friedman", partial(rescaled, 1e3), seed=4, standardize=False),
    ),
    fault(
        TARGETS,
        "friedman, 500 + 50 z",
        batch32(relu(40), Adam(), 15),
        table("friedman", partial(retargeted, 500.0, 50.0), seed=4),
    ),
    fault(FROZEN, "cancer, all", batch32(relu(48), Momentum(lr=0.01), 10), CANCER, partial(freeze, slice(None))),
    fault(
        FROZEN, "iris, all but the last", small(relu(24, 24), Adam(lr=5e-3), 20), IRIS, partial(freeze, slice(0, -1))
    ),
    fault(FROZEN, "friedman, the first", batch32(relu(40, 40), Adam(), 12), FRIEDMAN, partial(freeze, slice(0, 1))),
    fault(
        FROZEN,
        "digits, cnn, the first",
        batch32(CNN(channels=[6], hidden=[24]), Adam(), 8),
        DIGITS,
        partial(freeze, slice(0, 1)),
    ),
    fault(WRONG_SIGN, "cancer", batch32(relu(48), Momentum(lr=0.01), 10), CANCER, flip_gradients),
    fault(WRONG_SIGN, "digits, tanh", batch32(tanh(80), Adam("adamw"), 10), DIGITS, flip_gradients),
    fault(WEIGHTS_0, "iris, tanh", small(tanh(24), Optim(), 15), IRIS, zero_weights),
    fault(NOT_A_NUMBER, "friedman", batch32(relu(40), Adam(), 3), FRIEDMAN, spoil),
]

HEALTHY: list[Case] = [
    healthy("cancer, sgd", batch32(relu(32), Optim(lr=0.03), 12), CANCER),
    healthy("cancer, momentum", batch32(relu(32, 16), Momentum(lr=0.005), 12), CANCER),
    healthy(
        "cancer, nesterov, l2",
        batch32(relu(32), Momentum("nesterov", lr=0.005), 12, regularization=Regularization(l2=1e-3)),
        CANCER,
    ),
    healthy("cancer, adam", batch32(relu(32), Adam(), 12), CANCER),
    healthy("cancer, adam 3e-4", batch32(relu(64), Adam(lr=3e-4), 20), CANCER),
    healthy("cancer, tanh, adamw", batch32(tanh(32), Adam("adamw"), 12), CANCER),
    healthy("cancer, sigmoid", batch32(MLP(hidden=[32], activation="sigmoid"), Adam(lr=3e-3), 15), CANCER),
    healthy(
        "cancer, smoothing", batch32(relu(32), Adam(), 15, regularization=Regularization(label_smoothing=0.1)), CANCER
    ),
    healthy("cancer, dropout", batch32(relu(64), Adam(), 15, regularization=dropout), CANCER),
    healthy("cancer, linear", batch32(relu(), Optim(lr=0.05), 15), CANCER),
    healthy("cancer, rmsprop", batch32(relu(32), RMSprop(lr=5e-4), 12), CANCER),
    healthy(
        "cancer, 6 layers, layer norm", batch32(DeepMLP(depth=6, width=32, norm="layer"), Adam(lr=5e-4), 8), CANCER
    ),
    healthy("iris, adam", small(relu(24), Adam(lr=3e-3), 30), IRIS),
    healthy("iris, sgd", small(relu(16), Optim(lr=0.05), 30), IRIS),
    healthy("iris, momentum, cosine", small(tanh(16), Momentum(lr=0.01), 30, schedule=CosineSchedule()), IRIS),
    healthy("iris, sigmoid", small(MLP(hidden=[16], activation="sigmoid"), Adam(lr=0.01), 30), IRIS),
    healthy("iris, full batch", run(relu(24), Adam(lr=0.01), 60, batch_size="full"), IRIS),
    healthy("iris, small weights", small(MLP(hidden=[24], init="small_normal"), Adam(lr=3e-3), 30), IRIS),
    healthy("moons, adam", run(relu(40), Adam(lr=3e-3), 20), MOONS),
    healthy("moons, sgd", batch32(relu(40, 40), Optim(lr=0.1), 20), MOONS),
    healthy(
        "moons, silu, step",
        run(MLP(hidden=[40], activation="silu"), Adam(lr=0.01), 20, schedule=StepSchedule(every_epochs=7)),
        MOONS,
    ),
    healthy("moons, adagrad", run(tanh(40), Adagrad(lr=0.05), 20), MOONS),
    healthy("moons, batch 8", run(relu(24), Optim(lr=0.02), 10, batch_size=8), MOONS),
    healthy("friedman, adam", batch32(relu(40), Adam(), 20), FRIEDMAN),
    healthy("friedman, he, adam", batch32(MLP(hidden=[40, 40], init="he_normal"), Adam(), 15), FRIEDMAN),
    healthy("friedman, sgd", batch32(relu(40), Optim(lr=0.02), 20), FRIEDMAN),
    healthy(
        "friedman, momentum, linear schedule",
        batch32(tanh(40), Momentum(lr=5e-3), 20, schedule=LinearSchedule()),
        FRIEDMAN,
    ),
    healthy(
        "friedman, orthogonal, gelu",
        batch32(MLP(hidden=[40], activation="gelu", init="orthogonal"), Adam(lr=2e-3), 15),
        FRIEDMAN,
    ),
    healthy("plane, adam", batch32(relu(24), Adam(lr=3e-3), 25), PLANE),
    healthy("plane, linear, sgd", batch32(relu(), Optim(lr=0.01), 20), PLANE),
    healthy("plane, one cycle", batch32(relu(24), Adam(lr=0.01), 20, schedule=OneCycleSchedule()), PLANE),
    healthy(
        "plane, clip", batch32(relu(24), Momentum(lr=0.01), 15, regularization=Regularization(clip_norm=1.0)), PLANE
    ),
    healthy("digits, adam", batch32(relu(80), Adam(), 15, seed=9), DIGITS),
    healthy("digits, sgd", batch32(relu(80), Optim(lr=0.05), 15, seed=9), DIGITS),
    healthy("digits, nesterov", batch32(relu(80, 40), Momentum("nesterov", lr=0.01), 15, seed=9), DIGITS),
    healthy(
        "digits, rmsprop, exponential",
        batch32(relu(80), RMSprop(), 15, schedule=ExponentialSchedule(gamma=0.9)),
        DIGITS,
    ),
    healthy(
        "digits, adamw, plateau", batch32(relu(80), Adam("adamw", lr=2e-3), 15, schedule=PlateauSchedule()), DIGITS
    ),
    healthy(
        "digits, momentum, polynomial", batch32(relu(80), Momentum(lr=0.02), 15, schedule=PolynomialSchedule()), DIGITS
    ),
    healthy("digits, warm-up", batch32(tanh(80), Adam(lr=2e-3), 15, schedule=CosineSchedule(warmup_steps=60)), DIGITS),
    healthy("digits, dropout 0.5", batch32(relu(160), Adam(), 15, regularization=Regularization(dropout=0.5)), DIGITS),
    healthy("digits, l1", batch32(relu(80), Adam(), 15, regularization=Regularization(l1=1e-4)), DIGITS),
    healthy("digits, batch norm", batch32(MLP(hidden=[48, 48], norm="batch"), Optim(lr=0.05), 12), DIGITS),
    healthy(
        "digits, 12 layers, residual",
        batch32(DeepMLP(depth=12, width=40, residual=True, norm="batch"), Adam(), 10),
        DIGITS,
    ),
    healthy("digits, 7 layers, he", batch32(deep(7, "relu", "he_uniform"), Adam(lr=5e-4), 12), DIGITS),
    healthy("digits, 8 layers, tanh, xavier", batch32(deep(8, "tanh", "xavier_uniform"), Adam(lr=5e-4), 12), DIGITS),
    healthy(
        "digits, leaky ReLU, group norm",
        batch32(MLP(hidden=[64], activation="leaky_relu", norm="group"), Adam(), 12),
        DIGITS,
    ),
    healthy("digits, full batch", run(relu(80), Momentum(lr=0.1), 50, batch_size="full"), DIGITS),
    healthy("digits, cnn", batch32(CNN(channels=[6, 12], hidden=[32]), Adam(), 8), DIGITS),
    healthy(
        "digits, cnn, dropout",
        batch32(CNN(channels=[12], hidden=[32]), Momentum(lr=0.01), 8, regularization=dropout),
        DIGITS,
    ),
    healthy("digits, resnet", batch32(CifarResNet(depth=8, width=3), Adam(lr=2e-3), 8), DIGITS),
    healthy(
        "digits, resnet, nesterov", batch32(CifarResNet(depth=8, width=3), Momentum("nesterov", lr=0.02), 8), DIGITS
    ),
    healthy("fashion, adam", batch32(relu(48), Adam(lr=5e-4), 10), FASHION),
    healthy("fashion, sgd", batch32(relu(48), Optim(lr=0.02), 12), FASHION),
    healthy("fashion, cnn", batch32(CNN(channels=[6], hidden=[32]), Adam(), 5), FASHION),
    healthy(
        "fashion, cnn, batch norm", batch32(CNN(channels=[6], hidden=[32], norm="batch"), Momentum(lr=0.01), 4), FASHION
    ),
]

# Like those of these runs that were missed in the first measurement: classes of different sizes, validation parts that
# are easier to guess than the training part, and saturated starts.
RARE = table("rare")
WINE = table("wine", split_seed=7)
FAULTS += [
    fault(SHUFFLED, "rare", batch32(relu(64), Adam(lr=2e-3), 25), table("rare", shuffled)),
    fault(SHUFFLED, "rare, sgd", batch32(tanh(32), Optim(lr=0.1), 25), table("rare", shuffled)),
    fault(SHIFTED, "rare, momentum", batch32(relu(32, 32), Momentum(lr=0.02), 25), table("rare", shifted)),
    fault(VALIDATION_SHUFFLED, "rare", batch32(relu(32), Adam(), 15), table("rare", validation_shuffled)),
    *(
        fault(
            SHUFFLED,
            f"diabetes, split {seed}",
            batch32(relu(64), Adam(lr=3e-3), 25),
            table("diabetes", shuffled, split_seed=seed),
        )
        for seed in range(4)
    ),
    *(
        fault(
            WEIGHTS_X10,
            f"wine, {activation}, {init}",
            batch32(MLP(hidden=[32], activation=activation, init=init), Momentum(lr=0.01), 15),
            WINE,
            partial(scale_weights, 10),
        )
        for activation in ("tanh", "sigmoid")
        for init in ("orthogonal", "xavier_normal", "he_normal")
    ),
]
HEALTHY += [
    healthy("rare, adam", batch32(relu(32), Adam(), 15), RARE),
    healthy("rare, sgd", batch32(relu(32), Optim(lr=0.03), 15), RARE),
    healthy("rare, sigmoid", batch32(MLP(hidden=[32], activation="sigmoid"), Adam(lr=3e-3), 15), RARE),
    healthy("rare, deep", batch32(deep(8, "relu"), Adam(), 15), RARE),
    healthy("wine, tanh, he", batch32(MLP(hidden=[32], activation="tanh", init="he_normal"), Adam(), 15), WINE),
    *(
        healthy(f"diabetes, split {seed}", batch32(relu(16), Adam(), 20), table("diabetes", split_seed=seed))
        for seed in range(4)
    ),
]
