"""The claims of docs/results: their statistics, the rules of their verdicts on made-up trials, charts and pages."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.types import RangeSweep
from scipy import stats
from scripts.results import __main__ as results
from scripts.results import charts, statistics
from scripts.results.claims import CLAIMS, mixed_precision, mnist_headline, normalization, vanishing
from scripts.results.page import page
from scripts.results.statistics import Interval, Verdict
from scripts.results.trials import Record, Trial, accuracy, epochs_to, mean_curve, seconds_to, worse_than_a_guess

from swathe import cli
from swathe.config import parse_overrides
from swathe.home import Home

YES, NO, OPEN = Verdict.CONFIRMED, Verdict.REFUTED, Verdict.NOT_SHOWN
Reports = Mapping[str, Sequence[float]]
World = Callable[[Mapping[str, Any]], Reports]


# Statistics.


def test_the_interval_of_a_mean_is_students() -> None:
    values = [0.91, 0.93, 0.9, 0.95, 0.92]
    found = statistics.interval(values)
    low, high = stats.t.interval(0.95, 4, loc=found.mean, scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.count == 5


def test_one_seed_has_no_bounds_and_what_is_not_finite_no_mean() -> None:
    assert statistics.interval([2.0]) == Interval(2.0, -math.inf, math.inf, 1)
    for values in ([], [1.0, math.inf], [math.nan]):
        assert math.isnan(statistics.interval(values).mean)
    assert statistics.interval([math.inf]).shown() == "none [none, none]"


def test_a_share_of_all_is_no_certainty() -> None:
    found = statistics.share(10, 10)
    assert found.mean == 1.0
    assert (found.low, found.high) == pytest.approx((0.7225, 1.0), abs=1e-4)  # Wilson's, 10 of 10


def test_differences_are_taken_by_seed() -> None:
    found = statistics.paired({0: 1.0, 1: 2.0, 2: 9.0}, {1: 1.5, 0: 0.5})
    assert (found.mean, found.low, found.high, found.count) == (0.5, 0.5, 0.5, 2)


@pytest.mark.parametrize(
    ("low", "high", "above", "below", "within"),
    [(1.1, 2.0, YES, NO, YES), (0.1, 0.9, NO, YES, NO), (0.5, 1.5, OPEN, OPEN, OPEN), (3.1, 4.0, YES, NO, NO)],
)
def test_the_whole_interval_decides(low: float, high: float, above: str, below: str, within: str) -> None:
    found = Interval((low + high) / 2, low, high, 5)
    assert statistics.above(found, 1.0) == above
    assert statistics.below(found, 1.0) == below
    assert statistics.within(found, 1.0, 3.0) == within


def test_what_has_no_mean_shows_nothing() -> None:
    nothing = statistics.interval([math.inf])
    assert {statistics.above(nothing, 0), statistics.below(nothing, 0), statistics.within(nothing, 0, 1)} == {OPEN}


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([3, 4, 3], [8, 9, 8], YES),
        ([8, 9, 8], [3, 4, 3], NO),
        ([3, 9, 5], [4, 5, 6], OPEN),
        ([3, 4, 3], [math.inf] * 3, YES),
        ([math.inf] * 3, [3, 4, 3], NO),
        ([3, 4, 3], [8, 9, math.inf], OPEN),
        ([math.inf] * 3, [math.inf] * 3, OPEN),
    ],
)
def test_what_never_gets_there_takes_for_ever(first: list[float], second: list[float], verdict: Verdict) -> None:
    assert statistics.sooner(dict(enumerate(first)), dict(enumerate(second))) == verdict


def test_one_part_that_is_refuted_refutes_and_all_must_be_confirmed() -> None:
    assert statistics.together([YES, YES]) == YES
    assert statistics.together([YES, OPEN]) == OPEN
    assert statistics.together([YES, OPEN, NO]) == NO
    assert statistics.together([]) == OPEN


def test_the_best_of_settings() -> None:
    assert statistics.highest({"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: 2.0}, "c": {0: 2.0, 1: 2.0}}) == "b"
    slow, torn, never = {0: 9.0, 1: 9.0}, {0: 1.0, 1: math.inf}, {0: math.inf, 1: math.inf}
    assert statistics.earliest({"never": never, "torn": torn, "slow": slow}) == "slow"
    assert statistics.earliest({"never": never, "torn": torn}) == "torn"


# What is measured of a trial.


def trial(params: Mapping[str, Any], reports: Reports, data: str = "digits") -> Trial:
    history = {metric: dict(enumerate(values, 1)) for metric, values in reports.items()}
    return Trial(params, "complete", history, {"data": {"name": data}})


def test_a_diverged_trial_is_worth_a_guess() -> None:
    lost = trial({"seed": 0}, {"val_accuracy": [0.8, math.nan], "val_loss": [1.0, math.nan]})
    assert (accuracy(lost), worse_than_a_guess(lost)) == (0.1, True)
    assert worse_than_a_guess(trial({"seed": 0}, {"val_loss": [1.0, 2.31]}))
    assert not worse_than_a_guess(trial({"seed": 0}, {"val_loss": [9.0, 2.3]}))


def test_the_first_epoch_at_the_target_counts() -> None:
    one = trial({"seed": 0}, {"val_accuracy": [0.5, 0.9, 0.8, 0.95], "seconds": [0.1, 0.2, 0.3, 0.4]})
    assert (epochs_to(one, 0.9), seconds_to(one, 0.9)) == (2, 0.2)
    assert (epochs_to(one, 0.99), seconds_to(one, 0.99)) == (math.inf, math.inf)


def test_a_mean_curve_ends_with_its_shortest_trial() -> None:
    curves = [trial({}, {"val_loss": values}) for values in ([3.0, 2.0, 1.0], [4.0, math.nan])]
    assert mean_curve(curves, "val_loss") == {1: [3.0, 4.0]}


def test_the_highest_rate_of_a_seed() -> None:
    found = normalization.highest_rates({0.01: {0: 0.95, 1: 0.3}, 0.1: {0: 0.95, 1: 0.3}, 1.0: {0: 0.2, 1: 0.3}})
    assert found == {0: -1.0, 1: pytest.approx(-2.5)}


def test_a_gradient_of_zero_has_a_logarithm() -> None:
    ratio = vanishing.log_ratio(trial({}, {"grad_norm_first": [0.0], "grad_norm_last": [1.0]}))
    assert ratio == pytest.approx(-44.85, abs=0.01)
    assert vanishing.log_ratio(trial({}, {"grad_norm_first": [0.0], "grad_norm_last": [0.0]})) == 0


def test_only_mnist_shows_what_is_said_of_mnist() -> None:
    scores = Interval(0.9799, 0.979, 0.981, 5)
    assert mnist_headline.accuracy_verdict("mnist", scores) == YES
    assert mnist_headline.accuracy_verdict("mnist", Interval(0.95, 0.94, 0.96, 5)) == NO
    assert mnist_headline.accuracy_verdict("fashion_mnist", scores) == OPEN


def test_only_fp16_shows_what_is_said_of_fp16() -> None:
    twice = Interval(2.0, 1.9, 2.1, 5)
    assert mixed_precision.speed_verdict("bf16", twice) == OPEN
    assert mixed_precision.speed_verdict("fp16", twice) == YES
    assert mixed_precision.speed_verdict("fp16", Interval(1.1, 1.0, 1.2, 5)) == NO


# The ready sweeps, and the rules on worlds made up for them.


@cache
def ready(name: str) -> dict[str, Any]:
    """Return a ready sweep's file; composing it all takes a second, and is tested elsewhere."""
    loaded: dict[str, Any] = yaml.safe_load((results.ROOT / "sweeps" / f"{name}.yaml").read_text())
    return loaded


