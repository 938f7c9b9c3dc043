"""Networks of the user's own: alone and as lanes the same, or alone with a line that says why, or refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swathe.errors import BadInputError
from swathe.training import lane_compiler, lanes, own_source, solo
from swathe.training.data import Dataset, load
from swathe.training.lane_plan import Planner
from swathe.training.lanes import LaneBlock, geometry_of
from swathe.training.own_source import check_call, copy_source, source_digest
from swathe.training.recipe import TIMING_METRICS, Data, Own, Recipe, model_name, recipe_from_config
from swathe.training.solo import Solo
from swathe.training.structure import can_lane, is_slow_to_trace, structural_key

HERE = "tests.training.own_networks"
Metrics = dict[str, float]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own") / "data"


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Train in float64, alone and as lanes."""

    def in_doubles(data: Data, cache: Path) -> Dataset:
        found = load(data, cache)
        return replace(found, train_x=found.train_x.double(), val_x=found.val_x.double())

    monkeypatch.setattr(solo, "load", in_doubles)
    monkeypatch.setattr(lanes, "load", in_doubles)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def recipe(name: str, seed: int = 0, data: dict[str, Any] | None = None, **arguments: Any) -> Recipe:
    return recipe_from_config(
        {
            "model": {"_target_": f"{HERE}.{name}", **arguments},
            "data": {"limit": 200, **(data or {})},
            "optim": {"name": "momentum", "lr": 0.01 * (1 + seed)},
            "batch_size": 32,
            "epochs": 2,
            "seed": seed,
        }
    )


def lane_note(one: Recipe, cache: Path) -> str | None:
    return can_lane(one, geometry_of(one, load(one.data, cache), "cpu"))


def untimed(metrics: Metrics) -> Metrics:
    return {name: value for name, value in metrics.items() if name not in TIMING_METRICS}


def alone(one: Recipe, cache: Path) -> tuple[list[Metrics], dict[str, torch.Tensor]]:
    run = Solo(one, "cpu", cache)
    return [untimed(metrics) for _, metrics, _ in run.reports(lambda: False)], run.state_dict()


def as_lanes(recipes: list[Recipe], cache: Path, **options: Any) -> tuple[list[list[Metrics]], LaneBlock]:
    block = LaneBlock(recipes[0], len(recipes), "cpu", cache, **options)
    histories: list[list[Metrics]] = [[] for _ in recipes]
    for tag, one in enumerate(recipes):
        block.admit(one, tag)
    while block.tags:
        for report in block.epoch(lambda tag: False):
            histories[report.tag].append(untimed(report.metrics))
    return histories, block


@pytest.mark.parametrize("name", ["Convolutional", pytest.param("Encoder", marks=pytest.mark.slow), "small"])
def test_a_lane_gives_what_the_trial_gives_alone(name: str, cache: Path, doubles: None) -> None:
    recipes = [recipe(name, seed) for seed in range(3)]
    histories, block = as_lanes(recipes, cache, compiled=False, dtype=torch.float64)
    for tag, one in enumerate(recipes):
        history, state = alone(one, cache)
        for ours, theirs in zip(histories[tag], history, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-10, abs=1e-10)
        found = block.state_dict(tag)
        assert found.keys() == {key for key in state if not key.endswith("num_batches_tracked")}
        for key, value in found.items():
            assert value.dtype == state[key].dtype
            assert torch.allclose(value, state[key], rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.skipif(bool(lane_compiler.no_compiler()), reason="there is no C++ compiler")
def test_compiled_it_is_its_run_alone_and_its_bits_do_not_depend_on_the_neighbours(cache: Path) -> None:
    recipes = [recipe("Convolutional", seed) for seed in range(3)]
    histories, block = as_lanes(recipes, cache)
    assert block.compiled, block.note
    assert as_lanes(recipes[2:], cache)[0] == histories[2:]
    for one, ours in zip(recipes, histories, strict=True):
        for mine, theirs in zip(ours, alone(one, cache)[0], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def test_the_weights_are_the_seed_s_and_the_global_streams_stay(cache: Path) -> None:
    before = torch.random.get_rng_state()
    np.random.seed(5)
    one, again, other = (Solo(recipe("Convolutional", seed), "cpu", cache).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], again[key]) for key in one)
    for key in ("features.0.weight", "scale", "shift"):
        assert not torch.equal(one[key], other[key])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.random.rand() == np.random.RandomState(5).rand()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Draws", "the network: draws random numbers of its own"),
        ("Decides", "the network: takes decisions on values (data-dependent control flow)"),
        ("Holds", "table: is a tensor that is no parameter and no buffer"),
        ("Frozen", "layer.weight: is frozen (requires_grad is False)"),
    ],
)
def test_what_cannot_be_a_lane_is_trained_alone_and_says_why(name: str, reason: str, cache: Path) -> None:
    one = recipe(name)
    assert lane_note(one, cache) == f"{reason}, so the trial is trained alone."
    # Twice, beside draws of others: what it draws is the trial's own.
    first = alone(one, cache)[0]
    torch.rand(3)
    assert alone(one, cache)[0] == first
    assert first[-1]["train_loss"] < first[0]["first_loss"]


