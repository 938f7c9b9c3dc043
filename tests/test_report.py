"""The report's arithmetic against brute force and SciPy, the space it suggests, and that no text of a sweep is HTML."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy import stats as scipy_stats

from swathe.config import compose_sweep
from swathe.events import Direction, TrialState
from swathe.objectives import Goal, Objective
from swathe.reporting import charts, sections
from swathe.reporting.facts import Curve, SweepFacts, axis, fate
from swathe.reporting.page import page
from swathe.reporting.sections import Again
from swathe.reporting.stats import (
    BINS,
    Axis,
    Fate,
    SweptTrial,
    best_of,
    bound_for_bad,
    by_bin,
    expected_best,
    mean_interval,
    roles,
    saved,
    scores,
    share_interval,
)
from swathe.reporting.suggest import search_text, suggest
from swathe.reporting.write import other_seeds
from swathe.space import Space
from swathe.study import PastTrial

LR = Axis("optim.lr", low=1e-4, high=1.0, log=True)
OPTIM = Axis("optim", choices=("sgd", "momentum", "adam", "adamw"))


def trial(number: int, value: float | None, state: Fate = Fate.COMPLETE, /, **params: Any) -> SweptTrial:
    named = {key.replace("_", ".", 1): setting for key, setting in params.items()}
    return SweptTrial(number, named, state, 2.3, value, step=4, planned=20, seconds=2.0)


# Bins.


@pytest.mark.parametrize(
    ("distribution", "labels"),
    [
        (CategoricalDistribution(["none", None, True]), ["none", "None", "True"]),
        (IntDistribution(1, 4), ["1", "2", "3", "4"]),
        (FloatDistribution(0.0, 0.5, step=0.25), ["0", "0.25", "0.5"]),
        (FloatDistribution(1e-4, 1e4, log=True), ["0.0001 to 0.001", "0.001 to 0.01", "0.01 to 0.1"]),
        (IntDistribution(0, 160), ["0 to 20", "20 to 40"]),
        (FloatDistribution(0.5, 0.5), ["0.5"]),
    ],
)
def test_the_parts_of_an_axis(distribution: Any, labels: list[str]) -> None:
    assert [part.label for part in axis("x", distribution).bins()][: len(labels)] == labels


def test_each_value_lies_in_its_part() -> None:
    assert [LR.bin_of(value) for value in (1e-4, 0.00011, 0.9, 1.0)] == [0, 0, BINS - 1, BINS - 1]
    assert [OPTIM.bin_of(value) for value in ("sgd", "adamw", "rmsprop")] == [0, 3, None]
    assert LR.bin_of(math.nan) is None
    assert LR.bin_of("text") is None


@given(
    low=st.floats(1e-6, 1e3),
    factor=st.floats(1.01, 1e6),
    place=st.floats(0.0, 1.0),
    log=st.booleans(),
    step=st.sampled_from([None, "grid"]),
)
def test_any_value_of_a_range_has_a_part_that_holds_it(
    low: float, factor: float, place: float, log: bool, step: str | None
) -> None:
    high = low * factor
    span = Axis("x", low=low, high=high, log=log, step=(high - low) / 5 if step and not log else None)
    value = low + round(place * 5) * span.step if span.step else min(high, low + place * (high - low))
    index = span.bin_of(value)
    assert index is not None
    part = span.bins()[index]
    assert part.low is not None
    assert part.high is not None
    room = 1e-9 * high
    assert part.low - room <= value <= part.high + room


def test_trials_by_part_and_the_best_of_each() -> None:
    trials = [
        trial(0, 0.5, optim="sgd"),
        trial(1, 0.4, optim="adam"),
        trial(2, 0.1, Fate.PRUNED, optim="adam"),
        trial(3, 0.4, optim="adam"),
        trial(4, 0.2, batch_size=64),
    ]
    groups = by_bin(OPTIM, trials)
    assert [[one.number for one in group] for group in groups] == [[0], [], [1, 2, 3], []]
    best = best_of(groups[2], maximize=False)
    assert best is not None
    assert best.number == 1, "a pruned trial does not win, and of equals the first does"


# Best of n.


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("values", [[0.3], [3.0, 1.0, 2.0, 2.0], [5.0, -1.0, 0.5, 0.25]])
def test_the_expected_best_of_n_is_that_of_all_draws(values: list[float], maximize: bool) -> None:
    best = max if maximize else min
    for n, expected in enumerate(expected_best(values, maximize=maximize), start=1):
        draws = [best(draw) for draw in itertools.product(values, repeat=n)]
        assert expected == pytest.approx(fmean(draws), rel=1e-12)


def test_a_useless_trial_counts_as_the_first_report_of_the_median_trial() -> None:
    trials = [trial(0, 0.1), trial(1, 90.0), trial(2, None, Fate.DIVERGED), trial(3, 0.7, Fate.PRUNED), trial(4, 0.2)]
    bad = bound_for_bad(trials, maximize=False)
    assert bad == 2.3
    assert scores(trials, bad, maximize=False) == [0.1, 2.3, 2.3, 0.7, 0.2]
    assert scores(trials, 0.15, maximize=True) == [0.15, 90.0, 0.15, 0.7, 0.2]
    assert bound_for_bad([], maximize=False) is None


# Intervals.


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9).filter(lambda values: max(values) - min(values) > 1e-3))
def test_the_interval_of_a_mean_is_students(values: list[float]) -> None:
    mean, found = mean_interval(values)
    low, high = scipy_stats.t.interval(0.95, len(values) - 1, loc=fmean(values), scale=scipy_stats.sem(values))
    assert (mean, found.low, found.high) == pytest.approx((fmean(values), low, high), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("hits", "draws"), [(1, 5), (3, 5), (1, 100), (4, 5)])
def test_the_interval_of_a_share_is_wilsons(hits: int, draws: int) -> None:
    found = share_interval(hits, draws)
    known = scipy_stats.binomtest(hits, draws).proportion_ci(0.95, "wilson")
    assert (found.low, found.high) == pytest.approx((known.low, known.high), rel=1e-9)


def test_without_a_hit_the_rule_of_three_says_how_many_there_could_be() -> None:
    assert share_interval(0, 300).high == pytest.approx(3 / 300, rel=0.01)
    # The share that shows none in 5 with a chance of 5 %.
    assert (1 - share_interval(0, 5).high) ** 5 == pytest.approx(0.05)
    assert share_interval(5, 5).low == pytest.approx(1 - share_interval(0, 5).high)
    assert share_interval(0, 0).high == 1.0


# Roles, fates, pruning.


def test_the_roles_of_parameters() -> None:
    names = ("optim", "optim.lr", "model.norm", "batch_size", "regularization.dropout")
    axes = {name: Axis(name) for name in names}
    found = roles(axes, {"optim"}, (), function=False)
    assert found.scientific == ("optim", "model.norm", "batch_size")
    assert found.nuisance == ("optim.lr", "regularization.dropout")
    assert roles(axes, {"optim"}, ("optim.lr",), function=False).scientific == ("optim.lr",)
    own = {"params.kind": Axis("params.kind", choices=("a", "b")), "params.x": Axis("params.x")}
    assert roles(own, (), (), function=True).scientific == ("params.kind",)


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        (TrialState.COMPLETE, "reached the target at step 3", Fate.COMPLETE),
        (TrialState.PRUNED, "pruned at step 4", Fate.PRUNED),
        (TrialState.PRUNED, "diverged: val_loss is nan at step 1", Fate.DIVERGED),
        (TrialState.PRUNED, "stopped at step 4: 60 s have passed", Fate.STOPPED),
        (TrialState.FAILED, "ValueError: no", Fate.FAILED),
    ],
)
def test_how_a_trial_ended(state: TrialState, reason: str, expected: Fate) -> None:
    assert fate(PastTrial(0, {}, state, None, {}, {"reason": reason})) is expected


def test_what_pruning_saved() -> None:
    found = saved([trial(0, 0.1), trial(1, 0.5, Fate.PRUNED), trial(2, 0.6, Fate.PRUNED), trial(3, None, Fate.FAILED)])
    assert (found.trials, found.steps, found.trained) == (2, 32, 16)
    assert found.share == pytest.approx(32 / 48)
    assert found.seconds == pytest.approx(16.0), "a pruned trial's step cost half a second"


def test_other_seeds_have_31_bits() -> None:
    assert other_seeds(2**31 - 2) == [2**31 - 1, 0, 1, 2, 3]


# The suggested space.


def recorded(name: str, *overrides: str) -> dict[str, Any]:
    """Return a sweep's config as MLflow has it: through YAML."""
    loaded: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(compose_sweep(name, overrides).values)))
    return loaded