@cache
def grid(name: str) -> list[dict[str, Any]]:
    """Return all points of a ready sweep, whose conditions have one level."""
    points: list[dict[str, Any]] = [{}]
    for key, text in ready(name)["sweep"]["space"].items():
        points = [{**point, key: value} for point in points for value in values(key, text)]
    for condition, searches in ready(name)["sweep"].get("when", {}).items():
        choice, _, option = condition.partition("=")
        for key, text in searches.items():
            drawn = [values(key, text) if str(point[choice]) == option else [None] for point in points]
            points = [{**point, key: value} for point, every in zip(points, drawn, strict=True) for value in every]
    return [{key: value for key, value in point.items() if value is not None} for point in points]


def values(key: str, text: str) -> list[Any]:
    """Return all values of a search."""
    (override,) = parse_overrides([f"{key}={text}"])
    search = override.value()
    return list(search.range() if isinstance(search, RangeSweep) else search.list)


# One is a search, and not a grid.
GRIDS = [name for name, claim in CLAIMS.items() if not claim.seeds]


@pytest.mark.parametrize("name", GRIDS)
def test_a_sweep_is_its_whole_grid_with_five_seeds_or_more_and_no_pruner(name: str) -> None:
    assert {"/sampler": "grid"} in ready(name)["defaults"]
    assert {"/pruner": "none"} in ready(name)["defaults"]
    assert ready(name)["sweep"]["trials"] == len(grid(name))
    seeds: dict[str, set[int]] = {}
    for point in grid(name):
        setting = repr(sorted((key, value) for key, value in point.items() if key != "seed"))
        seeds.setdefault(setting, set()).add(point["seed"])
    assert min(map(len, seeds.values())) >= 5