def test_one_alone_goes_on_bit_for_bit(cache: Path) -> None:
    for name in ("Draws", "Convolutional"):
        whole = alone(recipe(name), cache)[0]
        run = Solo(recipe(name), "cpu", cache)
        next(run.reports(lambda: False))
        other = Solo(recipe(name), "cpu", cache)
        other.resume(run.cut())
        assert [untimed(metrics) for _, metrics, _ in other.reports(lambda: False)] == whole[1:]


def test_a_lane_goes_on_in_another_block_bit_for_bit(cache: Path) -> None:
    recipes = [recipe("Convolutional", seed) for seed in range(2)]
    whole, _ = as_lanes(recipes, cache, compiled=False)
    first, second = (LaneBlock(recipes[0], 2, "cpu", cache, compiled=False) for _ in range(2))
    first.admit(recipes[1], 1)
    first.epoch(lambda tag: False)
    second.admit(recipes[1], 1, first.cut(1))
    (report,) = second.epoch(lambda tag: False)
    assert untimed(report.metrics) == whole[1][1]


def test_what_no_look_tells_is_found_by_tracing_it(cache: Path) -> None:
    plan = Planner("cpu", cache, slots=4, compile="never", memory_fraction=0.5).plan(recipe("Closure"))
    assert (plan.lanes, plan.program) == (1, "solo")
    assert plan.note.startswith("lanes of this network cannot be traced (")


def test_a_frozen_layer_stays_and_one_that_is_not_called_too(cache: Path) -> None:
    run = Solo(recipe("Frozen"), "cpu", cache, layers=True)
    before = run.state_dict()
    ((_, metrics, _), _) = run.reports(lambda: False)
    after = run.state_dict()
    assert torch.equal(before["layer.weight"], after["layer.weight"])
    assert not torch.equal(before["output.weight"], after["output.weight"])
    assert metrics["dead_units"] == 0.0


@pytest.mark.parametrize(
    ("name", "arguments", "refusal"),
    [
        ("Pair", {}, "returns a tuple for a batch [2, 1, 8, 8]; allowed: one tensor [2, 10]"),
        (
            "Linear",
            {"out_features": 7},
            "returns the shape [2, 7] for a batch [2, 1, 8, 8]; allowed: one tensor [2, 10]",
        ),
        ("Linear", {"in_features": 65}, "cannot take a batch [2, 1, 8, 8]: RuntimeError"),
        ("Needs", {}, "model.depth: None is not allowed; allowed: a value, as"),
        ("Raises", {"width": 4}, "Raises(width=4) raises ValueError: no width 4."),
        ("Half", {}, "is of torch.float16; allowed: parameters of torch.float32."),
        ("Nothing", {}, "has no parameters to train"),
        ("text", {}, "what returns an nn.Module, and no str"),
        ("Linear", {"hiden": 3}, "model.hiden: 3 is not allowed; allowed: the arguments of"),
        ("NoNetwork", {}, "a class of torch.nn.Module, or a function that returns one"),
        ("Missing", {}, f"the networks of {HERE}: Convolutional, Encoder"),
        ("Linear", {"in_features": float("nan")}, "a finite number, a text, true, false, null, or a list of those"),
    ],
)
def test_what_is_no_network_for_the_data_is_refused(
    name: str, arguments: dict[str, Any], refusal: str, cache: Path
) -> None:
    with pytest.raises(BadInputError) as error:
        Solo(recipe(name, **arguments), "cpu", cache)
    assert refusal in str(error.value)


