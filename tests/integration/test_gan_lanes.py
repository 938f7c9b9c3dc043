"""A sweep of GANs whose trials are lanes: recorded, compared and reproduced like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration import swathes
from tests.integration.test_launch import runs_of

GANS = """
defaults: [/model: gan, /data: digits, /optim: adam, /sampler: random, _self_]
epochs: 3
lanes: {slots: 4, compile: never}
sweep:
  name: gans
  trials: 6
  space:
    optim: choice(adam, rmsprop)
    optim.lr: tag(log, interval(1e-4, 1e-2))
    model.discriminator_optim: choice(sgd, adam)
    model.discriminator_lr: tag(log, interval(1e-4, 1e-2))
"""


@pytest.mark.slow
def test_gans_are_lanes_and_are_reproduced_bit_for_bit(tmp_path: Path) -> None:
    (tmp_path / "gans.yaml").write_text(GANS)
    outcome = swathes.read(tmp_path, "launch", "gans.yaml", "cluster=inline")
    assert sum(outcome["counts"].values()) == 6
    for run in runs_of(tmp_path, "gans").values():
        assert json.loads(run.data.tags["swathe.geometry"])["engine"] == "lanes"
        assert "swathe.lane_note" not in run.data.tags
        assert {"first_loss", "discriminator_accuracy", "discriminator_lr"} <= run.data.metrics.keys()
    words = [word for number in (0, 5) for word in ("--trial", str(number))]
    for result in swathes.read(tmp_path, "reproduce", "gans", *words):
        assert result["identical"]
    for result in swathes.read(tmp_path, "reproduce", "gans", *words, "--solo"):
        assert result["good"]
    assert "discriminator_lr" in swathes.succeed(tmp_path, "compare", "gans")