def ends(score: float, **more: Sequence[float]) -> dict[str, Sequence[float]]:
    """Return the reports of a trial of four epochs with this accuracy at the end; NaN has diverged."""
    loss = [2.0, 1.5, 1.2, math.nan if math.isnan(score) else 1.0]
    return {"val_accuracy": [0.1, 0.2, 0.3, score], "val_loss": loss, "train_loss": loss, **more}


def arrives(epoch: int, score: float = 0.97) -> dict[str, Sequence[float]]:
    """Return the reports of a trial that is at its accuracy from this epoch of 20 on, half a second each."""
    accuracies = [0.2 if one < epoch else score for one in range(1, 21)]
    return {"val_accuracy": accuracies, "val_loss": [0.5] * 20, "seconds": [one / 2 for one in range(1, 21)]}


def u_curve(point: Mapping[str, Any]) -> Reports:
    rate = point["optim.lr"]
    return ends(math.nan if rate == 1.0 else 0.97 if 1e-3 <= rate <= 1e-2 else 0.2 if rate == 1e-5 else 0.9)


def best_at_one(point: Mapping[str, Any]) -> Reports:
    return ends(0.97 if point["optim.lr"] == 1.0 else 0.5)


def has_a_method(point: Mapping[str, Any]) -> bool:
    return point["regularization"] != "none" or point["augmentation"] != "none"


def one_method_helps_half_the_seeds(point: Mapping[str, Any]) -> Reports:
    helps = has_a_method(point) and (point["regularization"] != "l2" or point["seed"] % 2 == 0)
    return {**ends(0.9), "train_loss": [0.8 if helps else 0.1] * 4}


def augmentation_makes_it_larger(point: Mapping[str, Any]) -> Reports:
    return gaps(point) if point.get("augmentation") != "images" else {**ends(0.9), "train_loss": [0.05] * 4}


def batches(point: Mapping[str, Any]) -> Reports:
    size = point["batch_size"]
    reports = arrives(12 if size == "full" else 4) if point["optim.lr"] == 0.1 else arrives(20)
    slow = 10.0 if size == 1 else 1.0
    return {**reports, "seconds": [slow * second for second in reports["seconds"]]}


def gradients(point: Mapping[str, Any], *, vanishing_ratio: float = 9.5e-7) -> Reports:
    plain = point["model.activation"] == "sigmoid" and point["model.norm"] == "none" and not point["model.residual"]
    ratio = vanishing_ratio * (1 + 0.01 * point["seed"]) if plain else 0.5
    return ends(0.1 if plain else 0.95, grad_norm_first=[ratio] * 4, grad_norm_last=[1.0] * 4)


