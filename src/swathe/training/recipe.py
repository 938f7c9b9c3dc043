"""Recipes: the declarative description of one training run, as plain dataclasses.

They are the only schema there is: `swathe.config` registers these very classes with Hydra.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from swathe.errors import bad_value


@dataclass
class Model:
    """What every architecture shares; `groups` is of the norm `group` alone, and divides all that it normalises."""

    name: str = "mlp"
    activation: str = "relu"
    norm: str = "none"
    groups: int = 8
    init: str = "default"


@dataclass
class MLP(Model):
    """Fully connected network: `[batch, features] -> hidden ... -> [batch, outputs]`.

    With `residual`, a hidden layer as wide as the hidden one before it is added to what it is given: x + F(x), F being
    linear, norm, activation and dropout (He et al. 2016). Where widths differ there is no skip rather than a projection
    of it: so no parameter depends on `residual`. The first hidden layer and the output have none either.
    """

    hidden: list[int] = field(default_factory=lambda: [128])
    residual: bool = False


@dataclass
class DeepMLP(Model):
    """Fully connected network of `depth` hidden layers of one `width`: an `MLP` whose depth can be searched."""

    name: str = "deep_mlp"
    depth: int = 10
    width: int = 64
    residual: bool = False

    @property
    def hidden(self) -> list[int]:
        """The sizes of its hidden layers."""
        return [self.width] * self.depth


@dataclass
class CNN(Model):
    """Small convolutional network: 3x3 convolution, norm, activation and 2x2 pooling for each entry of `channels`."""

    name: str = "cnn"
    channels: list[int] = field(default_factory=lambda: [16, 32])
    hidden: list[int] = field(default_factory=lambda: [64])


@dataclass
class ResNet(Model):
    """Residual network in the form for ImageNet, `resnet18` or `resnet50` by its name (He et al. 2016, table 1).

    `width` is the channels of the stem, which every stage after the first doubles.
    """

    name: str = "resnet18"
    norm: str = "batch"
    init: str = "he_normal"
    width: int = 64


@dataclass
class CifarResNet(ResNet):
    """Residual network in the form for small images: 6n + 2 layers, three stages (He et al. 2016, section 4.2)."""

    name: str = "resnet_cifar"
    width: int = 16
    depth: int = 20


@dataclass
class LSTM(Model):
    """Long short-term memory (Hochreiter & Schmidhuber 1997): `layers` of one `width`, one above the other.

    Its last state is what the output is taken from; for a language model, the state at each step. The gates are
    sigmoids and the rest tanh, as published, and there is no norm.
    """

    name: str = "lstm"
    activation: str = "tanh"
    layers: int = 1
    width: int = 64


@dataclass
class Transformer(Model):
    """Transformer that classifies (Vaswani et al. 2017, the encoder), by the mean of its last layer over the steps.

    `depth` blocks of attention with `heads` and of two linear layers, `expansion` times `width` wide. `positions` are
    added to the inputs: learned, or sinusoidal as in section 3.5. With `norm_first` the norm comes before attention and
    linear layers (Xiong et al. 2020, "On layer normalization in the transformer architecture"), else after the
    addition, as published.
    """

    name: str = "transformer"
    norm: str = "layer"
    init: str = "xavier_uniform"
    depth: int = 2
    width: int = 32
    heads: int = 4
    expansion: int = 4
    positions: str = "learned"
    norm_first: bool = True


@dataclass
class GPT(Transformer):
    """Transformer that says at each step what the next token is, and sees no later ones (Radford et al. 2019)."""

    name: str = "gpt"
    activation: str = "gelu"
    init: str = "gpt2"


@dataclass
class GAN(Model):
    """Generative adversarial network (Goodfellow et al. 2014): two fully connected networks, two optimisers.

    The generator makes an example of `latent` normal numbers through its `hidden` layers; the discriminator, through
    its own, judges whether an example is real. `optim` is the generator's optimiser and, unless they are given, the
    discriminator's: `discriminator_optim` names another, with its defaults, `discriminator_lr` another rate (Heusel et
    al. 2017). `norm` is the generator's alone, `regularization.dropout` the discriminator's.
    """

    name: str = "gan"
    activation: str = "leaky_relu"
    latent: int = 16
    hidden: list[int] = field(default_factory=lambda: [128])
    discriminator_hidden: list[int] = field(default_factory=lambda: [128])
    discriminator_optim: str | None = None
    discriminator_lr: float | None = None


@dataclass
class Own(Model):
    """A network of the user's own: the `nn.Module` at the dotted path `target`, made with the keyword `arguments`.

    In a config it is `{_target_: mynet.Net, hidden: 64}`. What the other models share is not for it.
    """

    name: str = "own"
    target: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class Data:
    """What every dataset shares; fractions are of the training part, `limit` keeps the first n after shuffling.

    With `classes`, only the examples of these classes are taken, which are then numbered from 0 in this order.
    """

    name: str = "digits"
    val_fraction: float = 0.2
    test_fraction: float = 0.0
    split_seed: int = 0
    limit: int | None = None
    standardize: bool = True
    folder: str | None = None
    classes: list[int] | None = None


@dataclass
class CSV(Data):
    """A table in a CSV file with a header line, or in a Parquet file: `target` is the column to predict."""

    name: str = "csv"
    path: str = ""
    target: str = ""
    task: str = "classification"


@dataclass
class Text(Data):
    """Texts in files, as sequences of `length` tokens: characters, or words.

    To classify: `path` is a folder with one folder of files for each class, or a CSV or TSV file with a column `text`
    and a column `target`. As a language model: a file or a folder of files, in windows of `length` characters, each
    with the next one as its target. `vocabulary`: the most tokens that are told apart, padding and "unknown" included.
    """

    name: str = "text"
    path: str = ""
    task: str = "classification"
    tokens: str = "characters"
    length: int = 64
    vocabulary: int = 1000
    text: str = "text"
    target: str = "label"


@dataclass
class StdlibText(Text):
    """The modules of the running Python's own standard library, for a language model: another Python has others."""

    name: str = "stdlib_text"
    task: str = "language_model"


