"""A study of Optuna's as a sweep: its space is the same, its trials are what the sweep begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from swathe import warm_start
from swathe.config import compose_sweep
from swathe.errors import BadInputError
from swathe.events import TrialState
from swathe.import_optuna import import_study, is_storage
from swathe.space import Space
from tests.integration import swathes

SPACE = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "drop": FloatDistribution(0.0, 0.5),
    "share": FloatDistribution(0.0, 1.0, step=0.25),
    "layers": IntDistribution(1, 4),
    "width": IntDistribution(16, 64, step=16),
    "units": IntDistribution(1, 512, log=True),
    "net.kind": CategoricalDistribution(["cnn", "mlp", "1"]),
    "big": CategoricalDistribution([True, False]),
    "one": CategoricalDistribution(["only"]),
}


def make(
    storage: Any, *, name: str = "my study", direction: Literal["minimize", "maximize"] = "minimize", space: Any = None
) -> optuna.Study:
    study = optuna.create_study(
        study_name=name, storage=storage, direction=direction, sampler=optuna.samplers.RandomSampler(seed=1)
    )
    for number in range(6):
        trial = study.ask(SPACE if space is None else space)
        trial.report(float(number), 1)
        pruned = number % 3 == 2
        study.tell(trial, None if pruned else float(number), optuna.trial.TrialState.PRUNED if pruned else None)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    return study


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def two_studies(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a database with two studies: SQLite takes its time to write one."""
    path = tmp_path_factory.mktemp("two") / "study.db"
    small = {"x": FloatDistribution(0.0, 1.0)}
    make(f"sqlite:///{path}", space=small)
    make(f"sqlite:///{path}", name="other", direction="maximize", space=small)
    return path.read_bytes()


NOTHING: dict[str, Any] = {"study": None, "function": None, "metric": None, "direction": None, "out": None}


@pytest.mark.parametrize("journal", [False, True])
def test_its_space_and_its_trials_come_along(folder: Path, journal: bool) -> None:
    study = make(JournalStorage(JournalFileBackend("study.log")) if journal else "sqlite:///study.db")
    source = "study.log" if journal else "sqlite:///study.db"
    assert is_storage(source)
    text, count = import_study(source, **{**NOTHING, "metric": "loss", "function": "f:train", "out": Path("mine.yaml")})
    assert count == 6
    Path("mine.yaml").write_text(text)
    composed = compose_sweep("mine.yaml", ())
    assert (composed.name, composed.sweep.metric, composed.sweep.direction) == ("my-study", "loss", "minimize")
    assert composed.sweep.warm_start == ["mine.trials.json"]
    space = Space.parse(composed)
    found = {name.removeprefix("params."): parameter.distribution for name, parameter in space.parameters.items()}
    assert found == {name: distribution for name, distribution in SPACE.items() if name != "one"}
    assert composed.values["params"]["one"] == "only"
    trials = warm_start.read(Path("mine.trials.json"))
    assert [one.state for one in trials].count(TrialState.PRUNED) == 2
    fitting = warm_start.fitting(trials, space)
    for ours, theirs in zip(fitting, study.trials, strict=False):
        assert ours.params == {f"params.{name}": value for name, value in theirs.params.items() if name != "one"}


def test_without_a_file_it_is_the_space_alone(folder: Path) -> None:
    make("sqlite:///study.db", space={"x": FloatDistribution(0.0, 1.0)})
    text, count = import_study("sqlite:///study.db", **NOTHING)
    assert count == 0
    assert "warm_start" not in text
    assert list(folder.iterdir()) == [folder / "study.db"]


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("sqlite:///no.db", {}, "SOURCE: 'sqlite:///no.db' is not allowed; allowed: an SQLite file that exists."),
        ("sqlite:///study.db", {"study": "x"}, "--study: 'x' is not allowed; allowed: my study, other."),
        ("sqlite:///study.db", {}, "--study: None is not allowed; allowed: my study, other."),
        ("sqlite:///study.db", {"study": "other", "direction": "minimize"}, "--direction: 'minimize' is not allowed"),
        ("sqlite:///empty.db", {}, "SOURCE: 'sqlite:///empty.db' is not allowed; allowed: the URL of a database"),
        ("oracle://u:secret@h/d", {}, "SOURCE: 'oracle://u:***@h/d' is not allowed"),
        ("words.txt", {}, "--study: None is not allowed; allowed: the name of a study in words.txt, which has none."),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    folder: Path, two_studies: bytes, source: str, options: dict[str, Any], said: str
) -> None:
    (folder / "study.db").write_bytes(two_studies)
    (folder / "empty.db").touch()
    (folder / "words.txt").touch()
    with pytest.raises(BadInputError) as refusal:
        import_study(source, **{**NOTHING, **options})
    assert str(refusal.value).startswith(said)