def explosions(point: Mapping[str, Any]) -> Reports:
    fails = point["model.init"] == "he_normal" and point["regularization"] == "none"
    return ends(math.nan if fails else 0.95, grad_norm_max=[1e9 if fails else 3.0] * 4)


def gaps(point: Mapping[str, Any]) -> Reports:
    training = 0.8 if has_a_method(point) else 0.1
    return {**ends(0.9), "train_loss": [training + 0.001 * point["seed"]] * 4}


def batch_norm_stands_more(point: Mapping[str, Any]) -> Reports:
    return ends(0.95 if point["optim.lr"] <= (3.0 if point["model.norm"] == "batch" else 0.3) else math.nan)


def batch_norm_stands_less(point: Mapping[str, Any]) -> Reports:
    return ends(0.95 if point["optim.lr"] <= (0.03 if point["model.norm"] == "batch" else 0.3) else math.nan)


def schedules_help(point: Mapping[str, Any]) -> Reports:
    return ends(0.85 if point["schedule"] == "constant" else 0.87)


def one_schedule_hurts(point: Mapping[str, Any]) -> Reports:
    return ends({"constant": 0.85, "step": 0.84}.get(point["schedule"], 0.87))


def stops(point: Mapping[str, Any], *, lost: float = 0.002) -> Reports:
    epochs = 30 if point["regularization"] == "none" else 10 + point["regularization.patience"]
    score = 0.86 - (0 if epochs == 30 else lost)
    losses = {"val_loss": [1.0] * epochs, "train_loss": [0.5] * epochs}
    return {"val_accuracy": [score] * epochs, **losses}


def headline(point: Mapping[str, Any]) -> Reports:
    return {**arrives(10, 0.88), "train_loss": [0.4] * 20, "seconds": [24.0 * epoch for epoch in range(1, 21)]}


def fast_headline(point: Mapping[str, Any]) -> Reports:
    return {**headline(point), "seconds": [0.5 * epoch for epoch in range(1, 21)]}


def precisions(point: Mapping[str, Any], *, lost: float = 0.0, factor: float = 1.4) -> Reports:
    half = point["precision"] != "fp32"
    seconds = [epoch * (1 + 0.01 * point["seed"]) / (factor if half else 1.0) for epoch in range(1, 5)]
    return {**ends(0.86 - (lost if half else 0.0)), "seconds": seconds, "grad_norm": [1.0] * 4}


def optimisers(point: Mapping[str, Any]) -> Reports:
    name, rate = point["optim"], point["optim.lr"]
    epochs = {"sgd": 18, "momentum": 10}.get(name, 4)
    return arrives(epochs if rate >= (0.1 if name == "sgd" else 0.003) else 21)


def sgd_wins(point: Mapping[str, Any]) -> Reports:
    return arrives(2 if point["optim"] == "sgd" else 15)


def warmup_stands_more(point: Mapping[str, Any], *, with_warmup: float = 0.03, without: float = 0.003) -> Reports:
    """Return a transformer's reports: with the norm first no warm-up is needed."""
    most = with_warmup if point["schedule.warmup_steps"] or point["model.norm_first"] else without
    return ends(0.95 if point["optim.lr"] <= most else math.nan)


def small_rates_and_frozen_stages(point: Mapping[str, Any]) -> Reports:
    freeze, factor, rate = point.get("transfer.freeze"), point.get("transfer.rate", 1.0), point["optim.lr"]
    if freeze is None:
        return at_rate(rate, 1e-3, 0.8)
    return at_rate(rate, 1e-4 if factor == 1.0 else 1e-3, 0.85 if freeze == 0 else 0.9)


def at_rate(rate: float, best: float, score: float) -> Reports:
    """Return the reports of a network that is best at one rate."""
    loss = 0.5 + abs(math.log10(rate / best))
    return {"val_accuracy": [score - 0.1 * loss], "val_loss": [loss], "train_loss": [loss]}


