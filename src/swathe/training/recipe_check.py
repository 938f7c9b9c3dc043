"""Which recipes are allowed: every value of its own, and those that are not allowed together; needs no PyTorch."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from typing import Any

from swathe.errors import bad_value
from swathe.training.recipe import (
    ACTIVATIONS,
    ANNEALS,
    CIFAR_DEPTHS,
    CNN,
    CSV,
    DATASETS,
    GAN,
    HEADS,
    IMAGE_AUGMENTATIONS,
    IMAGE_MODELS,
    IMAGE_SHAPES,
    INITS,
    LSTM,
    MLP,
    MODELS,
    MOST_DEPTH,
    NORMS,
    OPTIMIZERS,
    POSITIONS,
    PRECISIONS,
    SCHEDULES,
    SERIES_AUGMENTATIONS,
    TASKS,
    TEXT_AUGMENTATIONS,
    TEXT_TASKS,
    TOKENS,
    TRANSFERS,
    WITH_TEST_PART,
    Adagrad,
    Adam,
    Augmentation,
    CifarResNet,
    CosineSchedule,
    Data,
    DeepMLP,
    ExponentialSchedule,
    FineTune,
    LinearSchedule,
    Model,
    Momentum,
    OneCycleSchedule,
    Optim,
    Own,
    PlateauSchedule,
    PolynomialSchedule,
    Recipe,
    Regularization,
    ResNet,
    RMSprop,
    Schedule,
    Series,
    StepSchedule,
    Text,
    Transfer,
    Transformer,
    is_language_model,
    is_regression,
)

_SHA256 = re.compile("[0-9a-f]{64}")


def check(recipe: Recipe) -> None:
    """Refuse a recipe with a value that is not allowed: `BadInputError` with the dotted key, the value and why."""
    _check_model(recipe.model)
    _check_data(recipe.data)
    _check_optim(recipe.optim)
    _check_schedule(recipe.schedule)
    _check_regularization(recipe.regularization)
    _check_augmentation(recipe.augmentation)
    _check_transfer(recipe.transfer)
    if recipe.batch_size != "full":
        _whole("batch_size", recipe.batch_size, 1, "full")
    _one_of("precision", recipe.precision, PRECISIONS)
    _whole("epochs", recipe.epochs, 1)
    _real("seed", recipe.seed, "an integer from 0 to 2**63 - 1", lambda x: isinstance(x, int) and 0 <= x < 2**63)
    _check_together(recipe)


def _check_model(model: Model) -> None:
    if isinstance(model, Own):
        _check_own(model)
        return
    _one_of("model.name", model.name, tuple(MODELS))
    _one_of("model.activation", model.activation, ACTIVATIONS)
    _one_of("model.norm", model.norm, NORMS)
    _one_of("model.init", model.init, INITS)
    _whole("model.groups", model.groups, 1)
    match model:
        case CNN(channels=channels, hidden=hidden):
            _sizes("model.channels", channels, least=1)
            _sizes("model.hidden", hidden)
        case ResNet(width=width):
            _whole("model.width", width, 1)
        case DeepMLP(depth=depth, width=width):
            allowed = f"an integer from 1 to {MOST_DEPTH}"
            _real("model.depth", depth, allowed, lambda x: isinstance(x, int) and 1 <= x <= MOST_DEPTH)
            _whole("model.width", width, 1)
        case MLP(hidden=hidden):
            _sizes("model.hidden", hidden)
        case GAN():
            _check_gan(model)
        case LSTM():
            _check_lstm(model)
        case Transformer():
            _check_transformer(model)
    if isinstance(model, (MLP, DeepMLP)) and not isinstance(model.residual, bool):
        raise bad_value("model.residual", model.residual, "true, false")
    if isinstance(model, CifarResNet) and (type(model.depth) is not int or model.depth not in CIFAR_DEPTHS):
        raise bad_value("model.depth", model.depth, ", ".join(map(str, CIFAR_DEPTHS)))
    if model.norm == "group":
        _check_groups(model)


def _check_own(model: Own) -> None:
    """Refuse what cannot be the path of a class, or a keyword argument; whether they are is seen where it is made."""
    if not all(part.isidentifier() for part in model.target.split(".")) or "." not in model.target:
        raise bad_value("model._target_", model.target, "the dotted path of an nn.Module, such as mynet.Net")
    for key, value in model.arguments.items():
        if not key.isidentifier():
            raise bad_value(f"model.{key}", value, f"the name of an argument of {model.target}")
        if not _is_plain(value):
            raise bad_value(f"model.{key}", value, "a finite number, a text, true, false, null, or a list of those")


def _is_plain(value: object) -> bool:
    """Whether JSON has it, as a trial's record must."""
    match value:
        case None | bool() | int() | str():
            return True
        case float():
            return math.isfinite(value)
        case list() | tuple():
            return all(map(_is_plain, value))
        case dict():
            return all(isinstance(key, str) for key in value) and all(map(_is_plain, value.values()))
    return False