@dataclass
class Series(Data):
    """A CSV or Parquet file with a row for each step and a column for each variable, in windows of `length` steps.

    `regression` forecasts the next value of `target` from all variables; `classification` finds the `target`, a label,
    of each series, whose rows `id` names. With `id`, forecasts look at one series only, too.
    """

    name: str = "series"
    path: str = ""
    target: str = ""
    task: str = "regression"
    length: int = 16
    id: str | None = None


@dataclass
class Optim:
    """Stochastic gradient descent, and what every optimiser shares."""

    name: str = "sgd"
    lr: float = 0.1


@dataclass
class Momentum(Optim):
    """Heavy-ball momentum (Polyak 1964), or Nesterov's form when named so (Sutskever et al. 2013)."""

    name: str = "momentum"
    momentum: float = 0.9


@dataclass
class RMSprop(Optim):
    """RMSprop (Tieleman & Hinton 2012)."""

    name: str = "rmsprop"
    lr: float = 1e-3
    alpha: float = 0.99
    eps: float = 1e-8


@dataclass
class Adagrad(Optim):
    """Adagrad (Duchi et al. 2011)."""

    name: str = "adagrad"
    lr: float = 0.01
    eps: float = 1e-10


@dataclass
class Adam(Optim):
    """Adam (Kingma & Ba 2015); named `adamw`, its decoupled decay defaults to 0.01 (Loshchilov & Hutter 2019)."""

    name: str = "adam"
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


@dataclass
class Schedule:
    """Constant rate, and what every schedule shares: a linear warm-up from 1e-7 over `warmup_steps` steps."""

    name: str = "constant"
    warmup_steps: int = 0


@dataclass
class StepSchedule(Schedule):
    """Multiply the rate by `gamma` every `every_epochs` epochs."""

    name: str = "step"
    every_epochs: int = 10
    gamma: float = 0.1


@dataclass
class ExponentialSchedule(Schedule):
    """Multiply the rate by `gamma` every epoch, as torch's `ExponentialLR`."""

    name: str = "exponential"
    gamma: float = 0.95


@dataclass
class LinearSchedule(Schedule):
    """A straight line from the rate to `final_fraction` of it, as torch's `LinearLR`."""

    name: str = "linear"
    final_fraction: float = 0.0


@dataclass
class PolynomialSchedule(Schedule):
    """Fall to `final_fraction` of the rate as a power of the share of steps that is left, as torch's `PolynomialLR`.

    The poly policy of Chen et al. 2018 (DeepLab), whose power is 0.9; with 1 it is `linear`.
    """

    name: str = "polynomial"
    power: float = 2.0
    final_fraction: float = 0.0


@dataclass
class CosineSchedule(Schedule):
    """Half a cosine from the rate to `final_fraction` of it (Loshchilov & Hutter 2017, without restarts)."""

    name: str = "cosine"
    final_fraction: float = 0.0


