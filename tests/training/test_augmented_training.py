"""Augmented training: lanes against a plain loop in double precision, against `Solo`, and beside other neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swathe.errors import BadInputError
from swathe.training import lane_compiler, streams
from swathe.training.augment import Augment
from swathe.training.data import Dataset, load
from swathe.training.lanes import LaneBlock
from swathe.training.models import build
from swathe.training.recipe import TIMING_METRICS, Data, Recipe, recipe_from_config
from swathe.training.solo import Solo
from swathe.training.streams import Stream
from swathe.training.structure import can_lane, structural_key

BATCH = 16
# The same augmentations, each lane's as strong as it likes.
MIXED: list[dict[str, Any]] = [
    {"flip": 0.5, "crop": 2, "rotation": 20.0, "brightness": 0.3, "contrast": 0.2, "cutout": 3, "mixup": 0.4},
    {"flip": 0.1, "crop": 1, "rotation": 90.0, "brightness": 0.1, "contrast": 0.9, "cutout": 1, "mixup": 2.0},
    {"flip": 1.0, "crop": 3, "rotation": 5.0, "brightness": 1.0, "contrast": 0.1, "cutout": 6, "mixup": 0.1},
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("augmented") / "data"


def digits(seed: int, augmentation: dict[str, Any], **config: Any) -> Recipe:
    return recipe_from_config(
        {
            "model": {"hidden": [7], "activation": "tanh"},
            "data": {"limit": 5 * BATCH},
            "optim": {"name": "sgd", "lr": 0.2},
            "regularization": {"label_smoothing": 0.1, "dropout": 0.2},
            "batch_size": BATCH,
            "epochs": 2,
            "seed": seed,
            "augmentation": augmentation,
            **config,
        }
    )


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in TIMING_METRICS}


def histories(block: LaneBlock) -> dict[int, list[dict[str, float]]]:
    found: dict[int, list[dict[str, float]]] = {tag: [] for tag in block.tags}
    while block.tags:
        for report in block.epoch(lambda tag: False):
            found[report.tag].append(untimed(report.metrics))
    return found


def solo_history(recipe: Recipe, cache: Path) -> list[dict[str, float]]:
    return [untimed(metrics) for _, metrics, _ in Solo(recipe, "cpu", cache).reports(lambda: False)]


def plain_loop(recipe: Recipe, data: Dataset) -> dict[str, Tensor]:
    """Train the digits by torch alone in double precision, on examples that are augmented before each step."""
    network = nn.ModuleDict({"linear1": nn.Linear(64, 7), "output": nn.Linear(7, 10)}).double()
    network.load_state_dict(
        build(recipe.model, 64, 10, None, 0.0, streams.generator(recipe.seed, Stream.INIT)).state_dict()
    )
    optimizer = torch.optim.SGD(network.parameters(), recipe.optim.lr)
    augment = Augment(recipe.augmentation.names, data.image_shape)
    x, pixels = data.train_x.double(), torch.tensor(data.pixels, dtype=torch.float64)
    for epoch in range(1, recipe.epochs + 1):
        words = torch.from_numpy(augment.words(recipe.seed, epoch, 5))
        strengths = torch.from_numpy(augment.strengths(recipe, epoch, 5))
        masks = torch.from_numpy(streams.dropout_words(recipe.seed, epoch, 5, 1))
        order = torch.randperm(5 * BATCH, generator=streams.generator(recipe.seed, Stream.ORDER, epoch))
        for step, rows in enumerate(order.split(BATCH)):
            examples = augment(x[rows], words[step], strengths[step], [pixels])
            keep = streams.keeps(masks[step, 0], streams.dropout_threshold(0.2), (BATCH, 7)).double() / 0.8
            outputs = network["output"](torch.tanh(network["linear1"](examples)) * keep)
            labels = F.one_hot(data.train_y[rows], 10).double()
            share = strengths[step, augment.names.index("mixup")]
            mixed = share * labels + (1 - share) * labels.roll(1, 0)
            optimizer.zero_grad()
            F.cross_entropy(outputs, mixed, label_smoothing=0.1).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.state_dict()


def test_lanes_of_mixed_strengths_are_what_a_plain_loop_gives(cache: Path) -> None:
    recipes = [digits(seed, augmentation) for seed, augmentation in enumerate(MIXED)]
    block = LaneBlock(recipes[0], len(recipes), "cpu", cache, compiled=False, dtype=torch.float64)
    for tag, recipe in enumerate(recipes):
        block.admit(recipe, tag)
    histories(block)
    for tag, recipe in enumerate(recipes):
        for name, value in plain_loop(recipe, block.dataset).items():
            torch.testing.assert_close(block.state_dict(tag)[name], value, rtol=1e-10, atol=1e-10)


def test_a_trial_is_its_solo_run_and_its_bits_are_its_own(cache: Path) -> None:
    given: list[dict[str, Any]] = [{"crop": 1 + seed, "rotation": 9.0 * seed + 1, "mixup": 0.3} for seed in range(3)]
    check_lanes([digits(seed, given[seed], batch_size=7) for seed in range(3)], cache, compiled=False)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [7, 32])
def test_with_all_augmentations_it_is_too(cache: Path, batch: int) -> None:
    check_lanes([digits(seed, MIXED[seed], batch_size=batch) for seed in range(3)], cache, compiled=False)


@pytest.mark.slow
@pytest.mark.skipif(bool(lane_compiler.no_compiler()), reason="no C++ compiler")
def test_compiled_lanes_are_solo_runs_too(cache: Path) -> None:
    check_lanes([digits(seed, MIXED[seed]) for seed in range(3)], cache, compiled=True)


def check_lanes(recipes: list[Recipe], cache: Path, *, compiled: bool) -> None:
    together, alone = (LaneBlock(recipes[0], lanes, "cpu", cache, compiled=compiled) for lanes in (4, 1))
    assert together.compiled == compiled
    # The first trial again in the last lane.
    for tag, recipe in enumerate([*recipes, recipes[0]]):
        together.admit(recipe, tag)
    found = histories(together)
    assert found[0] == found[len(recipes)]
    for tag, recipe in enumerate(recipes):
        alone.admit(recipe, tag)
        assert histories(alone)[tag] == found[tag]
        alone.release(tag)
        for ours, theirs in zip(found[tag], solo_history(recipe, cache), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)


def test_mixup_of_a_regression_mixes_its_targets(cache: Path) -> None:
    config = {"data": {"name": "diabetes"}, "regularization": {}, "optim": {"name": "adam"}}
    check_lanes([digits(seed, {"mixup": 0.2 + seed}, **config) for seed in range(2)], cache, compiled=False)


def test_only_what_is_trained_on_is_augmented(cache: Path) -> None:
    still = {"optim": {"name": "sgd", "lr": 1e-30}, "regularization": {}, "epochs": 1}
    (plain,), (augmented,) = (solo_history(digits(0, given, **still), cache) for given in ({}, MIXED[0]))
    assert plain["val_loss"] == augmented["val_loss"]
    assert plain["train_loss"] != augmented["train_loss"]


def test_black_the_mean_and_white_are_known_after_standardising(cache: Path) -> None:
    standardised, raw = (load(Data(standardize=given), cache) for given in (True, False))
    assert standardised.pixels is not None
    assert raw.pixels is not None
    (black,), (mean,), (white,) = standardised.pixels
    assert mean == 0
    torch.testing.assert_close((raw.train_x * (white - black) + black), standardised.train_x, rtol=1e-5, atol=1e-5)
    assert raw.pixels[0] == (0.0,)
    assert raw.pixels[1] == pytest.approx((raw.train_x.mean().item(),), rel=1e-5)
    assert raw.pixels[2] == (1.0,)


def test_which_are_on_is_structure_and_their_strength_is_not() -> None:
    plain, some, more, other = (
        structural_key(digits(0, given)) for given in ({}, {"crop": 1}, {"crop": 2}, {"crop": 1, "flip": 0.5})
    )
    assert some == more
    assert len({plain, some, other}) == 3
    assert "augmentation" not in plain
    assert can_lane(digits(0, MIXED[0])) is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"augmentation": {"rotation": 200}}, ["augmentation.rotation", "200", "0 to 180"]),
        ({"augmentation": {"flip": 1.5}}, ["augmentation.flip", "1.5", "0 to 1"]),
        ({"augmentation": {"crop": 1.5}}, ["augmentation.crop", "1.5", "an integer"]),
        ({"augmentation": {"crop": 8}}, ["augmentation.crop", "8", "an integer below 8"]),
        ({"augmentation": {"mixup": -1}}, ["augmentation.mixup", "-1", "at least 0"]),
        ({"augmentation": {"turn": 1}}, ["augmentation.turn", "augmentation.rotation"]),
        ({"augmentation": {"saturation": 0.2}}, ["augmentation.saturation", "0 with data.name digits", "grey"]),
        ({"augmentation": {"rotation": 5}, "data": {"name": "iris"}}, ["augmentation.rotation", "iris", "no image"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(config: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BadInputError) as refused:
        recipe_from_config(config)
    assert all(word in str(refused.value) for word in words)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_lanes_of_series_are_solo_runs(cache: Path, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(1)
    lines = [
        f"{series},{torch.randn((), generator=draw).item() + series % 2},{step},{'ab'[series % 2]}"
        for series in range(50)
        for step in range(5)
    ]
    (tmp_path / "series.csv").write_text("\n".join(["id,high,step,label", *lines]) + "\n")
    data = {"name": "series", "path": str(tmp_path / "series.csv"), "target": "label", "id": "id", "length": 5}
    config = {"data": {**data, "task": "classification"}, "regularization": {}}
    given: list[dict[str, Any]] = [
        {"window_slicing": 0.2, "scaling": 0.1, "jitter": 0.3, "mixup": 1.0},
        {"window_slicing": 0.9, "scaling": 0.5, "jitter": 0.1, "mixup": 0.2},
    ]
    check_lanes([digits(seed, one, **config) for seed, one in enumerate(given)], cache, compiled=False)


@pytest.mark.slow
def test_lanes_of_texts_are_solo_runs(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_words.py").write_text("def reverse(text):\n    return ' '.join(reversed(text.split()))\n")
    (tmp_path / "words.json").write_text('{"good": ["fine", "great"], "fine": ["great"]}')
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["good", "fine", "great", "bad", "poor", "film", "plot"]
    lines = [f"{words[n % 7]} {words[n % 5]} {words[n % 3]},{'yes' if n % 7 < 3 else 'no'}" for n in range(60)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    data = {"name": "text", "path": str(tmp_path / "texts.csv"), "tokens": "words", "length": 4}
    files = {"translator": "own_words:reverse", "synonyms": str(tmp_path / "words.json")}
    given: list[dict[str, Any]] = [
        {"back_translation": 0.5, "synonym_replacement": 0.3, "token_dropout": 0.1, **files},
        {"back_translation": 0.1, "synonym_replacement": 0.9, "token_dropout": 0.5, **files},
    ]
    config = {"data": data, "model": {"name": "lstm", "width": 4}, "regularization": {}}
    recipes = [digits(seed, one, **config) for seed, one in enumerate(given)]
    check_lanes(recipes, cache, compiled=False)
    other = digits(0, {**given[0], "translator": "other:function"}, **config)
    assert structural_key(other) != structural_key(recipes[0])
