"""What the API answers about sweeps, against what the command line says of the same ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swathe import analysis, cli
from swathe.errors import BadInputError
from swathe.events import Direction, TrialState
from swathe.home import Home, SweepCard
from swathe.service import sweeps as reading
from swathe.service.selection import selection
from swathe.service.sweeps import Sweeps
from swathe.study import JOURNAL, PastTrial, Study
from tests.service.client import TestClient
from tests.service.conftest import TRIALS, Service
from tests.test_analysis import SPACE, launch, record

Get = Callable[..., Any]


def test_sweeps_stand_as_the_command_line_says(get: Get, service: Service) -> None:
    page = get("/sweeps")
    assert (page["total"], page["next"], [one["name"] for one in page["sweeps"]]) == (1, None, ["f"])
    found = get("/sweeps/f")
    said = analysis.overview(service.home, "f").as_dict()
    for key in ("name", "status", "metric", "direction", "trials", "counts", "best", "best_params", "command"):
        assert found[key] == said[key], key
    assert found["failures"] == said["failures"]
    assert found["alive"] is False
    assert found["last_event_id"] == str((service.home.sweep("f").path / JOURNAL).stat().st_size)


def test_pages_of_sweeps_are_bounded(service: Service, tmp_path: Path) -> None:
    home = Home(tmp_path)
    for number in range(5):
        launch(home, f"s{number}").close()
    home.sweep("s3").card_file.write_text("{}")
    found = Sweeps(home)
    assert found.names() == [f"s{number}" for number in range(5)]
    with replace(service, home=home).client() as client:
        from swathe.service.tokens import create_token

        headers = {"Authorization": f"Bearer {create_token(home, 'v', 'viewer')}"}
        names, cursor = [], None
        while True:
            query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = client.get("/api/v1/sweeps", params=query, headers=headers).json()
            names += [one["name"] for one in page["sweeps"]]
            assert len(page["sweeps"]) <= 2
            if (cursor := page["next"]) is None:
                break
        assert names == found.names()
        answer = client.get("/api/v1/sweeps", params={"cursor": "s2", "limit": 1}, headers=headers).json()
        assert answer["sweeps"][0]["status"].startswith("cannot be read: ")


def test_trials_are_filtered_sorted_and_paged(get: Get) -> None:
    everything = get("/sweeps/f/trials", limit=200)
    assert everything["total"] == TRIALS
    assert [one["number"] for one in everything["trials"]] == list(range(TRIALS))
    failed = get("/sweeps/f/trials", state="failed")["trials"]
    assert {one["reason"] for one in failed} == {"ValueError: x is too large"}
    small = get("/sweeps/f/trials", param="params.x<=0.5", sort="value")["trials"]
    assert len(small) + len(failed) == TRIALS
    assert [one["value"] for one in small] == sorted(one["value"] for one in small)
    assert small[0]["last"] == {"step": 5, "value": small[0]["value"]}
    x = small[0]["params"]["params.x"]
    assert get("/sweeps/f/trials", param=f"params.x={x!r}")["total"] == 1
    assert get("/sweeps/f/trials", param=[f"params.x={x!r}", "params.x>=0.9"])["total"] == 0
    for sort in ("number", "-number", "value", "-value", "params.x", "-params.x", "nothing"):
        whole = [one["number"] for one in get("/sweeps/f/trials", sort=sort)["trials"]]
        paged, cursor = [], None
        while True:
            page = get("/sweeps/f/trials", sort=sort, limit=3, **({"cursor": cursor} if cursor else {}))
            paged += [one["number"] for one in page["trials"]]
            if (cursor := page["next"]) is None:
                break
        assert paged == whole, sort
        assert len(whole) == TRIALS


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"state": "gone"}, "state: 'gone' is not allowed; allowed: waiting, running, complete, pruned, failed."),
        ({"param": "x"}, "param: 'x' is not allowed; allowed: KEY=VALUE, KEY!=VALUE, KEY<=NUMBER or KEY>=NUMBER."),
        ({"param": "x<=y"}, "param: 'x<=y' is not allowed; allowed: a number after <=."),
        ({"param": ["x=1"] * 17}, "param: 17 is not allowed; allowed: at most 16 conditions."),
        ({"sort": ""}, "sort: '' is not allowed; allowed: number, value, or a parameter, each also with a minus"),
        ({"cursor": "!"}, "cursor: '!' is not allowed; allowed: the `next` of a page before."),
        ({"cursor": "W10"}, "cursor: 'W10' is not allowed; allowed: the `next` of a page before."),
        ({"limit": 0}, "limit: '0' is not allowed; allowed: greater than or equal to 1."),
        ({"limit": 201}, "limit: '201' is not allowed; allowed: less than or equal to 200."),
    ],
)
def test_bad_queries_are_refused_in_one_sentence(get: Get, query: dict[str, Any], sentence: str) -> None:
    found = get("/sweeps/f/trials", 422, **query)
    assert found["detail"].startswith(sentence)
    assert (found["type"], found["status"]) == ("about:blank", 422)


def test_a_trial_has_its_record(get: Get, service: Service) -> None:
    best = get("/sweeps/f/best")
    said = analysis.best(service.home, "f")
    assert (best["trial"], best["value"], best["run_id"]) == (said.trial, said.value, said.run_id)
    assert best["config"] == said.config
    assert best["reproduce"] == f"swathe reproduce f --trial {said.trial}"
    trial = get(f"/sweeps/f/trials/{said.trial}")
    assert (trial["run_id"], trial["config"], trial["record"]) == (said.run_id, said.config, None)
    assert trial["metrics"]["val_loss"] == said.value
    curve = get(f"/sweeps/f/trials/{said.trial}/curves")
    assert (curve["metric"], [point["step"] for point in curve["points"]]) == ("val_loss", [1, 2, 3, 4, 5])
    assert curve["points"][-1]["value"] == said.value
    refused = get(f"/sweeps/f/trials/{said.trial}/curves", 422, metric="nothing")
    assert refused["detail"].startswith("metric: 'nothing' is not allowed; allowed: ")
    assert get("/sweeps/f/diagnosis")["name"] == "f"


def test_other_metrics_are_read_from_their_record_and_trials_from_a_database(tmp_path: Path) -> None:
    home = Home(tmp_path)
    folder, storage = home.sweep("s"), f"sqlite:///{tmp_path / 'study.db'}"
    folder.write_card(SweepCard("s", "id", storage, home.tracking_uri, "s", "val_loss", "minimize", 4, "x", 0.0))
    sampler, direction = {"name": "random"}, Direction.MINIMIZE
    study = Study.open(
        "s", folder=folder.path, storage=storage, direction=direction, sampler=sampler, space=SPACE, seed=1
    )
    study.ask(1)
    study.record(0, 1, 0.5)
    study.tell(0, TrialState.COMPLETE, 0.5, {})
    study.close()
    record(home, [{"val_loss": 0.5, "val accuracy (%)": 0.25}])
    found = Sweeps(home)
    assert found.curve("s", 0, None) == ("val_loss", {1: 0.5})
    assert found.curve("s", 0, "val accuracy ___") == ("val accuracy ___", {1: 0.25})
    assert found.overview("s")[1].best == (0, 0.5)


def test_what_is_not_there_is_said_in_the_command_lines_words(
    get: Get, client: TestClient, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, words in (("", ["status", "g"]), ("/best", ["best", "g"]), ("/diagnosis", ["diagnose", "g"])):
        assert cli.run(words) == cli.EXIT_BAD_INPUT
        # Where on its disk that is, a server keeps to itself.
        said = capsys.readouterr().err.replace(f"{service.folder}/", "")
        assert f"swathe: {get(f'/sweeps/g{path}', 404)['detail']}\n" == said
    assert get("/sweeps/f/trials/8", 404)["detail"] == "Sweep 'f' has no trial 8; it has 8."
    headers = {"Authorization": f"Bearer {service.tokens['runner']}"}
    answer = client.post("/api/v1/sweeps/f/stop", headers=headers)
    assert cli.run(["stop", "f"]) == cli.EXIT_BAD_INPUT
    assert answer.status_code == 409
    assert f"swathe: {answer.json()['detail']}\n" == capsys.readouterr().err
    assert get("/nothing", 404)["detail"].startswith("'/api/v1/nothing' is not allowed")


def test_a_running_sweep_is_stopped_as_swathe_stop_does(service: Service, client: TestClient) -> None:
    folder = service.home.sweep("f")
    ending = folder.ending()
    headers = {"Authorization": f"Bearer {service.tokens['runner']}"}
    try:
        with folder.drive():
            answer = client.post("/api/v1/sweeps/f/stop", headers=headers)
            assert answer.status_code == 200, answer.text
            assert answer.json()["detail"].startswith("Asked sweep 'f' to stop; it is run by process ")
            assert folder.stop_file.exists()
            assert client.get("/api/v1/sweeps/f", headers=headers).json()["alive"] is True
    finally:
        folder.stop_file.unlink(missing_ok=True)
        assert ending is not None
        folder.write_ending(ending)


def test_numbers_that_json_has_not_are_null(get: Get, service: Service, tmp_path: Path) -> None:
    home = Home(tmp_path)
    study = launch(home)
    study.ask(2)
    study.record(0, 1, float("nan"))
    study.record(1, 1, float("inf"))
    study.tell(0, TrialState.PRUNED, None, {})
    study.close()
    from swathe.service.tokens import create_token

    headers = {"Authorization": f"Bearer {create_token(home, 'v', 'viewer')}"}
    with replace(service, home=home).client() as client:
        found = client.get("/api/v1/sweeps/s/trials?sort=value", headers=headers).json()["trials"]
        assert [one["last"] for one in found] == [{"step": 1, "value": None}] * 2
        one = client.get("/api/v1/sweeps/s/trials/0", headers=headers).json()
        assert (one["config"], one["record"][:26]) == (None, "Nothing is recorded yet: t")
        assert client.get("/api/v1/sweeps/s/best", headers=headers).status_code == 409


# The cache.


def test_a_journal_is_read_once_and_then_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    monkeypatch.setattr(reading, "FRESH_SECONDS", 0.0)
    loads = []
    load = Study.load
    monkeypatch.setattr(Study, "load", lambda *words, **named: loads.append(1) or load(*words, **named))
    study = launch(home)
    study.ask(2)
    study.commit()
    found = Sweeps(home)
    first = found.snapshot("s")
    assert len(first.history) == 2
    assert found.snapshot("s").version == first.version
    study.record(0, 1, 0.5)
    study.tell(0, TrialState.COMPLETE, 0.5, {})
    study.commit()
    second = found.snapshot("s")
    assert second.version > first.version
    assert second.signature[1] > first.signature[1]
    assert second.history[0].value == 0.5
    assert found.overview("s")[1].best == (0, 0.5)
    assert len(loads) == 1
    study.close()
    # Another sweep of the same name.
    (home.sweep("s").path / JOURNAL).unlink()
    launch(home).close()
    assert len(found.snapshot("s").history) == 0
    assert len(loads) == 2


def test_a_journal_that_was_first_seen_empty_is_read_once_it_has_its_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    monkeypatch.setattr(reading, "FRESH_SECONDS", 0.0)
    study = launch(home)
    study.ask(2)
    study.close()
    journal = home.sweep("s").path / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    found = Sweeps(home)
    # A driver makes the file, and writes to it a moment later; a commit may be seen by halves.
    for seen in (b"", lines[0][:9], lines[0]):
        journal.write_bytes(seen)
        assert len(found.snapshot("s").history) == 0
    with journal.open("ab") as file:
        file.writelines(lines[1:])
    assert len(found.snapshot("s").history) == 2


def test_an_overview_is_never_kept_for_a_journal_that_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    study = launch(home)
    study.ask(1)
    study.commit()
    found = Sweeps(home)
    monkeypatch.setattr(reading, "FRESH_SECONDS", 1e9)
    assert found.overview("s")[1].best is None
    study.record(0, 1, 0.5)
    study.tell(0, TrialState.COMPLETE, 0.5, {})
    study.close()
    assert found.overview("s")[1].best is None
    monkeypatch.setattr(reading, "FRESH_SECONDS", 0.0)
    assert found.overview("s")[1].best == (0, 0.5)
    reads: list[str] = []
    monkeypatch.setattr(Sweeps, "snapshot", lambda self, name: reads.append(name))
    assert found.overview("s")[1].best == (0, 0.5)
    assert not reads


def test_damage_is_said_and_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    monkeypatch.setattr(reading, "FRESH_SECONDS", 0.0)
    study = launch(home)
    study.ask(2)
    study.close()
    journal = home.sweep("s").path / JOURNAL
    whole = journal.read_bytes()
    found = Sweeps(home)
    assert len(found.snapshot("s").history) == 2
    journal.write_bytes(whole + b'{"op_code":6}\n')
    with pytest.raises(Exception, match="is damaged in line 4"):
        found.snapshot("s")
    journal.write_bytes(whole)
    assert len(found.snapshot("s").history) == 2


def test_conditions_compare_as_people_mean_them() -> None:
    params: dict[str, Any] = {"optim": "adam", "lr": 0.01, "size": 64, "norm": None, "on": True, "text": "64"}
    trial = PastTrial(0, params, TrialState.COMPLETE, 1.0, {}, {})

    def holds(*conditions: str) -> bool:
        chosen = selection(states=[], params=conditions, sort="number", cursor=None, limit=1, minimize=True)
        return chosen.of([trial])[0] == 1

    for condition in (
        "optim=adam",
        "lr=1e-2",
        "size=64.0",
        "norm=null",
        "on=true",
        "text=64",
        "optim!=sgd",
        "lr<=0.01",
    ):
        assert holds(condition), condition
    for condition in ("optim=Adam", "lr=0.02", "norm=None", "on=1", "none=1", "none!=1", "optim>=1", "text=64.0"):
        assert not holds(condition), condition
    with pytest.raises(BadInputError):
        holds("lr<=nan")