def crowded(name: str, values: Sequence[float]) -> list[SweptTrial]:
    """Make 60 trials, the best of which have the first ones of `values`."""
    return [
        SweptTrial(
            number, {"optim": "momentum", name: values[number % len(values)]}, Fate.COMPLETE, 2.3, value, 5, 5, 1.0
        )
        for number, value in enumerate(number / 100 for number in range(60))
    ]


def parsed(text: str, folder: Path) -> Space:
    path = folder / "wider.yaml"
    path.write_text(text)
    composed = compose_sweep(str(path), ())
    assert composed.values["epochs"] == 5, "what the config says besides its space is in the new sweep, too"
    return Space.parse(composed)


SWEEP = """
defaults: [/optim: sgd, _self_]
epochs: 5
model: {hidden: [32]}
sweep:
  trials: 60
  space: {optim: "choice(sgd, momentum)", optim.lr: "tag(log, interval(1e-4, 1))", model.norm: "choice(none, layer)"}
  when:
    optim=momentum: {optim.momentum: "interval(0.5, 0.99)"}
"""


def test_the_suggested_sweep_is_one_that_launch_accepts(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SWEEP)
    composed = compose_sweep(str(path), ())
    before = Space.parse(composed).parameters
    axes = {name: axis(name, parameter.distribution) for name, parameter in before.items()}
    places = [1.0, 0.99, 0.8, 0.9, *(10 ** (-4 + 3.5 * i / 56) for i in range(56))]
    found = suggest("q", recorded(str(path)), axes, crowded("optim.lr", places), maximize=False)
    after = parsed(found.yaml, tmp_path).parameters
    assert after["optim.lr"].distribution.high == found.widenings[0].end == 100.0
    assert after.keys() == before.keys()
    for name, parameter in before.items():
        if name != "optim.lr":
            assert after[name].distribution == parameter.distribution
            assert after[name].conditions == parameter.conditions


