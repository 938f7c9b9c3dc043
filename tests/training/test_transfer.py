"""Networks that begin with other networks' weights: stages, what fits, and torch's parameter groups as the truth."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swathe.diagnosis import recipe_facts
from swathe.errors import BadInputError
from swathe.training import streams
from swathe.training.diagnose import Facts, Symptom, diagnose
from swathe.training.diagnose_facts import dataset_facts
from swathe.training.lanes import LaneBlock
from swathe.training.models import build
from swathe.training.recipe import (
    MODELS,
    OPTIMIZERS,
    TIMING_METRICS,
    FineTune,
    Model,
    Recipe,
    Regularization,
    SequenceShape,
    recipe_from_config,
)
from swathe.training.recipe_check import stage_count
from swathe.training.solo import Solo
from swathe.training.streams import Stream
from swathe.training.structure import structural_key
from swathe.training.transfer import (
    first_epoch,
    frozen_stages,
    initial_state,
    rate_factors,
    read_weights,
    stages,
    weights_file,
)

Metrics = dict[str, float]

INPUTS, BATCH, EPOCHS, STEPS = 64, 20, 7, 3
HIDDEN = [12, 12, 8]
# The rates at which the optimisers learn this task.
RATES = {"sgd": 0.1, "momentum": 0.02, "nesterov": 0.02, "rmsprop": 1e-3, "adagrad": 0.02, "adam": 2e-3, "adamw": 2e-3}
OPTIONS: dict[str, dict[str, Any]] = {"adagrad": {"eps": 1e-4}}
# In which epochs stages join, at which rates, and what else touches their parameters.
TRANSFERS: list[dict[str, Any]] = [
    {"freeze": 0, "rate": 0.1},
    {"freeze": 2},
    {"freeze": 3, "unfreeze_every": 2, "stage_decay": 2.6},
    {"freeze": 1, "unfreeze_every": 3, "rate": 0.3, "head": "keep"},
]
REGULARIZATIONS: list[dict[str, Any]] = [
    {},
    {"l2": 1e-2, "weight_decay": 0.1},
    {"l1": 1e-3, "l2": 1e-2, "weight_decay": 0.1, "clip_norm": 0.3, "label_smoothing": 0.1},
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transfer") / "data"


def state_of(model: Model, outputs: int = 10, seed: int = 5) -> dict[str, Tensor]:
    """Return the state of a network that has seen something, batch norm's statistics included."""
    image = (1, 8, 8)
    network = build(model, INPUTS, outputs, image, 0.0, generator=torch.Generator().manual_seed(seed))
    draw = torch.Generator().manual_seed(seed + 1)
    state = dict(network.state_dict())
    for name, value in state.items():
        if "norm" in name:
            state[name] = torch.rand(value.shape, generator=draw) + 0.5
    return state


def recipe_of(file: Path, index: int = 0, **config: Any) -> Recipe:
    transfer = {"name": "fine_tune", "weights": str(file), **config.pop("transfer", {})}
    model = {"hidden": HIDDEN, "activation": "tanh", **config.pop("model", {})}
    data = {"name": "digits", "limit": BATCH * STEPS, "val_fraction": 0.05}
    given = {"model": model, "data": data, "batch_size": BATCH, "epochs": EPOCHS, "seed": index, **config}
    return recipe_from_config({**given, "transfer": transfer})


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


# Stages.


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"name": "mlp", "hidden": [8, 8], "norm": "batch"}, ["linear1", "linear2", "output"]),
        ({"name": "deep_mlp", "depth": 2, "residual": True}, ["linear1", "linear2", "output"]),
        ({"name": "cnn", "channels": [4, 4], "norm": "group", "groups": 2}, ["conv1", "conv2", "linear1", "output"]),
        ({"name": "resnet_cifar", "depth": 8, "width": 4}, ["stem", "stage1", "stage2", "stage3", "output"]),
        ({"name": "resnet18", "width": 4}, ["stem", "stage1", "stage2", "stage3", "stage4", "output"]),
    ],
)
def test_a_network_is_a_row_of_stages(config: dict[str, Any], expected: list[str]) -> None:
    recipe = recipe_from_config({"model": config})
    found = stages(state_of(recipe.model))
    layers = {name.split(".")[0]: stage for name, stage in found.items() if "norm" not in name.split(".")[0]}
    assert layers == {layer: stage for stage, layer in enumerate(expected)}
    assert list(found.values()) == sorted(found.values())