@dataclass
class OneCycleSchedule(Schedule):
    """One cycle of the rate (Smith & Topin 2018), as torch's `OneCycleLR` with two phases.

    It rises from `lr / div_factor` to `lr` over the share `pct_start` of the steps and falls to
    `lr / div_factor / final_div_factor` at the last one, each along half a cosine or a line (`anneal`). Only the rate
    is cycled, no momentum. A warm-up comes before the cycle and leads to where it begins.
    """

    name: str = "one_cycle"
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    anneal: str = "cosine"


@dataclass
class PlateauSchedule(Schedule):
    """Multiply the rate by `factor` when validation loss has not improved for `patience` epochs."""

    name: str = "plateau"
    factor: float = 0.1
    patience: int = 3
    threshold: float = 1e-4


@dataclass
class Regularization:
    """Penalties and stopping.

    `l1`, `l2`: coefficients whose gradient is added to the loss's (l2 as torch's `weight_decay` of SGD and Adam).
    `weight_decay`: decoupled (AdamW's); None means 0.01 for adamw and 0 for the others, as in torch.
    `clip_norm`: bound of the global gradient norm; `clip_value`: of each element of the gradient, instead (Pascanu et
    al. 2013; Goodfellow et al. 2016, section 10.11.1). `patience`: epochs without an improvement of validation loss by
    more than `min_delta` after which the run ends early. `label_smoothing`: the share of the target that is spread
    over all classes (Szegedy et al. 2016, section 7), in the training loss alone.
    """

    l1: float = 0.0
    l2: float = 0.0
    weight_decay: float | None = None
    dropout: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None
    patience: int | None = None
    min_delta: float = 0.0
    label_smoothing: float = 0.0

    @property
    def alters_gradient(self) -> bool:
        """Whether there is an L1 penalty or clipping, which lanes have a pass over the gradient for."""
        return self.l1 > 0 or self.clip_norm is not None or self.clip_value is not None


# What is done to training examples, in this order.
IMAGE_AUGMENTATIONS = ("flip", "crop", "rotation", "brightness", "contrast", "saturation", "cutout")
SERIES_AUGMENTATIONS = ("window_slicing", "scaling", "jitter")
TEXT_AUGMENTATIONS = ("back_translation", "synonym_replacement", "token_dropout")
AUGMENTATIONS = (*IMAGE_AUGMENTATIONS, *SERIES_AUGMENTATIONS, *TEXT_AUGMENTATIONS, "mixup")


