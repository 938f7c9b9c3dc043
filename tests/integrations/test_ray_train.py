"""Trials of several processes: what goes between ranks and trial, and a real one in which everything happens."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swathe import function
from swathe.errors import SwatheError
from swathe.function import TrialInfo, TrialStopped
from swathe.integrations.rank_actors import Channel, Ended
from tests.integration import swathes
from tests.integration.test_launch import client_of, runs_of


async def asked(channel: Channel) -> list[Any]:
    """Two ranks ask twice; the second question is never answered, as rank 0 leaves."""

    async def rank(number: int) -> list[Any]:
        return [await channel.ask(turn, number, "report", (turn, {"loss": number})) for turn in range(2)]

    ranks = [asyncio.create_task(rank(number)) for number in (1, 0)]
    item = await channel.next()
    assert item == ("report", 0, (0, {"loss": 0}))
    await channel.answer(0, "answered")
    assert await channel.next() == ("report", 1, (1, {"loss": 0}))
    await channel.leave()
    return [await rank for rank in ranks]


def test_all_ranks_get_the_answer_to_rank_0_and_none_waits_for_one_that_has_left() -> None:
    for first, second in asyncio.run(asked(Channel())):
        assert first == "answered"
        assert isinstance(second, Ended)


class Session:
    metric = "val_loss"
    info = TrialInfo(3, 5, {})

    def __init__(self, stop_at: int) -> None:
        self.steps: list[int] = []
        self.kept: list[Any] = []
        self._stop_at = stop_at

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        self.steps.append(step)
        return step == self._stop_at

    def checkpoint_due(self) -> bool:
        return True

    def checkpoint(self, state: Any) -> bool:
        self.kept.append(state)
        return True

    def restore(self) -> Any:
        return None


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session(stop_at=4)
    function.install(made)
    yield made
    function.install(None)


def test_ranks_that_begin_again_pass_over_what_was_reported(session: Session) -> None:
    from swathe.integrations.ranks import Shared
    from swathe.integrations.ray_train import _Attempt

    shared = Shared(b"", session.info)
    first = _Attempt(shared, None)
    assert first._handle("report", (1, {"val_loss": 1.0})) is False
    assert first._handle("due", None) is True
    assert first._handle("keep", b"after 1") is True
    assert first._handle("report", (2, {"val_loss": 1.0})) is False
    assert first._handle("report", (3, {"val_loss": 1.0})) is False
    assert "above the last step, 3" in str(first._handle("report", (3, {"val_loss": 1.0})))
    assert (shared.state, shared.step) == (b"after 1", 1)
    again = _Attempt(shared, 3)
    for step in (2, 3):
        assert again._handle("report", (step, {"val_loss": 1.0})) is False
        assert again._handle("due", None) is False, "it is no state after the last report"
    assert again._handle("report", (4, {"val_loss": 1.0})) is True
    assert session.steps == [1, 2, 3, 4]
    assert session.kept == [b"after 1"]
    # The trial had been told to stop, and does not listen.
    assert isinstance(again._handle("report", (5, {"val_loss": 1.0})), Ended)
    assert again.ended


def test_why_ranks_are_gone(session: Session) -> None:
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import WorkerGroupError

    from swathe.integrations.ranks import Shared
    from swathe.integrations.ray_train import RankError, _Attempt

    attempt = _Attempt(Shared(b"", session.info), None)
    assert attempt._outcome() == ""
    attempt._error = WorkerGroupError("", {0: RuntimeError("peer"), 1: WorkerHealthCheckFailedError("x", OSError())})
    attempt._handle("failed", (0, "RuntimeError: peer", "Traceback"))
    assert attempt._outcome() == "rank 1 is gone"
    attempt._error = WorkerGroupError("", {0: RuntimeError("peer")})
    with pytest.raises(RankError, match="rank 0: RuntimeError: peer"):
        attempt._outcome()


def test_a_rank_s_calls(monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
    from swathe.integrations import ranks

    class Remote:
        def __init__(self, answers: list[Any]) -> None:
            self.asked: list[Any] = []
            self._answers = iter(answers)
            self.ask = self

        def remote(self, *question: Any) -> Any:
            self.asked.append(question)
            return next(self._answers)

    monkeypatch.setattr("ray.get", lambda answer: answer)
    shared = ranks.Shared(b"", session.info, state=pickle.dumps("state"), step=2)
    channel = Remote([False, False, True, True, SwatheError("no"), Ended()])
    rank = ranks.RankSession(shared, session.info, channel)
    assert rank.restore() == "state"
    assert rank.report(3, {"loss": 1.0}) is False
    assert rank.checkpoint("never pickled") is False
    assert rank.checkpoint(lambda: "made") is True
    with pytest.raises(SwatheError, match="no"):
        rank.report(4, {})
    with pytest.raises(TrialStopped):
        rank.report(5, {})
    assert [(turn, kind) for turn, _, kind, _ in channel.asked] == list(
        enumerate(["report", "due", "due", "keep", "report", "report"])
    )
    assert pickle.loads(channel.asked[3][3]) == "made"
    other = Remote([True, True])
    assert ranks.RankSession(shared, TrialInfo(3, 5, {}, 1, 2), other).checkpoint("mine")
    assert [payload for *_, payload in other.asked] == [None, None]


def test_a_worker_that_holds_what_its_ranks_need_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from swathe.integrations import ray_train

    context = SimpleNamespace(get_actor_id=lambda: "1", get_assigned_resources=lambda: {"CPU": 1.0})
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.get_runtime_context", lambda: context)
    with pytest.raises(SwatheError, match=r"cluster\.cpus_per_worker: 1 is not allowed; allowed: 0"):
        ray_train.fit(print, {}, workers=1)


@pytest.mark.slow
def test_a_trial_of_two_processes_survives_them_and_its_worker_and_is_pruned(tmp_path: Path) -> None:
    sweep = {
        "defaults": [{"/sampler": "random"}, {"/pruner": "threshold"}, "_self_"],
        "trainable": "tests.integrations.ddp_trials:train",
        "params": {"folder": str(tmp_path), "x": 1.0},
        "checkpoints": {"seconds": 1e-6},
        "cluster": {"workers": 1, "cpus_per_worker": 0},
        "pruner": {"upper": 50.0},
        "sweep": {"name": "ddp", "trials": 1, "space": {"params.x": "interval(0.0, 1.0)"}},
    }
    (tmp_path / "ddp.yaml").write_text(json.dumps(sweep))
    # As no trial is complete.
    assert swathes.run(tmp_path, "launch", "ddp.yaml").returncode == 1
    (run,) = runs_of(tmp_path, "ddp").values()
    assert {path.name for path in tmp_path.iterdir()} >= {"rank", "trial"}, "both have died"
    assert run.data.tags["swathe.state"] == "pruned at step 6"
    assert int(run.data.tags["swathe.resumed_from"]) >= 1
    client = client_of(tmp_path)
    values = {name: client.get_metric_history(run.info.run_id, name) for name in ("val_loss", "ranks", "alone")}
    assert [metric.step for metric in values["val_loss"]] == [1, 2, 3, 4, 5, 6]
    assert {metric.value for metric in values["ranks"]} == {0.0}
    assert max(metric.value for metric in values["alone"]) < 1e-6
    assert "workers: 99 of 1 CPU each are not allowed; allowed: " in (tmp_path / "refused").read_text()
    assert [(tmp_path / f"ended-{rank}").read_text() for rank in (0, 1)] == ["6", "6"]