WORLDS: list[tuple[str, World, Verdict]] = [
    ("learning_rate", u_curve, YES),
    ("learning_rate", best_at_one, NO),
    ("batch_size", batches, YES),
    ("batch_size", lambda point: arrives(4), OPEN),
    ("batch_size", lambda point: arrives(3 if point["batch_size"] in ("full", 1) else 9), NO),
    ("vanishing", gradients, YES),
    ("vanishing", lambda point: gradients(point, vanishing_ratio=1e-9), NO),
    ("exploding", explosions, YES),
    ("exploding", lambda point: ends(0.95, grad_norm_max=[3.0] * 4), NO),
    ("regularization", gaps, YES),
    ("regularization", one_method_helps_half_the_seeds, OPEN),
    ("regularization", augmentation_makes_it_larger, NO),
    ("normalization", batch_norm_stands_more, YES),
    ("normalization", batch_norm_stands_less, NO),
    ("normalization", lambda point: ends(0.95), OPEN),
    ("warmup", warmup_stands_more, YES),
    ("warmup", lambda point: warmup_stands_more(point, with_warmup=0.001), NO),
    ("warmup", lambda point: warmup_stands_more(point, with_warmup=0.003), OPEN),
    ("schedules", schedules_help, YES),
    ("schedules", one_schedule_hurts, NO),
    ("schedules", lambda point: ends(0.85), OPEN),
    ("early_stopping", stops, YES),
    ("early_stopping", lambda point: stops(point, lost=0.02), NO),
    ("mnist_headline", headline, OPEN),
    ("mnist_headline", fast_headline, NO),
    ("mixed_precision", precisions, OPEN),
    ("mixed_precision", lambda point: precisions(point, lost=0.02), NO),
    ("mixed_precision", lambda point: precisions(point, factor=0.7), NO),
    ("fine_tuning", small_rates_and_frozen_stages, YES),
    ("fine_tuning", lambda point: at_rate(point["optim.lr"], 1e-3, 0.9 - 0.1 * point.get("transfer.freeze", 0)), NO),
    ("fine_tuning", lambda point: ends(math.nan if point["optim.lr"] == 0.01 else 0.9), OPEN),
    ("optimizers_compared", optimisers, YES),
    ("optimizers_compared", sgd_wins, NO),
]


@pytest.mark.parametrize(("name", "world", "verdict"), WORLDS)
def test_the_verdict_of_a_world(name: str, world: World, verdict: Verdict) -> None:
    trials = [trial(point, world(point), "fashion_mnist") for point in grid(name)]
    finding = CLAIMS[name].read(trials)
    assert finding.verdict == verdict, [part for part in finding.parts if part.verdict != verdict]
    assert all(len(row) == len(finding.header) for row in finding.rows)
    for chart in finding.charts.values():
        picture = charts.svg(chart)
        ElementTree.fromstring(picture)
        assert "nan" not in picture
        assert len(picture) < 150_000


def test_every_claim_has_a_world_that_confirms_or_refutes_it() -> None:
    assert {name for name, _, verdict in WORLDS if verdict != OPEN} == set(GRIDS)


@pytest.mark.parametrize(("score", "pruned_at", "verdict"), [(0.98, 4, YES), (0.96, 4, NO), (0.98, 19, NO)])
def test_the_verdict_of_a_search(score: float, pruned_at: int, verdict: Verdict) -> None:
    trials = []
    for seed in range(5):
        for number in range(10):
            epochs = 20 if number == 3 else pruned_at
            losses = [1.0 - 0.01 * epoch - 0.001 * seed for epoch in range(epochs)]
            reports = {"val_loss": losses, "val_accuracy": [score + 0.0001 * seed] * epochs}
            made = trial({"sweep.seed": seed, "optim.lr": 0.1}, reports)
            state = "complete" if number == 3 else f"pruned at step {epochs}"
            trials.append(replace(made, state=state, config={"epochs": 20}))
    finding = CLAIMS["quickstart"].read(trials)
    assert finding.verdict == verdict
    assert [row[0] for row in finding.rows] == list("01234")
    ElementTree.fromstring(charts.svg(finding.charts[""]))


