"""A GPU's form of a compiled program, an archive of kernels and their launches, made here for a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from swathe.training import lane_compiler
from swathe.training.data import load
from swathe.training.lane_program import Network, Program
from swathe.training.lanes import LaneBlock, geometry_of
from swathe.training.recipe import TIMING_METRICS, Recipe, recipe_from_config


def recipe(seed: int) -> Recipe:
    model = {"hidden": [16], "norm": "batch"}
    data, regularization = {"limit": 400}, {"dropout": 0.2}
    return recipe_from_config({"model": model, "data": data, "regularization": regularization, "seed": seed})


@pytest.mark.slow
def test_an_archive_does_what_the_library_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, archives = tmp_path / "home" / "data", tmp_path / "archives"
    archives.mkdir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    geometry = geometry_of(recipe(0), load(recipe(0).data, cache), "cpu")
    network = Network(geometry)
    for name, (graph, inputs) in zip(("step", "evaluation"), network.graphs(), strict=True):
        lane_compiler._compile_archive(graph, inputs, archives / f"{name}.artifact", geometry)
    found = []
    for archived in (False, True):
        block = LaneBlock(recipe(0), 6, "cpu", cache, compiled=True)
        assert block.compiled, block.note
        if archived:
            block._program = Program(network, *lane_compiler.load(archives), compiled=True)
        for seed in range(5):
            block.admit(recipe(seed), seed)
        first = block.epoch(lambda tag: False)
        # Another number of lanes.
        block.release(1)
        reports = [*first, *block.epoch(lambda tag: tag == 3)]
        kept = [{name: value for name, value in one.metrics.items() if name not in TIMING_METRICS} for one in reports]
        found.append(kept)
    assert found[0] == found[1]