def _check_with_own(recipe: Recipe) -> None:
    """Refuse what is done to the networks that Swathe makes, and not to one that the user has made."""
    dropout = recipe.regularization.dropout
    if dropout:
        allowed = "0 with a model of your own: its own nn.Dropout, or an argument of it such as model.dropout"
        raise bad_value("regularization.dropout", dropout, allowed)
    if recipe.transfer.name != "none":
        raise bad_value("transfer.name", recipe.transfer.name, "none with a model of your own")


def _check_gan(model: GAN) -> None:
    _whole("model.latent", model.latent, 1)
    _sizes("model.hidden", model.hidden)
    _sizes("model.discriminator_hidden", model.discriminator_hidden)
    if model.discriminator_optim is not None and model.discriminator_optim not in OPTIMIZERS:
        raise bad_value("model.discriminator_optim", model.discriminator_optim, f"null, {', '.join(OPTIMIZERS)}")
    if model.discriminator_lr is not None:
        _real("model.discriminator_lr", model.discriminator_lr, "null, or a finite number above 0", lambda x: x > 0)


def _check_lstm(model: LSTM) -> None:
    if model.activation != "tanh":
        raise bad_value("model.activation", model.activation, "tanh with model.name lstm, whose gates are fixed")
    if model.norm != "none":
        raise bad_value("model.norm", model.norm, "none with model.name lstm")
    _whole("model.layers", model.layers, 1)
    _whole("model.width", model.width, 1)


def _check_transformer(model: Transformer) -> None:
    if model.norm not in ("none", "layer"):
        raise bad_value("model.norm", model.norm, f"none, layer with model.name {model.name}")
    allowed = f"an integer from 1 to {MOST_DEPTH}"
    _real("model.depth", model.depth, allowed, lambda x: isinstance(x, int) and 1 <= x <= MOST_DEPTH)
    for key in ("width", "heads", "expansion"):
        _whole(f"model.{key}", getattr(model, key), 1)
    if model.width % model.heads:
        fitting = ", ".join(str(heads) for heads in range(1, model.width + 1) if model.width % heads == 0)
        raise bad_value("model.heads", model.heads, f"{fitting} with model.width {model.width}")
    _one_of("model.positions", model.positions, POSITIONS)
    if not isinstance(model.norm_first, bool):
        raise bad_value("model.norm_first", model.norm_first, "true, false")