@pytest.mark.parametrize(("start", "end"), [(0.6, 0.9), (0.9, 0.96), (0.999, None)])
def test_an_end_moves_as_far_as_the_config_allows(start: float, end: float | None, tmp_path: Path) -> None:
    path = tmp_path / "dropout.yaml"
    path.write_text(f"epochs: 5\nsweep: {{space: {{regularization.dropout: 'interval(0.0, {start})'}}}}\n")
    known = {"regularization.dropout": Axis("regularization.dropout", low=0.0, high=start)}
    places = [start, 0.995 * start, 0.98 * start, 0.99 * start, *(0.9 * start * i / 56 for i in range(56))]
    found = suggest("d", recorded(str(path)), known, crowded("regularization.dropout", places), maximize=False)
    assert [(side.low, side.start, side.end) for side in found.widenings] == [(False, start, end)]
    if end is not None:
        assert parsed(found.yaml, tmp_path).parameters["regularization.dropout"].distribution.high == end
    else:
        assert found.yaml == ""


def test_a_space_without_crowded_edges_has_no_suggestion() -> None:
    values = [10 ** (-4 + 4 * ((7 * i) % 60) / 60) for i in range(60)]
    assert suggest("q", {}, {"optim.lr": LR}, crowded("optim.lr", values), maximize=False).widenings == ()


@pytest.mark.parametrize(
    ("key", "distribution"),
    [
        ("optim.lr", FloatDistribution(1e-05, 0.1, log=True)),
        ("regularization.dropout", FloatDistribution(0.0, 0.5)),
        ("regularization.dropout", FloatDistribution(0.1, 0.5, step=0.1)),
        ("epochs", IntDistribution(2, 30)),
        ("epochs", IntDistribution(2, 32, step=6)),
        ("epochs", IntDistribution(2, 64, log=True)),
        ("schedule.warmup_steps", IntDistribution(0, 500, step=100)),
    ],
)
def test_a_range_is_written_as_it_is_read(key: str, distribution: Any, tmp_path: Path) -> None:
    known = axis(key, distribution)
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump({"sweep": {"space": {key: search_text(known, known.low, known.high)}}}))
    assert axis(key, Space.parse(compose_sweep(str(path), ())).parameters[key].distribution) == known


