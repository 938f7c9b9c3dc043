"""Every storage for real: journal, SQLite and PostgreSQL, with crashes and with Optuna's own dashboard."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from swathe.errors import BadInputError, SwatheError
from swathe.events import Direction, TrialState
from swathe.study import JOURNAL, PastTrial, Study, check_storage
from tests import postgres
from tests.test_study import CONDITIONAL, FINITE, SearchSpace

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 60.0

# Runs trials until it is killed and says after each commit how many are over.
DRIVER = """
import sys
from pathlib import Path
from tests.integration.test_storage import Place
from swathe.events import TrialState

study = Place(Path(sys.argv[1]), sys.argv[2] or None).launch()
over = 0
while True:
    for proposal in study.ask(3).proposals:
        for step in range(4):
            study.record(proposal.trial, step, 1.0 / (1 + step))
        study.tell(proposal.trial, TrialState.COMPLETE, 0.25, {"worker": "w1"})
        over += 1
    study.commit()
    study.ask(1)
    print(over, flush=True)
"""


@dataclass(frozen=True)
class Place:
    """Where a study lives."""

    folder: Path
    storage: str | None

    def launch(self, sampler: str = "random", space: SearchSpace = CONDITIONAL) -> Study:
        return Study.open(
            "s",
            folder=self.folder,
            storage=self.storage,
            direction=Direction.MAXIMIZE,
            sampler={"name": sampler},
            space=space,
            seed=1,
        )

    def load(self) -> Study:
        return Study.load("s", folder=self.folder, storage=self.storage)

    def history(self) -> list[PastTrial]:
        study = self.load()
        try:
            return study.history()
        finally:
            study.close()


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.server() as started:
        yield started


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    match request.param:
        case "journal":
            return Place(tmp_path, None)
        case "sqlite":
            return Place(tmp_path, f"sqlite:///{tmp_path}/study.db")
        case _:
            started: postgres.Server = request.getfixturevalue("server")
            return Place(tmp_path, started.create_database(f"study_{uuid.uuid4().hex}"))


def test_a_sweep_is_recorded_read_and_resumed(place: Place) -> None:
    check_storage(place.storage)
    assert place.history() == []
    study = place.launch()
    assert study.history() == []
    proposals = study.ask(4).proposals
    for step, value in enumerate([0.1, math.nan, math.inf, -math.inf, 1e-300, 0.3]):
        study.record(0, step, value)
    study.tell(0, TrialState.COMPLETE, 0.3, {"worker": "w1", "retries": 2, "warm": True, "note": None})
    study.record(1, 0, math.nan)
    study.tell(1, TrialState.PRUNED, math.nan, {"reason": "diverged: val_loss is nan at step 0"})
    study.tell(2, TrialState.FAILED, None, {"reason": "ValueError: ü\n\"'"})
    study.record(3, 7, 0.5)
    before = study.history()
    study.close()

    after = place.history()
    # As text, because NaN is not itself.
    assert repr(after) == repr(before)
    assert [past.params for past in after] == [proposal.params for proposal in proposals]
    assert [past.state for past in after] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAILED,
        TrialState.RUNNING,
    ]
    assert after[0].value == 0.3
    assert [after[0].values[step] for step in (0, 2, 3, 4, 5)] == [0.1, math.inf, -math.inf, 1e-300, 0.3]
    assert math.isnan(after[0].values[1])
    assert after[0].attrs == {"worker": "w1", "retries": 2, "warm": True, "note": None}
    assert (after[1].value, after[2].value) == (None, None)
    assert after[2].attrs == {"reason": "ValueError: ü\n\"'"}

    study = place.launch()
    assert repr(study.history()) == repr(before)
    study.record(3, 8, 0.75)
    study.tell(3, TrialState.COMPLETE, 0.75, {})
    assert [proposal.trial for proposal in study.ask(2).proposals] == [4, 5]
    study.close()
    after = place.history()
    assert after[3].values == {7: 0.5, 8: 0.75}
    assert study.optuna_study.best_trial.number == 3


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "qmc"])
def test_what_is_drawn_depends_neither_on_the_storage_nor_on_a_resume(
    sampler: str, place: Place, tmp_path: Path
) -> None:
    def run(study: Study, count: int) -> list[Any]:
        points = []
        for _ in range(count):
            (proposal,) = study.ask(1).proposals
            study.tell(proposal.trial, TrialState.COMPLETE, float(proposal.params["lr"] or 0.0), {})
            points.append(proposal.params)
        study.close()
        return points

    expected = run(Place(tmp_path / "reference", None).launch(sampler), 14)
    assert run(place.launch(sampler), 5) + run(place.launch(sampler), 9) == expected


def test_a_grid_goes_on_where_it_was(place: Place) -> None:
    study = place.launch("grid", FINITE)
    first = study.ask(8).proposals
    study.tell(0, TrialState.FAILED, None, {})
    study.close()
    rest = place.launch("grid", FINITE).ask(100)
    assert rest.exhausted
    points = [json.dumps(proposal.params) for proposal in (*first, *rest.proposals)]
    assert len(points) == len(set(points)) == 21


def test_a_trial_that_was_only_half_drawn_is_completed(place: Place) -> None:
    study = place.launch("tpe")
    study.optuna_study.ask()
    study.close()
    (past,) = place.history()
    assert (past.state, past.params) == (TrialState.RUNNING, {})
    (past,) = place.launch("tpe").history()
    assert {"optim", "lr"} <= set(past.params)


def test_what_was_committed_outlives_a_killed_driver(place: Place) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    command = [sys.executable, "-c", DRIVER, str(place.folder), place.storage or ""]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        said = [driver.stdout.readline() for _ in range(4)]
        driver.kill()
        said += driver.stdout.read().split()
    over = max(int(line) for line in said if line.strip())
    study = place.launch()
    history = study.history()
    assert [past.number for past in history] == list(range(len(history)))
    complete = [past for past in history if past.state is TrialState.COMPLETE]
    assert len(complete) >= over
    for past in complete:
        assert past.value == 0.25
        assert past.values == {0: 1.0, 1: 0.5, 2: 1.0 / 3, 3: 0.25}
        assert past.attrs == {"worker": "w1"}
    for past in history:
        assert {"optim", "lr"} <= set(past.params)
        if not past.state.final:
            study.tell(past.number, TrialState.FAILED, None, {})
    assert study.ask(1).proposals[0].trial == len(history)
    study.close()


def test_a_database_that_goes_away_ends_the_sweep_in_words_and_can_be_gone_on_with(tmp_path: Path) -> None:
    with postgres.server() as server:
        place = Place(tmp_path, server.url)
        study = place.launch()
        study.ask(1)
        study.record(0, 1, 0.5)
        server.stop()
        with pytest.raises(SwatheError, match="The study cannot be written") as caught:
            study.record(0, 2, 0.25)
        assert postgres.PASSWORD not in str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(BadInputError, match="refused") as refused:
            check_storage(server.url)
        assert postgres.PASSWORD not in str(refused.value)
        server.start()
        study.record(0, 2, 0.25)
        study.close()
        assert place.history()[0].values == {1: 0.5, 2: 0.25}


@pytest.mark.parametrize("wrong", ["user", "password", "database"])
def test_a_database_that_refuses_us_is_refused_in_words(wrong: str, server: postgres.Server) -> None:
    url = {
        "user": server.url.replace(postgres.USER, "nobody-here"),
        "password": server.url.replace(postgres.PASSWORD, "wrong-secret"),
        "database": server.database("nowhere"),
    }[wrong]
    for storage in (url, url.replace("postgresql:", "postgresql+psycopg:")):
        with pytest.raises(BadInputError) as caught:
            check_storage(storage)
        said = str(caught.value)
        assert said.startswith("sweep.storage: 'postgresql")
        assert ":***@" in said
        assert postgres.PASSWORD not in said
        assert "secret" not in said
        assert "\n" not in said


def test_optuna_dashboard_opens_each(place: Place) -> None:
    study = place.launch()
    study.ask(1)
    study.record(0, 1, 0.5)
    study.tell(0, TrialState.COMPLETE, 0.5, {"worker": "w1"})
    study.commit()
    with _dashboard(place) as address:
        (summary,) = _get(f"{address}/api/studies")["study_summaries"]
        assert summary["study_name"] == "s"
        page = f"{address}/api/studies/{summary['study_id']}"
        (trial,) = _get(page)["trials"]
        assert trial["state"] == "Complete"
        assert {"optim", "lr"} <= {param["name"] for param in trial["params"]}
        assert trial["intermediate_values"] == [{"step": 1, "value": 0.5}]
        # A note that is written there stays, and does not disturb the running sweep.
        _put(f"{page}/note", {"body": "Looks good.", "version": 1})
        for trials in (2, 3):
            study.ask(1)
            study.commit()
            assert len(place.history()) == trials
        assert _get(page)["note"]["body"] == "Looks good."
    study.close()
    assert len(place.launch().history()) == 3


@contextlib.contextmanager
def _dashboard(place: Place) -> Iterator[str]:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    storage = place.storage or str(place.folder / JOURNAL)
    storage = storage.replace("postgresql:", "postgresql+psycopg:")
    program = Path(sys.executable).with_name("optuna-dashboard")
    command = [str(program), storage, "--host", "127.0.0.1", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while True:
                try:
                    _get(f"{address}/api/studies")
                    break
                except urllib.error.URLError:
                    assert process.poll() is None, process.stdout.read() if process.stdout else ""
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield address
        finally:
            process.kill()


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=DEADLINE_SECONDS) as answer:
        return json.load(answer)


def _put(url: str, content: Any) -> None:
    request = urllib.request.Request(
        url, data=json.dumps(content).encode(), method="PUT", headers={"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=DEADLINE_SECONDS).close()