def _check_groups(model: Model) -> None:
    """Refuse groups that do not divide what they are to normalise, or of one unit, which would be normalised to 0."""
    # Of a feature map, a group of one channel still has all its pixels.
    maps: dict[str, list[int]] = {}
    units: dict[str, list[int]] = {}
    match model:
        case CNN(channels=channels, hidden=hidden):
            maps[f"model.channels {channels}"], units[f"model.hidden {hidden}"] = channels, hidden
        case ResNet(width=width):
            maps[f"model.width {width}"] = [width]
        case DeepMLP(width=width):
            units[f"model.width {width}"] = [width]
        case MLP(hidden=hidden) | GAN(hidden=hidden):
            units[f"model.hidden {hidden}"] = hidden
    whole = math.gcd(*(size for sizes in (*maps.values(), *units.values()) for size in sizes))
    most = min((size // 2 for sizes in units.values() for size in sizes), default=whole)
    if whole and (whole % model.groups or model.groups > most):
        pairs = ((low, whole // low) for low in range(1, math.isqrt(whole) + 1) if whole % low == 0)
        fitting = sorted({groups for pair in pairs for groups in pair if groups <= most})
        least = ", with at least 2 units to a group" if units else ""
        allowed = f"{', '.join(map(str, fitting)) or 'none'} with {' and '.join(maps | units)}{least}"
        raise bad_value("model.groups", model.groups, allowed)


def _check_data(data: Data) -> None:
    _one_of("data.name", data.name, tuple(DATASETS))
    _real("data.val_fraction", data.val_fraction, "a number above 0 and below 1", lambda x: 0 < x < 1)
    rest = 1 - data.val_fraction
    allowed = f"a number from 0 to below {rest:g} (1 - data.val_fraction)"
    _real("data.test_fraction", data.test_fraction, allowed, lambda x: 0 <= x < rest)
    if data.name in WITH_TEST_PART and data.test_fraction != 0:
        raise bad_value("data.test_fraction", data.test_fraction, f"0, as {data.name} has test examples of its own")
    _whole("data.split_seed", data.split_seed, 0)
    if data.limit is not None:
        _whole("data.limit", data.limit, 1, None)
    if not isinstance(data.standardize, bool):
        raise bad_value("data.standardize", data.standardize, "true, false")
    if data.folder is not None:
        _text("data.folder", data.folder, "the path of a folder, or null")
    if data.classes is not None:
        _check_classes(data)
    if isinstance(data, CSV):
        _text("data.path", data.path, "the path of a CSV or Parquet file")
        _text("data.target", data.target, "the name of the column to predict")
        _one_of("data.task", data.task, TASKS)
    if isinstance(data, Text):
        _check_text(data)
    if isinstance(data, Series):
        _check_series(data)


def _check_classes(data: Data) -> None:
    classes, allowed = data.classes, "a list of two or more different classes, each an integer from 0, or null"
    if not isinstance(classes, list) or any(type(one) is not int or one < 0 for one in classes):
        raise bad_value("data.classes", classes, allowed)
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise bad_value("data.classes", classes, allowed)
    if is_regression(data) or is_language_model(data):
        raise bad_value("data.classes", classes, "null with a target that is no class of an example")


def _check_text(data: Text) -> None:
    _no_classes(data)
    if data.name == "text":
        _text("data.path", data.path, "the path of a file or a folder")
    _one_of("data.task", data.task, TEXT_TASKS if data.name == "text" else ("language_model",))
    _one_of("data.tokens", data.tokens, TOKENS)
    if is_language_model(data) and data.tokens != "characters":
        raise bad_value("data.tokens", data.tokens, "characters with data.task language_model")
    _whole("data.length", data.length, 1)
    _whole("data.vocabulary", data.vocabulary, 3)
    _text("data.text", data.text, "the name of the column with the texts")
    _text("data.target", data.target, "the name of the column with the labels")


def _no_classes(data: Data) -> None:
    if data.classes is not None:
        raise bad_value("data.classes", data.classes, f"null with data.name {data.name}")


def _check_series(data: Series) -> None:
    _no_classes(data)
    _text("data.path", data.path, "the path of a CSV or Parquet file")
    _text("data.target", data.target, "the name of the column to predict")
    _one_of("data.task", data.task, TASKS)
    _whole("data.length", data.length, 1)
    if data.id is not None:
        _text("data.id", data.id, "the name of the column that tells one series from another, or null")
    if data.id is None and data.task == "classification":
        raise bad_value("data.id", data.id, "the name of a column with data.task classification")
    if data.id == data.target:
        raise bad_value("data.id", data.id, "another column than data.target")


def _check_optim(optim: Optim) -> None:
    _one_of("optim.name", optim.name, tuple(OPTIMIZERS))
    _real("optim.lr", optim.lr, "a finite number above 0", lambda x: x > 0)
    fraction = "a number from 0 to below 1"
    match optim:
        case Momentum(name="nesterov"):
            _real("optim.momentum", optim.momentum, "a number above 0 and below 1", lambda x: 0 < x < 1)
        case Momentum():
            _real("optim.momentum", optim.momentum, fraction, lambda x: 0 <= x < 1)
        case RMSprop():
            _real("optim.alpha", optim.alpha, fraction, lambda x: 0 <= x < 1)
            _real("optim.eps", optim.eps, "a finite number above 0", lambda x: x > 0)
        case Adagrad():
            _real("optim.eps", optim.eps, "a finite number above 0", lambda x: x > 0)
        case Adam():
            _real("optim.beta1", optim.beta1, fraction, lambda x: 0 <= x < 1)
            _real("optim.beta2", optim.beta2, fraction, lambda x: 0 <= x < 1)
            _real("optim.eps", optim.eps, "a finite number above 0", lambda x: x > 0)


def _check_schedule(schedule: Schedule) -> None:
    _one_of("schedule.name", schedule.name, tuple(SCHEDULES))
    _whole("schedule.warmup_steps", schedule.warmup_steps, 0)
    match schedule:
        case StepSchedule():
            _whole("schedule.every_epochs", schedule.every_epochs, 1)
            _real("schedule.gamma", schedule.gamma, "a number above 0, at most 1", lambda x: 0 < x <= 1)
        case ExponentialSchedule():
            _real("schedule.gamma", schedule.gamma, "a number above 0, at most 1", lambda x: 0 < x <= 1)
        case PolynomialSchedule():
            _real("schedule.power", schedule.power, "a finite number above 0", lambda x: x > 0)
            _real("schedule.final_fraction", schedule.final_fraction, "a number from 0 to 1", lambda x: 0 <= x <= 1)
        case LinearSchedule() | CosineSchedule():
            _real("schedule.final_fraction", schedule.final_fraction, "a number from 0 to 1", lambda x: 0 <= x <= 1)
        case OneCycleSchedule():
            _real("schedule.pct_start", schedule.pct_start, "a number above 0 and below 1", lambda x: 0 < x < 1)
            least = "a finite number, at least 1"
            _real("schedule.div_factor", schedule.div_factor, least, lambda x: x >= 1)
            _real("schedule.final_div_factor", schedule.final_div_factor, least, lambda x: x >= 1)
            _one_of("schedule.anneal", schedule.anneal, ANNEALS)
        case PlateauSchedule():
            _real("schedule.factor", schedule.factor, "a number above 0 and below 1", lambda x: 0 < x < 1)
            _whole("schedule.patience", schedule.patience, 0)
            _real("schedule.threshold", schedule.threshold, "a number from 0 to below 1", lambda x: 0 <= x < 1)


def _check_regularization(regularization: Regularization) -> None:
    nonnegative = "a finite number, at least 0"
    _real("regularization.l1", regularization.l1, nonnegative, lambda x: x >= 0)
    _real("regularization.l2", regularization.l2, nonnegative, lambda x: x >= 0)
    _real("regularization.min_delta", regularization.min_delta, nonnegative, lambda x: x >= 0)
    _real("regularization.dropout", regularization.dropout, "a number from 0 to below 1", lambda x: 0 <= x < 1)
    smoothing = regularization.label_smoothing
    _real("regularization.label_smoothing", smoothing, "a number from 0 to below 1", lambda x: 0 <= x < 1)
    if regularization.weight_decay is not None:
        _real("regularization.weight_decay", regularization.weight_decay, f"{nonnegative}, or null", lambda x: x >= 0)
    for key in ("clip_norm", "clip_value"):
        if (bound := getattr(regularization, key)) is not None:
            _real(f"regularization.{key}", bound, "a finite number above 0, or null", lambda x: x > 0)
    if regularization.clip_norm is not None and regularization.clip_value is not None:
        raise bad_value("regularization.clip_value", regularization.clip_value, "null beside regularization.clip_norm")
    if regularization.patience is not None:
        _whole("regularization.patience", regularization.patience, 1, None)


def _check_augmentation(augmentation: Augmentation) -> None:
    for key in ("flip", "brightness", "contrast", "saturation", *TEXT_AUGMENTATIONS):
        _real(f"augmentation.{key}", getattr(augmentation, key), "a number from 0 to 1", lambda x: 0 <= x <= 1)
    for key in ("crop", "cutout"):
        _whole(f"augmentation.{key}", getattr(augmentation, key), 0)
    _real("augmentation.rotation", augmentation.rotation, "degrees from 0 to 180", lambda x: 0 <= x <= 180)
    slicing = augmentation.window_slicing
    _real("augmentation.window_slicing", slicing, "a number from 0 to below 1", lambda x: 0 <= x < 1)
    for key in ("scaling", "jitter", "mixup"):
        _real(f"augmentation.{key}", getattr(augmentation, key), "a finite number, at least 0", lambda x: x >= 0)
    for name, key, what in (
        ("back_translation", "translator", "module:function"),
        ("synonym_replacement", "synonyms", "the path of a JSON file"),
    ):
        value = getattr(augmentation, key)
        if value is not None:
            _text(f"augmentation.{key}", value, f"{what}, or null")
        elif getattr(augmentation, name) > 0:
            raise bad_value(f"augmentation.{key}", value, f"{what} beside augmentation.{name}")


def _check_transfer(transfer: Transfer) -> None:
    _one_of("transfer.name", transfer.name, tuple(TRANSFERS))
    if not isinstance(transfer, FineTune):
        return
    # Nothing is said of the weights themselves: who searches over them has none until a trial is drawn.
    if not isinstance(transfer.weights, str):
        raise bad_value("transfer.weights", transfer.weights, "the name or the file of a network's weights")
    digits = transfer.sha256
    if digits is not None and not (isinstance(digits, str) and _SHA256.fullmatch(digits)):
        raise bad_value("transfer.sha256", digits, "64 hexadecimal digits, or null")
    _whole("transfer.freeze", transfer.freeze, 0)
    if transfer.unfreeze_every is not None:
        _whole("transfer.unfreeze_every", transfer.unfreeze_every, 1, None)
    _real("transfer.rate", transfer.rate, "a finite number above 0", lambda x: x > 0)
    _real("transfer.stage_decay", transfer.stage_decay, "a finite number, at least 1", lambda x: x >= 1)
    _one_of("transfer.head", transfer.head, HEADS)


def _check_augmented(augmentation: Augmentation, data: Data) -> None:
    """Refuse augmentations that a dataset's examples cannot have, or that leave nothing of them."""
    shape = IMAGE_SHAPES.get(data.name)
    for name in augmentation.names:
        key, value = f"augmentation.{name}", getattr(augmentation, name)
        if name in IMAGE_AUGMENTATIONS and shape is None:
            raise bad_value(key, value, f"0 with data.name {data.name}, which is no image")
        if name == "saturation" and shape is not None and shape[0] == 1:
            raise bad_value(key, value, f"0 with data.name {data.name}, whose images are grey")
        if name in SERIES_AUGMENTATIONS and not isinstance(data, Series):
            raise bad_value(key, value, f"0 with data.name {data.name}, which is no series")
        if name in ("window_slicing", "scaling") and is_regression(data):
            raise bad_value(key, value, "0 with data.task regression, as it would not be done to the value to forecast")
        if name in TEXT_AUGMENTATIONS and not isinstance(data, Text):
            raise bad_value(key, value, f"0 with data.name {data.name}, which is no text")
        if name in ("back_translation", "synonym_replacement") and is_language_model(data):
            raise bad_value(key, value, "0 with data.task language_model, whose targets are in the text itself")
        if name == "synonym_replacement" and isinstance(data, Text) and data.tokens != "words":
            raise bad_value(key, value, f"0 with data.tokens {data.tokens}")
        if name == "mixup" and isinstance(data, Text):
            raise bad_value(key, value, f"0 with data.name {data.name}, whose tokens are no quantities")
        if name in ("crop", "cutout") and shape is not None and value >= min(shape[1:]):
            allowed = f"an integer below {min(shape[1:])}, the side of an image of data.name {data.name}"
            raise bad_value(key, value, allowed)


def _check_together(recipe: Recipe) -> None:
    """Refuse what is allowed alone but not together."""
    model, data = recipe.model, recipe.data
    if model.norm == "batch" and 1 in (recipe.batch_size, data.limit):
        key = "batch_size" if recipe.batch_size == 1 else "data.limit"
        raise bad_value(key, 1, "at least 2 with model.norm batch, whose statistics need more than one example")
    _check_augmented(recipe.augmentation, data)
    if isinstance(model, GAN):
        _check_with_gan(recipe)
    if isinstance(model, Own):
        _check_with_own(recipe)
    smoothing = recipe.regularization.label_smoothing
    if smoothing and is_regression(data) and not isinstance(model, GAN):
        what = "data.task regression" if isinstance(data, (CSV, Series)) else f"data.name {data.name}"
        raise bad_value("regularization.label_smoothing", smoothing, f"0 with {what}, which has no labels")
    if isinstance(model, IMAGE_MODELS) and data.name not in IMAGE_SHAPES:
        allowed = f"{', '.join(models_for(data))} with data.name {data.name}, which is no image"
        raise bad_value("model.name", model.name, allowed)
    if not isinstance(model, Own) and model.name not in models_for(data):
        task = f" and data.task {data.task}" if isinstance(data, Text) else ""
        raise bad_value("model.name", model.name, f"{', '.join(models_for(data))} with data.name {data.name}{task}")
    transfer = recipe.transfer
    if isinstance(transfer, FineTune) and transfer.freeze >= (count := stage_count(model, data)):
        allowed = f"an integer from 0 to {count - 1}, as this network has {count} stages and its output is trained"
        raise bad_value("transfer.freeze", transfer.freeze, allowed)
    if isinstance(model, CNN):
        # Each entry halves height and width, and no side may vanish.
        most = int(math.log2(min(IMAGE_SHAPES[data.name][1:])))
        if len(model.channels) > most:
            raise bad_value("model.channels", model.channels, f"at most {most} entries with data.name {data.name}")


def stage_count(model: Model, data: Data) -> int:
    """Return how many stages a network has, as `training.transfer` counts them by the names of its parameters."""
    match model:
        case CNN(channels=channels, hidden=hidden):
            return len(channels) + len(hidden) + 1
        case MLP(hidden=hidden) | DeepMLP(hidden=hidden):
            return len(hidden) + 1
        case ResNet():
            # The stem, three or four stages, and the output.
            return 5 if isinstance(model, CifarResNet) else 6
        case LSTM(layers=layers):
            return layers + 1 + isinstance(data, Text)
        case Transformer(depth=depth):
            return depth + 2
    return 1


def _check_with_gan(recipe: Recipe) -> None:
    """Refuse what has no meaning for two networks of which neither predicts a target."""
    if names := recipe.augmentation.names:
        key = f"augmentation.{names[0]}"
        raise bad_value(key, getattr(recipe.augmentation, names[0]), "0 with model.name gan, which would learn it, too")
    if recipe.transfer.name != "none":
        raise bad_value("transfer.name", recipe.transfer.name, "none with model.name gan")


def models_for(data: Data) -> list[str]:
    """Return the models that can be given to a dataset: no weights for numbers of tokens, no steps without an order.

    A language model must not see what it is to say, and a transformer's mean over the steps has seen all.
    """
    match data:
        case Text(task="language_model"):
            return ["lstm", "gpt"]
        case Text():
            return ["lstm", "transformer"]
        case Series():
            return ["mlp", "deep_mlp", "lstm", "transformer", "gan"]
    return [name for name in MODELS if name != "gpt"] if data.name in IMAGE_SHAPES else ["mlp", "deep_mlp", "gan"]


def _one_of(key: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise bad_value(key, value, ", ".join(allowed))


def _real(key: str, value: object, allowed: str, holds: Callable[[Any], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise bad_value(key, value, allowed)
    # The comparison refuses infinities, NaN and integers that no float can hold.
    if not (abs(value) <= sys.float_info.max and holds(value)):
        raise bad_value(key, value, allowed)


def _whole(key: str, value: object, least: int, *others: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        words = [f"an integer, at least {least}", *("null" if other is None else str(other) for other in others)]
        raise bad_value(key, value, ", or ".join(words))


def _text(key: str, value: object, allowed: str) -> None:
    if not isinstance(value, str) or not value:
        raise bad_value(key, value, allowed)


def _sizes(key: str, value: object, least: int = 0) -> None:
    sizes = value if isinstance(value, list) else None
    if sizes is None or len(sizes) < least or any(type(size) is not int or size < 1 for size in sizes):
        allowed = "a list of integers, each at least 1" + (f", with at least {least} of them" if least else "")
        raise bad_value(key, value, allowed)