@dataclass
class Augmentation:
    """How training examples are changed at random, each anew in each step; 0 is not at all. See `training.augment`.

    Images: `flip`, the probability of left and right changing places; `crop`, the most pixels that a picture is moved
    by each way, as padding and cropping do (He et al. 2016, section 4.2); `rotation`, the most degrees to either side;
    `brightness`, `contrast` and `saturation`, by how much their factors are above or below 1 at most; `cutout`, the
    side of a square of the mean's colour in pixels (DeVries & Taylor 2017). Series: `window_slicing`, the share of
    steps that is cut off before the rest is stretched (Le Guennec et al. 2016); `scaling` and `jitter`, deviations of a
    variable's factor and of a value's noise (Um et al. 2017). Texts: `back_translation`, the probability of a
    paraphrase, which `translator`, a `module:function`, makes of each training text once (Sennrich et al. 2016);
    `synonym_replacement`, that of another word, of those in `synonyms`, a JSON file (Zhang et al. 2015);
    `token_dropout`, that of "unknown" for a token (Xie et al. 2017). Any numbers: `mixup`, alpha of the Beta
    distribution by which examples and targets are mixed with others (Zhang et al. 2018).
    """

    flip: float = 0.0
    crop: int = 0
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    cutout: int = 0
    window_slicing: float = 0.0
    scaling: float = 0.0
    jitter: float = 0.0
    back_translation: float = 0.0
    translator: str | None = None
    synonym_replacement: float = 0.0
    synonyms: str | None = None
    token_dropout: float = 0.0
    mixup: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Which are switched on, in the order in which they are applied."""
        return tuple(name for name in AUGMENTATIONS if getattr(self, name) > 0)


@dataclass
class Transfer:
    """No transfer: the network begins with weights of its own."""

    name: str = "none"


@dataclass
class FineTune(Transfer):
    """A network that begins with the weights of another one, all but the output layer with `head` new.

    `weights`: a file with a state dictionary, or a name that `swathe.weights` finds the file of before a sweep begins;
    `sha256` is the file's, which is then kept beside the data by that name. The network is a row of stages, see
    `training.transfer`: the first `freeze` of them are not trained, of which one more from the last backwards is every
    `unfreeze_every` epochs (Howard & Ruder 2018, section 3.3). A stage with loaded weights has the learning rate times
    `rate`, divided by `stage_decay` once for each stage between it and the end (the same, section 3.2: 2.6).
    """

    name: str = "fine_tune"
    weights: str = ""
    sha256: str | None = None
    freeze: int = 0
    unfreeze_every: int | None = None
    rate: float = 1.0
    stage_decay: float = 1.0
    head: str = "new"


MODELS: dict[str, type[Model]] = {
    "mlp": MLP,
    "cnn": CNN,
    "deep_mlp": DeepMLP,
    "resnet18": ResNet,
    "resnet50": ResNet,
    "resnet_cifar": CifarResNet,
    "lstm": LSTM,
    "transformer": Transformer,
    "gpt": GPT,
    "gan": GAN,
}
# Tables inside scikit-learn, and those of them whose target is a quantity.
SKLEARN_TABLES = ("breast_cancer", "wine", "iris", "diabetes")
_REGRESSIONS = ("diabetes",)
DATASETS: dict[str, type[Data]] = {
    "digits": Data,
    "fashion_mnist": Data,
    "mnist": Data,
    "cifar10": Data,
    "cifar100": Data,
    **dict.fromkeys(SKLEARN_TABLES, Data),
    "csv": CSV,
    "text": Text,
    "stdlib_text": StdlibText,
    "series": Series,
}
OPTIMIZERS: dict[str, type[Optim]] = {
    "sgd": Optim,
    "momentum": Momentum,
    "nesterov": Momentum,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": Adam,
}
SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Schedule,
    "step": StepSchedule,
    "exponential": ExponentialSchedule,
    "linear": LinearSchedule,
    "polynomial": PolynomialSchedule,
    "cosine": CosineSchedule,
    "one_cycle": OneCycleSchedule,
    "plateau": PlateauSchedule,
}
TRANSFERS: dict[str, type[Transfer]] = {"none": Transfer, "fine_tune": FineTune}


@dataclass
class Recipe:
    """One training run: everything that its numbers depend on, but the machine."""

    model: Model = field(default_factory=MLP)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Adam)
    schedule: Schedule = field(default_factory=Schedule)
    regularization: Regularization = field(default_factory=Regularization)
    batch_size: int | str = 64
    epochs: int = 20
    seed: int = 0
    precision: str = "fp32"
    augmentation: Augmentation = field(default_factory=Augmentation)
    transfer: Transfer = field(default_factory=Transfer)

    def batch_of(self, examples: int) -> int:
        """Return how many of so many training examples a step takes."""
        return examples if self.batch_size == "full" else min(int(self.batch_size), examples)


ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "gelu", "silu")
NORMS = ("none", "batch", "layer", "group")
# tf32 rounds the factors of a GPU's products, bf16 and fp16 are torch's autocast; see `training.precision`.
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
INITS = ("default", "xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "orthogonal", "small_normal", "gpt2")
# Layers of the residual networks for small images (He et al. 2016, table 6, and two smaller ones).
CIFAR_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
MOST_DEPTH = 50
# Networks that only an image can be given to.
IMAGE_MODELS = (CNN, ResNet)
# Networks that take one step after the other: of a text, of a series, or the rows of an image.
SEQUENCE_MODELS = (LSTM, Transformer)
POSITIONS = ("learned", "sinusoidal")
TASKS = ("classification", "regression")
HEADS = ("new", "keep")
TEXT_TASKS = ("classification", "language_model")
TOKENS = ("characters", "words")
ANNEALS = ("cosine", "linear")

# [channels, height, width] of the datasets that are images; a network with convolutions needs one of them.
IMAGE_SHAPES: dict[str, tuple[int, int, int]] = {
    "digits": (1, 8, 8),
    "fashion_mnist": (1, 28, 28),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
}


@dataclass(frozen=True, slots=True)
class SequenceShape:
    """What an example of a text or of a series is: `length` steps of `variables` values each.

    `vocabulary` is the number of tokens, one a step, and 0 where steps are values. `every_step`: there is a target at
    each step, and not one for the whole.
    """

    length: int
    variables: int = 1
    vocabulary: int = 0
    every_step: bool = False

    @property
    def targets(self) -> int:
        """How many targets an example has."""
        return self.length if self.every_step else 1


# Datasets that come with test examples of their own, which no fraction is taken for.
WITH_TEST_PART = ("fashion_mnist", "mnist", "cifar10", "cifar100")

# Reported metrics that differ from run to run on the same machine.
TIMING_METRICS = frozenset({"examples_per_second", "seconds", "peak_memory"})

# The option of the config group `model`, and its key, that stand for a network of the user's own.
OWN, TARGET = "own", "_target_"

# The size of a network, its weights and biases, which is reported where somebody asks for it.
PARAMETERS = "parameters"

# Keys of a trial's config that describe no recipe.
_NOT_RECIPE = ("trainable", "params")

Group = TypeVar("Group")


def recipe_from_config(config: Mapping[str, Any]) -> Recipe:
    """Build a recipe from the plain nested dictionary that a trial's config is, and `check` it.

    A key that is left out has the default of its class. The keys `trainable` and `params` are passed over.
    Raises `BadInputError` for an unknown key, an unknown name or a value that is not allowed.
    """
    given = {key: value for key, value in config.items() if key not in _NOT_RECIPE}
    known = [one.name for one in fields(Recipe)]
    for key, value in given.items():
        if key not in known:
            raise bad_value(str(key), value, f"one of the keys {', '.join(known)}")
    groups: dict[str, Any] = {
        "model": _model(given.pop("model", {})),
        "data": _named("data", given.pop("data", {}), DATASETS, "digits"),
        "optim": _named("optim", given.pop("optim", {}), OPTIMIZERS, "adam"),
        "schedule": _named("schedule", given.pop("schedule", {}), SCHEDULES, "constant"),
        "regularization": _group("regularization", given.pop("regularization", {}), Regularization),
        "augmentation": _group("augmentation", given.pop("augmentation", {}), Augmentation),
        "transfer": _named("transfer", given.pop("transfer", {}), TRANSFERS, "none"),
    }
    # It is made of the classes of this module.
    from swathe.training.recipe_check import check

    recipe = Recipe(**groups, **given)
    check(recipe)
    return recipe


def is_regression(data: Data) -> bool:
    """Whether the target of a dataset is a quantity, and not a class."""
    return data.task == "regression" if isinstance(data, (CSV, Series)) else data.name in _REGRESSIONS


def data_options(data: Data) -> dict[str, Any]:
    """Return the options of a dataset, without `classes` where it is off: what was recorded before has no such key."""
    return {key: value for key, value in asdict(data).items() if key != "classes" or value is not None}


def is_language_model(data: Data) -> bool:
    """Whether the target of a dataset is the next token at each step."""
    return isinstance(data, Text) and data.task == "language_model"


def own_target(model: object) -> str | None:
    """Return what a config's `model` has as `_target_`, None where it is no network of the user's own."""
    if not isinstance(model, Mapping) or (TARGET not in model and model.get("name") != OWN):
        return None
    return str(model.get(TARGET) or "")


def model_name(model: Mapping[str, Any]) -> str:
    """Return what a config's `model` is called in a line of text: its name, or that of its class."""
    target = own_target(model)
    return str(model["name"]) if target is None else target.rpartition(".")[2]