@pytest.mark.parametrize("target", ["", "Net", "a..b", "1.x", "no_such_module_here.Net"])
def test_a_path_of_nothing_is_refused(target: str) -> None:
    with pytest.raises(BadInputError, match=r"model\._target_"):
        check_call(recipe_from_config({"model": {"_target_": target}}))


def test_what_swathe_does_to_its_own_networks_is_refused() -> None:
    model = {"_target_": f"{HERE}.small"}
    for more in ({"regularization": {"dropout": 0.1}}, {"transfer": {"name": "fine_tune"}}):
        with pytest.raises(BadInputError, match="with a model of your own"):
            recipe_from_config({"model": model, **more})


def test_each_kind_of_data_offers_its_sizes(cache: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    lines = (f"{step},{step % 7},{step % 3},{step // 20}" for step in range(80))
    rows.write_text("\n".join(["a,b,y,id", *lines]))
    texts = tmp_path / "texts.csv"
    texts.write_text("\n".join(["text,label", *(f"{'ab' if row % 2 else 'cd'} {row},{row % 2}" for row in range(60))]))
    series = {"name": "series", "path": str(rows), "target": "y", "length": 4, "task": "regression", "limit": None}
    words = {"name": "text", "path": str(texts), "target": "label", "length": 6, "limit": None}
    for data, name in ((series, "Sequence"), (words, "Sequence"), ({"name": "breast_cancer"}, "Linear")):
        one = recipe(name, data=data)
        check_call(one)
        assert lane_note(one, cache) is None
        assert alone(one, cache)[0]


def test_the_key_holds_target_arguments_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, same, other = recipe("small", hidden=5), recipe("small", seed=1, hidden=5), recipe("small", hidden=6)
    assert structural_key(one) == structural_key(same) != structural_key(other)
    monkeypatch.setattr("swathe.training.structure.source_digest", lambda target: "other")
    assert '"other"' in structural_key(one)
    assert model_name({"name": "own", "_target_": "a.b.Net"}) == "Net"
    assert isinstance(one.model, Own)


def test_the_digest_follows_the_imports_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pack_of_nets"
    package.mkdir()
    files = {
        package / "__init__.py": "",
        package / "net.py": "import torch\nfrom .parts import layer\nfrom pack_of_nets import more\nclass Net: ...\n",
        package / "parts.py": "def layer(): return 1\n",
        package / "more.py": "import beside_the_pack\n",
        package / "unrelated.py": "x = 1\n",
        tmp_path / "beside_the_pack.py": "y = 1\n",
    }
    for path, content in files.items():
        path.write_text(content)
    monkeypatch.syspath_prepend(tmp_path)

    def digest() -> str:
        source_digest.cache_clear()
        return source_digest("pack_of_nets.net.Net")

    before = digest()
    (package / "unrelated.py").write_text("x = 2\n")
    assert digest() == before
    for path in (package / "net.py", package / "parts.py", package / "more.py", tmp_path / "beside_the_pack.py"):
        path.write_text(path.read_text() + "# changed\n")
        assert digest() != before
        before = digest()
    copied = copy_source("pack_of_nets.net.Net", tmp_path / "copy")
    assert [Path(path).name for path in copied] == ["beside_the_pack.py", "pack_of_nets"]
    assert not (tmp_path / "copy" / "pack_of_nets" / "unrelated.py").exists()


def test_of_an_installed_package_the_version_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    source_digest.cache_clear()
    before = source_digest("torch.nn.Linear")
    monkeypatch.setattr(own_source, "version", lambda name: "0.0")
    source_digest.cache_clear()
    assert source_digest("torch.nn.Linear") != before
    assert source_digest("no_such_module_here.Net") == ""
    source_digest.cache_clear()


def test_a_network_of_many_layers_is_slow_to_trace(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = recipe("small")
    geometry = geometry_of(one, load(one.data, cache), "cpu")
    assert not is_slow_to_trace(one, geometry)
    monkeypatch.setattr("swathe.training.structure._MOST_LAYERS", 2)
    assert is_slow_to_trace(one, geometry)
    assert not is_slow_to_trace(one)


def test_arguments_are_values_that_a_record_can_hold() -> None:
    for key, value in itertools.product(("hidden",), ([1, 2], "tanh", None, True, 0.5, {"a": 1})):
        assert recipe_from_config({"model": {"_target_": "a.Net", key: value}}).model == Own(
            target="a.Net", arguments={key: value}
        )