# The page.

HOSTILE = "</script><img src=x onerror=alert(1)>&"


def facts(*, config: Mapping[str, Any] | None = None, trials: Sequence[SweptTrial] | None = None) -> SweepFacts:
    if trials is None:
        trials = [
            SweptTrial(number, {HOSTILE: (HOSTILE, "b")[number % 2], "x": number / 12}, state, 2.3, value, 4, 20, 2.0)
            for number, (state, value) in enumerate(
                [(Fate.COMPLETE, 0.5 / (number + 1)) for number in range(8)]
                + [(Fate.PRUNED, 0.9), (Fate.DIVERGED, None), (Fate.FAILED, None), (Fate.STOPPED, 1.0)]
            )
        ]
    return SweepFacts(
        name="s",
        status="finished: all 12 trials are done",
        metric=f"loss {HOSTILE}",
        direction=Direction.MINIMIZE,
        command=f"swathe launch {HOSTILE}",
        config=dict(config or {"sweep": {}}),
        trials=tuple(trials),
        unfinished=1,
        runs={},
        axes={HOSTILE: Axis(HOSTILE, choices=(HOSTILE, "b")), "x": Axis("x")},
        groups=frozenset(),
        importances={HOSTILE: 0.75, "x": 0.25},
        fixed={HOSTILE: HOSTILE},
        varied=(HOSTILE,),
        curves=(Curve(7, f"loss {HOSTILE}", (1, 2), (0.2, math.inf)),),
        seconds=75.0,
        goal=Goal((Objective(f"loss {HOSTILE}", Direction.MINIMIZE),)),
    )


def whole_page(known: SweepFacts, again: Again) -> str:
    named = roles(known.axes, known.groups, (HOSTILE,), function=False)
    found = suggest("s", known.config, known.axes, known.trials, maximize=False)
    return page(HOSTILE, sections.headline(known), sections.build(known, named, HOSTILE, found, again), known.command)


def test_no_text_of_the_sweep_is_html_on_the_page() -> None:
    text = whole_page(facts(), Again(None, HOSTILE, None, HOSTILE))
    assert "<img" not in text
    assert text.count("</script><img") == 0
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&amp;" in text


def test_the_page_opens_offline_with_plotly_in_it_once() -> None:
    text = whole_page(facts(), Again(None, "", None, ""))
    assert text.count("plotly.js v") == 1
    assert "<script src=" not in text
    assert "<link" not in text


def test_the_sections_stand_in_their_order_each_with_its_sentence() -> None:
    known = facts()
    found = sections.build(
        known, roles(known.axes, (), (), function=False), "Rule.", suggest("s", {}, known.axes, (), maximize=False),
        Again(None, "it was not asked for", None, "it was not asked for"),
    )  # fmt: skip
    assert [section.title for section in found] == [
        "Best config",
        "Reproduce",
        "Parameter importance",
        "Isolation plots",
        "Edges of the space",
        "Training curves",
        "Where trials diverge",
        "Scientific, nuisance, fixed",
        "Best of n trials",
        "What pruning saved",
    ]
    assert all(section.sentence.endswith(".") for section in found)
    assert "not known: it was not asked for." in found[0].sentence
    assert "1 of 11 trials diverged (9.1\u00a0%)" in found[6].sentence
    assert "16 of 64 epochs (25\u00a0%)" in found[9].sentence


def test_a_sweep_in_which_nothing_completed_has_a_report_too() -> None:
    known = facts(trials=[SweptTrial(0, {"x": 0.5}, Fate.FAILED, None, None, 0, None, 0.0)])
    text = whole_page(known, Again(None, "no", None, "no"))
    assert "No trial completed" in text


@pytest.mark.parametrize(
    ("seconds", "words"), [(8.24, "8.2 s"), (59.97, "1 min 0 s"), (185.0, "3 min 5 s"), (7800.0, "2 h 10 min")]
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert sections.duration(seconds) == words


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.04, 1.2, [0.05, 0.1, 0.2, 0.5, 1.0]), (1e-4, 1.0, [1e-4, 1e-3, 1e-2, 0.1, 1.0]), (3.1, 3.2, [])],
)
def test_ticks_of_logarithmic_axes_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert charts.log_ticks(low, high, most=6) == ticks