@pytest.mark.parametrize("name", [name for name in MODELS if name != "gan"])
def test_the_stages_of_every_model_are_counted(name: str) -> None:
    data: dict[str, Any] = {"name": "stdlib_text"} if name == "gpt" else {}
    model = {"name": name, **({"width": 4} if "resnet" in name else {})}
    recipe = recipe_from_config({"model": model, "data": data})
    sequence = SequenceShape(8, vocabulary=5, every_step=True) if name == "gpt" else None
    inputs = 8 if name == "gpt" else INPUTS
    network = build(recipe.model, inputs, 10, None if sequence else (1, 8, 8), 0.5, None, sequence)
    found = stages(network.state_dict())
    assert 1 + max(found.values()) == stage_count(recipe.model, recipe.data)
    assert {layer.split(".")[0] for layer, stage in found.items() if stage == max(found.values())} == {"output"}


def test_the_output_is_always_trained() -> None:
    transfer = {"name": "fine_tune", "weights": "a", "freeze": 2}
    with pytest.raises(BadInputError, match=r"transfer.freeze: 2 is not allowed; allowed: an integer from 0 to 1, as"):
        recipe_from_config({"transfer": transfer})


def test_norms_positions_and_lists_of_blocks() -> None:
    names = ["embedding.weight", "positions.weight", "blocks.0.norm1.bias", "blocks.1.norm1.bias", "norm.weight"]
    assert list(stages([*names, "output.weight"]).values()) == [0, 0, 1, 2, 2, 3]


def test_the_last_frozen_stage_is_unfrozen_first() -> None:
    transfer = FineTune(freeze=3, unfreeze_every=2)
    assert [frozen_stages(transfer, epoch) for epoch in range(1, 9)] == [3, 3, 2, 2, 1, 1, 0, 0]
    assert [first_epoch(transfer, stage) for stage in range(5)] == [7, 5, 3, 1, 1]
    assert {frozen_stages(FineTune(freeze=2), epoch) for epoch in (1, 100)} == {2}


def test_rates_fall_from_the_end_of_the_network_to_its_beginning() -> None:
    assert rate_factors(FineTune(), 3) == [1, 1, 1]
    assert rate_factors(FineTune(rate=0.01), 3) == [0.01, 0.01, 1]
    assert rate_factors(FineTune(rate=0.01, head="keep"), 3) == [0.01, 0.01, 0.01]
    assert rate_factors(FineTune(stage_decay=2.6), 4) == pytest.approx([2.6**-3, 2.6**-2, 1 / 2.6, 1])
    assert rate_factors(FineTune(stage_decay=1e300), 4)[0] == 0


# What fits.


def test_all_but_the_output_is_loaded(tmp_path: Path) -> None:
    model = recipe_from_config({"model": {"hidden": [8], "norm": "batch"}}).model
    given, own = state_of(model, outputs=3), state_of(model, seed=7)
    file = saved(tmp_path / "a.pt", {**given, "norm1.num_batches_tracked": torch.tensor(7)})
    state = initial_state(FineTune(weights=str(file)), own, tmp_path)
    assert list(state) == list(own)
    for name, value in state.items():
        assert torch.equal(value, own[name] if name.startswith("output") else given[name])


def test_keep_loads_the_output_too(tmp_path: Path) -> None:
    model = recipe_from_config({"model": {"hidden": [8]}}).model
    given, own = state_of(model), state_of(model, seed=7)
    file = saved(tmp_path / "a.pt", {name: value.double() for name, value in given.items()})
    state = initial_state(FineTune(weights=str(file), head="keep"), own, tmp_path)
    assert all(torch.equal(value, given[name]) for name, value in state.items())