def test_a_search_is_launched_once_a_seed() -> None:
    launches = CLAIMS["quickstart"].launches
    assert launches[1] == ("quickstart-1", ["sweep.seed=1", "sweep.name=quickstart-1"])
    assert CLAIMS["normalization"].launches == [("normalization", [])]


# Charts and pages.


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.5, 2000.0, ["1", "10", "100", "1000"]),
        (1.8, 17.4, ["2", "5", "10"]),
        (689.0, 1265.0, ["800", "1000", "1200"]),
    ],
)
def test_an_axis_in_logarithms_has_numbers_however_short_it_is(low: float, high: float, ticks: list[str]) -> None:
    series = charts.Series("", {0.0: Interval(low, low, low, 1), 1.0: Interval(high, high, high, 1)})
    drawn = ElementTree.fromstring(
        charts.svg(charts.Chart("", charts.Axis("", names=["a", "b"]), charts.Axis("", log=True), [series]))
    )
    texts = [element.text for element in drawn.iter() if element.tag.endswith("text")]
    assert [text for text in texts if text and text.replace(".", "").isdigit()] == ticks


def test_a_chart_leaves_out_what_its_axis_cannot_show() -> None:
    points = {1.0: Interval(0.5, -0.1, 1.1, 5), 10.0: Interval(math.nan, math.nan, math.nan, 5)}
    axes = charts.Axis("a < b", log=True), charts.Axis("loss", log=True)
    picture = charts.svg(charts.Chart("title", *axes, [charts.Series("adam", points)]))
    assert picture.count("<title>") == 1
    assert "a &lt; b" in picture
    with pytest.raises(ValueError, match="has no point"):
        charts.svg(charts.Chart("empty", *axes, [charts.Series("none", {1.0: Interval(0.0, 0.0, 0.0, 5)})]))


def test_a_page_has_the_claim_the_verdict_the_rule_and_the_sweep() -> None:
    claim = CLAIMS["normalization"]
    trials = [trial(point, batch_norm_stands_more(point)) for point in grid("normalization")]
    made = {"engine": "lanes", "torch": "2.8.0", "python": "3.11.1", "device_name": "AVX2"}
    text = page(claim, claim.read(trials), Record(trials, [made] * len(trials)), "epochs: 20\n")
    assert "**Verdict: confirmed.**" in text
    for part in (
        claim.text,
        claim.rule,
        "![",
        "normalization.svg",
        "```yaml\nepochs: 20\n```",
        "120 trials: 120 complete",
    ):
        assert part in text


def test_every_page_that_is_there_is_of_a_claim_and_says_its_rule() -> None:
    for path in results.PAGES.glob("*.md"):
        text = path.read_text()
        assert CLAIMS[path.stem].rule in text, f"run: make results, as the rule of {path.stem} has changed"
        sweep = (results.ROOT / "sweeps" / f"{path.stem}.yaml").read_text()
        assert sweep.rstrip() in text, f"run: make results, as the sweep {path.stem} has changed"


@pytest.mark.slow
def test_a_page_is_made_from_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.setenv("SWATHE_HOME", str(home.path))
    monkeypatch.chdir(results.ROOT)
    assert not results.is_complete(home, "learning_rate", "learning_rate")
    assert cli.run(["launch", "learning_rate", "cluster=inline", "--quiet"]) == 0
    assert results.is_complete(home, "learning_rate", "learning_rate")
    finding = results.write(CLAIMS["learning_rate"], home, tmp_path / "pages")
    text = (tmp_path / "pages" / "learning_rate.md").read_text()
    assert f"**Verdict: {finding.verdict}.**" in text
    assert "110 trials" in text
    assert (tmp_path / "pages" / "learning_rate.svg").stat().st_size < 150_000
