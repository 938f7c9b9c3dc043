"""Two networks against each other: each step is that of a plain loop, and what is made comes to look like the data."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from swathe.errors import BadInputError
from swathe.training import streams
from swathe.training.alone import alone
from swathe.training.gan import Adversarial, discriminator_optim, energy_distance, networks
from swathe.training.recipe import TIMING_METRICS, recipe_from_config
from swathe.training.streams import Stream


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def gan(cache: Path, **config: Any) -> Adversarial:
    config = {"optim": {"name": "adam", "lr": 1e-3}, "epochs": 3, **config}
    config["model"] = {"name": "gan", **config.get("model", {})}
    run = alone(recipe_from_config(config), "cpu", cache)
    assert isinstance(run, Adversarial)
    return run


def history(run: Adversarial) -> list[dict[str, float]]:
    return [
        {name: value for name, value in metrics.items() if name not in TIMING_METRICS}
        for _, metrics, _ in run.reports(lambda: False)
    ]


def test_energy_distance_is_that_of_scipy() -> None:
    drawn = np.random.default_rng(0)
    x, y = drawn.normal(size=50), drawn.normal(1, 2, size=70)
    # SciPy's is of one variable, and the root of half of it.
    expected = 2 * stats.energy_distance(x, y) ** 2 / 2
    assert energy_distance(torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None]) == pytest.approx(expected)
    same = torch.from_numpy(y)[:, None]
    assert energy_distance(same, same) == 0


@pytest.mark.parametrize(
    ("optim", "model"),
    [
        ({"name": "adam", "lr": 1e-3}, {}),
        ({"name": "adam", "lr": 1e-3}, {"discriminator_optim": "sgd", "discriminator_lr": 0.05}),
        ({"name": "adam", "lr": 1e-3}, {"discriminator_lr": 4e-3, "norm": "layer"}),
    ],
)
def test_an_epoch_is_that_of_a_plain_loop(cache: Path, optim: dict[str, Any], model: dict[str, Any]) -> None:
    run = gan(cache, optim=optim, model=model, epochs=1, data={"limit": 320}, regularization={"label_smoothing": 0.1})
    recipe = run.recipe
    both = networks(recipe.model, 64, 0.0, streams.generator(0, Stream.INIT))  # type: ignore[arg-type]
    generator, judge = both["generator"], both["discriminator"]
    of_generator = torch.optim.Adam(generator.parameters(), lr=1e-3)
    if model.get("discriminator_optim") == "sgd":
        of_judge: torch.optim.Optimizer = torch.optim.SGD(judge.parameters(), lr=0.05)
    else:
        of_judge = torch.optim.Adam(judge.parameters(), lr=model.get("discriminator_lr", 1e-3))
    order = torch.randperm(320, generator=streams.generator(0, Stream.ORDER, 1))
    losses = []
    for step in range(5):
        real = run.dataset.train_x[order[step * 64 : (step + 1) * 64]]
        noise = torch.randn(128, 16, generator=streams.generator(0, Stream.NOISE, 1, step))
        made = generator(noise[:64]).detach()
        loss = F.binary_cross_entropy(judge(real).sigmoid(), torch.full((64, 1), 0.9))
        loss = loss + F.binary_cross_entropy(judge(made).sigmoid(), torch.zeros(64, 1))
        of_judge.zero_grad()
        loss.backward()
        of_judge.step()
        fooled = -judge(generator(noise[64:])).sigmoid().log().mean()
        of_generator.zero_grad()
        fooled.backward()
        of_generator.step()
        losses.append((loss.item(), fooled.item()))
    (metrics,) = history(run)
    means = np.mean(losses, axis=0)
    assert [metrics["discriminator_loss"], metrics["generator_loss"]] == pytest.approx(means, rel=1e-5)
    state = run.state_dict()
    for name, value in both.state_dict().items():
        assert torch.allclose(state[name], value, rtol=1e-4, atol=1e-6), name


def test_what_is_made_comes_to_look_like_digits(cache: Path) -> None:
    reports = history(gan(cache, epochs=15, optim={"name": "adam", "lr": 2e-3, "beta1": 0.5}))
    assert set(reports[0]) - {"first_loss"} == set(reports[-1])
    assert "val_accuracy" not in reports[0]
    distances = [report["val_loss"] for report in reports]
    assert distances[-1] < 0.35 * reports[0]["first_loss"]
    for report in reports:
        assert report["generalization_gap"] == report["val_loss"] - report["train_loss"]
        assert 0 <= report["discriminator_accuracy"] <= 1


def test_a_recipe_gives_the_same_bits_again_and_another_seed_does_not(cache: Path) -> None:
    config: dict[str, Any] = {"data": {"limit": 300}, "regularization": {"dropout": 0.2}, "epochs": 2}
    first, again, other = (history(gan(cache, **config, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_it_stops_when_told_and_ends_where_a_loss_is_not_finite(cache: Path) -> None:
    answers = itertools.chain([False], itertools.repeat(True))
    assert list(gan(cache, epochs=50, batch_size=1).reports(lambda: next(answers))) == []
    reports = history(gan(cache, optim={"name": "sgd", "lr": 1e30}, epochs=5))
    assert len(reports) == 1
    assert np.isnan(reports[0]["val_loss"])


def test_the_discriminator_s_optimiser_is_the_generator_s_unless_it_is_said(cache: Path) -> None:
    optim = {"name": "adam", "lr": 1e-3, "beta1": 0.5}

    def of(**model: Any) -> Any:
        return discriminator_optim(recipe_from_config({"model": {"name": "gan", **model}, "optim": optim}))

    assert (of().name, of().lr, of().beta1) == ("adam", 1e-3, 0.5)
    assert (of(discriminator_lr=4e-3).lr, of(discriminator_lr=4e-3).beta1) == (4e-3, 0.5)
    assert (of(discriminator_optim="rmsprop").name, of(discriminator_optim="rmsprop").lr) == ("rmsprop", 1e-3)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"model": {"latent": 0}}, "model.latent"),
        ({"model": {"discriminator_hidden": [0]}}, "model.discriminator_hidden"),
        ({"model": {"discriminator_optim": "lion"}}, "model.discriminator_optim"),
        ({"model": {"discriminator_lr": 0}}, "model.discriminator_lr"),
        ({"augmentation": {"flip": 0.5}}, "augmentation.flip"),
        ({"data": {"name": "stdlib_text"}}, "model.name"),
    ],
)
def test_what_is_not_allowed_is_refused(config: dict[str, Any], key: str) -> None:
    config = {**config, "model": {"name": "gan", **config.get("model", {})}}
    with pytest.raises(BadInputError, match=f"^{key}"):
        recipe_from_config(config)