@pytest.mark.parametrize(
    ("there", "transfer", "words"),
    [
        ({"model": {"hidden": [9]}}, {}, "linear1.weight has the shape [9, 64] there and the shape [8, 64] in this"),
        ({"model": {"hidden": [8, 8]}}, {}, "linear2.weight has the shape [8, 8] there and no such tensor in this"),
        ({"model": {"hidden": [8], "norm": "batch"}}, {}, "norm1.weight has the shape [8] there and no such tensor"),
        ({"model": {"hidden": []}}, {}, "linear1.weight has no such tensor there and the shape [8, 64] in this"),
        ({"outputs": 3}, {"head": "keep"}, "[3, 8] there and the shape [10, 8] in this network; allowed: weights of "
         "the same layers; transfer.head new draws the output layer anew"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    there: dict[str, Any], transfer: dict[str, Any], words: str, tmp_path: Path
) -> None:
    given = recipe_from_config({"model": there.get("model", {"hidden": [8]})}).model
    file = saved(tmp_path / "a.pt", state_of(given, there.get("outputs", 10)))
    own = state_of(recipe_from_config({"model": {"hidden": [8]}}).model)
    with pytest.raises(BadInputError) as refused:
        initial_state(FineTune(weights=str(file), **transfer), own, tmp_path)
    assert words in str(refused.value)


def test_a_file_that_is_no_state_dictionary_is_refused(tmp_path: Path) -> None:
    class Anything:
        pass

    for index, content in enumerate(([1, 2], {"a": 1}, {}, {"state_dict": {}}, nn.Linear(1, 1), Anything)):
        file = tmp_path / f"{index}.pt"
        if content is Anything:
            file.write_bytes(b"no archive")
        else:
            torch.save(content, file)
        with pytest.raises(BadInputError, match=r"transfer.weights: .* is not allowed"):
            read_weights(FineTune(weights=str(file)), tmp_path)
    for name in ("", str(tmp_path / "nothing.pt"), str(tmp_path)):
        with pytest.raises(BadInputError, match=r"transfer.weights: .* is not allowed"):
            read_weights(FineTune(weights=name), tmp_path)


def test_weights_with_a_digest_are_those_that_were_kept(tmp_path: Path) -> None:
    state, cache = {"a": torch.ones(3)}, tmp_path / "data"
    file = saved(tmp_path / "a.pt", state)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    transfer = FineTune(weights=str(file), sha256=digest)
    assert torch.equal(read_weights(transfer, cache)["a"], state["a"])
    kept = weights_file(digest, cache)
    kept.parent.mkdir()
    kept.write_bytes(file.read_bytes())
    file.unlink()
    assert torch.equal(read_weights(transfer, cache)["a"], state["a"])
    saved(kept, {"a": torch.zeros(3)})
    with pytest.raises(BadInputError, match=f"has changed: its SHA-256 is .* allowed: {digest}"):
        read_weights(transfer, cache)
    kept.unlink()
    with pytest.raises(BadInputError, match="is not on this machine any more"):
        read_weights(transfer, cache)


@pytest.mark.parametrize(
    "transfer",
    [
        {"name": "some"},
        {"weights": 3},
        {"sha256": "abc"},
        {"freeze": -1},
        {"freeze": 1.5},
        {"unfreeze_every": 0},
        {"rate": 0},
        {"stage_decay": 0.5},
        {"head": "both"},
    ],
)
def test_a_bad_value_is_refused_with_its_key(transfer: dict[str, Any]) -> None:
    key = next(reversed(transfer))
    with pytest.raises(BadInputError, match=f"transfer.{key}: "):
        recipe_from_config(
            {"model": {"hidden": [8] * 5}, "transfer": {"name": "fine_tune", "weights": "w", **transfer}}
        )


def test_without_transfer_there_is_nothing_to_set() -> None:
    with pytest.raises(
        BadInputError, match=r"transfer.freeze: 1 is not allowed; allowed: one of the keys transfer.name"
    ):
        recipe_from_config({"transfer": {"freeze": 1}})


def test_what_a_transfer_says_is_a_lane_s_own_and_no_structure() -> None:
    def key(**transfer: Any) -> str:
        return structural_key(recipe_from_config({"model": {"hidden": [8, 8]}, "transfer": transfer}))

    on = {"name": "fine_tune", "weights": "a"}
    others = [{"weights": "b"}, {"freeze": 2, "unfreeze_every": 1}, {"rate": 0.1}, {"head": "keep"}]
    assert {key(**on, **other) if "weights" not in other else key(**{**on, **other}) for other in others} == {key(**on)}
    assert key(**on) != key()
    assert "transfer" not in key()


# Training, held against torch's parameter groups.


def torch_optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    optim, l2 = recipe.optim, recipe.regularization.l2
    match optim.name:
        case "sgd":
            return torch.optim.SGD(groups, optim.lr, weight_decay=l2)
        case "momentum" | "nesterov":
            return torch.optim.SGD(groups, optim.lr, 0.9, weight_decay=l2, nesterov=optim.name == "nesterov")
        case "rmsprop":
            return torch.optim.RMSprop(groups, optim.lr, weight_decay=l2)
        case "adagrad":
            return torch.optim.Adagrad(groups, optim.lr, eps=optim.eps, weight_decay=l2)  # type: ignore[attr-defined]
    return torch.optim.Adam(groups, optim.lr, weight_decay=l2)


def torch_network(recipe: Recipe, transfer: FineTune, dtype: torch.dtype) -> nn.Sequential:
    """Return the network by torch alone: a sequence of layers with their norms, each of which is a stage."""
    start = build(recipe.model, INPUTS, 10, None, 0.0, streams.generator(recipe.seed, Stream.INIT)).state_dict()
    loaded = torch.load(transfer.weights, weights_only=True)
    kept = {name: value for name, value in loaded.items() if transfer.head == "keep" or not name.startswith("output")}
    layers = nn.Sequential()
    for index, (inputs, width) in enumerate(zip([INPUTS, *HIDDEN], [*HIDDEN, 10], strict=True), start=1):
        name = "output" if index > len(HIDDEN) else f"linear{index}"
        layer = nn.Sequential()
        layer.add_module(name, nn.Linear(inputs, width))
        if name != "output":
            if recipe.model.norm == "batch":
                layer.add_module(f"norm{index}", nn.BatchNorm1d(width))
            layer.add_module(f"tanh{index}", nn.Tanh())
        own = layer.state_dict().keys() & start.keys()
        layer.load_state_dict({key: {**start, **kept}[key] for key in own}, strict=False)
        layers.append(layer)
    return layers.to(dtype)


def torch_groups(recipe: Recipe, transfer: FineTune, network: nn.Sequential) -> list[dict[str, Any]]:
    last = len(network) - 1
    factors = [transfer.rate / transfer.stage_decay ** (last - stage) for stage in range(last)]
    factors.append(transfer.rate if transfer.head == "keep" else 1.0)
    return [
        {"params": list(layer.parameters()), "lr": recipe.optim.lr * factor}
        for layer, factor in zip(network, factors, strict=True)
    ]


def torch_loop(recipe: Recipe, block: LaneBlock) -> dict[str, Tensor]:
    """Fine-tune by torch alone in double precision, with the same start and order; return the state."""
    transfer, regularization, data = recipe.transfer, recipe.regularization, block.dataset
    assert isinstance(transfer, FineTune)
    network = torch_network(recipe, transfer, torch.float64)
    optimizer = torch_optimizer(recipe, torch_groups(recipe, transfer, network))
    decay = regularization.weight_decay
    decay = decay if decay is not None else 0.01 if recipe.optim.name == "adamw" else 0.0
    x = data.train_x.double()
    for epoch in range(recipe.epochs):
        network.train()
        frozen = transfer.freeze - (epoch // transfer.unfreeze_every if transfer.unfreeze_every else 0)
        for stage, layer in enumerate(network):
            layer.requires_grad_(stage >= frozen).train(stage >= frozen)
        order = torch.randperm(len(x), generator=streams.generator(recipe.seed, Stream.ORDER, epoch + 1))
        for rows in order[: BATCH * STEPS].split(BATCH):
            optimizer.zero_grad()
            smoothing = regularization.label_smoothing
            loss = F.cross_entropy(network(x[rows]), data.train_y[rows], label_smoothing=smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            penalise(recipe.regularization, optimizer, decay)
            optimizer.step()
    return {name: value for layer in network for name, value in layer.state_dict().items()}


@torch.no_grad()
def penalise(regularization: Regularization, optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Add the L1 penalty, clip, and decay, of the parameters that have a gradient."""
    groups = [(group["lr"], parameter) for group in optimizer.param_groups for parameter in group["params"]]
    trained = [(lr, parameter) for lr, parameter in groups if parameter.grad is not None]
    for _, parameter in trained:
        parameter.grad += regularization.l1 * parameter.sign()
    if regularization.clip_norm is not None:
        nn.utils.clip_grad_norm_([parameter for _, parameter in trained], regularization.clip_norm)
    for lr, parameter in trained:
        parameter.mul_(1 - lr * decay)


def block_of(recipe: Recipe, lanes: int, cache: Path) -> LaneBlock:
    """Return an empty block in double precision; one structure and one type are traced once."""
    return LaneBlock(recipe, lanes, "cpu", cache, compiled=False, dtype=torch.float64)


def drained(block: LaneBlock) -> dict[int, list[Metrics]]:
    histories: dict[int, list[Metrics]] = {tag: [] for tag in block.tags}
    while block.tags:
        for report in block.epoch(lambda tag: False):
            kept = {name: value for name, value in report.metrics.items() if name not in TIMING_METRICS}
            histories[report.tag].append(kept)
    return histories


def distance(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other).norm() / other.norm())


def every_recipe(
    file: Path, norm: str, transfers: list[dict[str, Any]], regularizations: list[dict[str, Any]]
) -> list[Recipe]:
    return [
        recipe_of(
            file,
            seed,
            transfer=transfer,
            model={"norm": norm},
            optim={"name": optim, "lr": RATES[optim], **OPTIONS.get(optim, {})},
            regularization=regularization,
        )
        for seed, (optim, transfer, regularization) in enumerate(
            (optim, transfer, regularization)
            for optim in OPTIMIZERS
            for transfer in transfers
            for regularization in regularizations
        )
    ]


def check_against_torch(norm: str, recipes: list[Recipe], cache: Path) -> None:
    assert len({structural_key(recipe) for recipe in recipes}) == 1
    block = block_of(recipes[0], len(recipes), cache)
    for tag, recipe in enumerate(recipes):
        block.admit(recipe, tag)
    drained(block)
    for tag, recipe in enumerate(recipes):
        ours, theirs = block.state_dict(tag), torch_loop(recipe, block)
        for name, value in ours.items():
            # A bias before batch normalisation has a gradient of rounding errors, which the running mean follows.
            free = norm == "batch" and ("running_mean" in name or ("linear" in name and "bias" in name))
            assert free or distance(value, theirs[name]) < 1e-10, (recipe.transfer, recipe.optim, name)


def weights_of(norm: str, path: Path) -> Path:
    return saved(path / "a.pt", state_of(recipe_of(path, model={"norm": norm}).model))


def test_gradual_unfreezing_by_any_optimiser_is_torch_s(cache: Path, tmp_path: Path) -> None:
    recipes = every_recipe(weights_of("batch", tmp_path), "batch", TRANSFERS[2:3], REGULARIZATIONS[2:])
    check_against_torch("batch", recipes, cache)


@pytest.mark.slow
@pytest.mark.parametrize("alters", [False, True])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_lanes_are_torch_s_parameter_groups(norm: str, alters: bool, cache: Path, tmp_path: Path) -> None:
    regularizations = REGULARIZATIONS[2:] if alters else REGULARIZATIONS[:2]
    check_against_torch(norm, every_recipe(weights_of(norm, tmp_path), norm, TRANSFERS, regularizations), cache)


# Frozen is frozen.


def history_of(solo: Solo) -> list[Metrics]:
    return [
        {name: value for name, value in metrics.items() if name not in TIMING_METRICS}
        for _, metrics, _ in solo.reports(lambda: False)
    ]


# An update that would move whatever it can reach.
GREEDY: dict[str, Any] = {"l1": 1e-2, "l2": 1e-2, "weight_decay": 0.1, "clip_norm": 1.0}
ALIKE: dict[str, Any] = {"model": {"norm": "batch"}, "regularization": {"l1": 1e-4}}


def test_frozen_stages_keep_their_bits(cache: Path, tmp_path: Path) -> None:
    file = weights_of("batch", tmp_path)
    before = torch.load(file, weights_only=True)
    recipes = [
        recipe_of(
            file,
            transfer={"freeze": 2},
            model={"norm": "batch"},
            optim={"name": name, "lr": lr},
            regularization=GREEDY,
            epochs=2,
        )
        # The last one diverges at once.
        for name, lr in [*RATES.items(), ("sgd", 1e300)]
    ]
    block = block_of(recipes[0], len(recipes), cache)
    for tag, recipe in enumerate(recipes):
        block.admit(recipe, tag)
    histories = drained(block)
    assert math.isnan(histories[len(RATES)][-1]["val_loss"])
    for tag, recipe in enumerate(recipes):
        solo = Solo(recipe, "cpu", cache)
        history_of(solo)
        for state in (block.state_dict(tag), solo.state_dict()):
            for name, stage in stages(state).items():
                assert torch.equal(state[name], before[name].to(state[name].dtype)) == (stage < 2), (recipe.optim, name)
        _, first, second, _ = block.cut(tag).tensors
        moments = zip(block._network.parameters.tensors(first[None]), block._network.parameters.names, strict=True)
        for moment, name in moments:
            assert stages(before)[name] >= 2 or not moment.any()
        assert second is not first


def test_lanes_and_solo_agree(cache: Path, tmp_path: Path) -> None:
    file = weights_of("batch", tmp_path)
    recipes = [recipe_of(file, seed, transfer=transfer, **ALIKE) for seed, transfer in enumerate(TRANSFERS)]
    block = block_of(recipes[0], len(recipes), cache)
    for tag, recipe in enumerate(recipes):
        block.admit(recipe, tag)
    for tag, history in drained(block).items():
        alone = history_of(Solo(recipes[tag], "cpu", cache))
        assert len(history) == len(alone)
        for one, other in zip(history, alone, strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=1e-3)


def test_a_trial_does_not_depend_on_its_neighbours(cache: Path, tmp_path: Path) -> None:
    file = weights_of("batch", tmp_path)
    recipes = [recipe_of(file, seed, transfer=one, **ALIKE) for seed, one in enumerate(TRANSFERS)]
    together = block_of(recipes[0], len(recipes), cache)
    for tag, recipe in enumerate(recipes):
        together.admit(recipe, tag)
    histories = drained(together)
    last = len(recipes) - 1
    alone = block_of(recipes[last], 1, cache)
    alone.admit(recipes[last], 7)
    reports = alone.epoch(lambda tag: False)
    # Cut in two, across the unfreezing of a stage.
    rest = block_of(recipes[last], 2, cache)
    rest.admit(recipes[0], 1)
    rest.admit(recipes[last], 7, alone.cut(7))
    assert {name: reports[0].metrics[name] for name in histories[last][0]} == histories[last][0]
    assert drained(rest)[7] == histories[last][1:]


def test_the_first_weights_are_the_first_that_are_trained(cache: Path, tmp_path: Path) -> None:
    """A frozen layer has no gradient, which must not look like one that has vanished."""
    file = weights_of("batch", tmp_path)
    recipe = recipe_of(file, transfer={"freeze": 2, "unfreeze_every": 1}, **{**ALIKE, "epochs": 3})
    solo = Solo(recipe, "cpu", cache)
    block = block_of(recipe, 1, cache)
    block.admit(recipe, 0)
    lane = drained(block)[0]
    for alone, beside in zip(history_of(solo), lane, strict=True):
        assert alone["grad_norm_first"] > 1e-3
        assert beside["grad_norm_first"] == pytest.approx(alone["grad_norm_first"], rel=1e-3)
        assert beside["update_ratio"] == pytest.approx(alone["update_ratio"], rel=1e-3)


# Health.


def test_what_is_frozen_on_purpose_is_no_fault(cache: Path, tmp_path: Path) -> None:
    donor = Solo(recipe_from_config({"model": {"hidden": [32, 32]}, "epochs": 2}), "cpu", cache)
    history_of(donor)
    file = saved(tmp_path / "a.pt", donor.state_dict())
    recipe = recipe_of(file, transfer={"freeze": 2}, model={"hidden": [32, 32], "activation": "relu"})
    solo = Solo(recipe, "cpu", cache)
    facts = recipe_facts(recipe, dataset_facts(solo.dataset), solo.steps, "val_loss")
    assert facts.pretrained
    assert diagnose(history_of(solo), facts) == ()


def test_weights_of_another_task_may_begin_with_any_loss() -> None:
    """Surely wrong at first, or right from the start and wrong for a while: neither is a fault then."""
    wrong = [{"train_loss": 2.0, "val_loss": 1.0, "first_loss": 9.0}]
    right = [{"train_loss": loss, "val_loss": loss, "first_loss": 0.01} for loss in (0.02, 0.4, 0.1)]
    for history, symptom in ((wrong, Symptom.BROKEN_SETUP), (right, Symptom.DIVERGED)):
        assert [finding.symptom for finding in diagnose(history, Facts(classes=10))] == [symptom]
        assert diagnose(history, Facts(classes=10, pretrained=True)) == ()
    lost = diagnose([*right, {"train_loss": 30.0}], Facts(classes=10, pretrained=True))
    assert [finding.symptom for finding in lost] == [Symptom.DIVERGED]