@pytest.mark.parametrize(
    ("names", "said"), [(("optim", "optim.lr"), "allowed: a study without 'optim.lr' beside it"), (("a b",), "words")]
)
def test_names_that_are_no_keys_are_refused(folder: Path, names: tuple[str, ...], said: str) -> None:
    make("sqlite:///study.db", space={name: FloatDistribution(0, 1) for name in names})
    with pytest.raises(BadInputError, match=said):
        import_study("sqlite:///study.db", **NOTHING)


def test_text_of_a_category_stays_as_it_is(folder: Path) -> None:
    texts = CategoricalDistribution(["C:\\", "it's\\", "1e5"])
    make("sqlite:///study.db", space={"kind": texts})
    text, _ = import_study("sqlite:///study.db", **NOTHING)
    Path("mine.yaml").write_text(text)
    assert Space.parse(compose_sweep("mine.yaml", ())).parameters["params.kind"].distribution == texts


@pytest.mark.parametrize(
    ("name", "distribution", "said"),
    [
        ("kind", CategoricalDistribution(["${x}", "a"]), "params.kind: '${x}' is not allowed; allowed: text without"),
        ("kind", CategoricalDistribution([float("inf"), 1.0]), "params.kind: inf is not allowed"),
        ("aé", FloatDistribution(0, 1), "params.aé: 'params.aé' is not allowed; allowed: names of letters"),
        ("n", IntDistribution(0, 10**400), "params.n: 1000"),
    ],
)
def test_what_hydra_cannot_say_is_refused_with_its_key_and_nothing_is_written(
    folder: Path, name: str, distribution: Any, said: str
) -> None:
    study = optuna.create_study(storage="sqlite:///study.db")
    value = distribution.choices[0] if isinstance(distribution, CategoricalDistribution) else 1
    study.add_trial(optuna.create_trial(params={name: value}, distributions={name: distribution}, value=1.0))
    with pytest.raises(BadInputError) as refusal:
        import_study("sqlite:///study.db", **{**NOTHING, "out": Path("mine.yaml")})
    assert str(refusal.value).startswith(said)
    assert list(folder.iterdir()) == [folder / "study.db"]


@pytest.mark.parametrize(
    ("study", "out", "name"),
    [
        ("mine", "o.yaml", "mine"),
        ("***", "o.yaml", "o"),
        ("***", None, "study"),
        (None, "o.yaml", "o"),
        ("a\nb", None, "a-b"),
    ],
)
def test_a_study_without_a_name_is_named_by_its_file(
    folder: Path, study: str | None, out: str | None, name: str
) -> None:
    made = optuna.create_study(study_name=study, storage="sqlite:///study.db")
    made.tell(made.ask({"x": FloatDistribution(0, 1)}), 1.0)
    path = None if out is None else Path(out)
    text, _ = import_study("sqlite:///study.db", **{**NOTHING, "out": path})
    Path("read.yaml").write_text(text)
    assert compose_sweep("read.yaml", ()).name == name


@pytest.mark.slow
def test_an_imported_study_is_launched(folder: Path) -> None:
    swathes.write_function_sweep(folder, "quick", trials=3)
    make("sqlite:///study.db", space={"x": FloatDistribution(0.0, 1.0)})
    words = ("--function", "tests.trials:quick", "--metric", "val_loss", "--out", "mine.yaml")
    said = swathes.succeed(folder, "import", "sqlite:///study.db", *words)
    assert "Wrote mine.yaml. It begins with what 6 trials say, in mine.trials.json." in said
    swathes.succeed(folder, "launch", "mine.yaml", "cluster=inline", "sweep.trials=3", "--quiet")
    assert swathes.read(folder, "status", "my-study")["counts"] == {"complete": 3}