def _model(given: object) -> Model:
    target = own_target(given)
    if target is None or not isinstance(given, Mapping):
        return _named("model", given, MODELS, "mlp")
    arguments = {str(key): value for key, value in given.items() if key not in ("name", TARGET)}
    return Own(target=target, arguments=arguments)


def _named(key: str, given: object, classes: Mapping[str, type[Group]], default: str) -> Group:
    name = given.get("name", default) if isinstance(given, Mapping) else default
    if not isinstance(name, str) or name not in classes:
        raise bad_value(f"{key}.name", name, ", ".join(classes))
    # Several names share a class, whose own default need not be the one asked for.
    return _group(key, {**given, "name": name} if isinstance(given, Mapping) else given, classes[name])


def _group(key: str, given: object, kind: type[Group]) -> Group:
    if not isinstance(given, Mapping):
        raise bad_value(key, given, "a group of keys and values")
    types = {one.name: str(one.type) for one in fields(kind)}  # type: ignore[arg-type]
    for name, value in given.items():
        if name not in types:
            raise bad_value(f"{key}.{name}", value, f"one of the keys {', '.join(f'{key}.{known}' for known in types)}")
    return kind(**{name: _plain(value, types[name]) for name, value in given.items()})


def _plain(value: Any, type_name: str) -> Any:
    """Give an integer the type of its field, and a tuple the list's; anything else is judged by `check`."""
    if type_name.startswith("float") and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    return list(value) if isinstance(value, tuple) else value
