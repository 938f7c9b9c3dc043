"""The app's side of a sweep: checks what was asked for, hands the app over to the driver and waits for its end."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.swathe_sweeper._config import OPTIONS, SAMPLERS
from hydra_plugins.swathe_sweeper._space import AppSpace, Extender, Search, read
from swathe.analysis import front_of, winner_of
from swathe.errors import BadInputError, SwatheError, bad_value
from swathe.events import TrialState, Value
from swathe.home import Home, SweepFolder, open_home, plain_name
from swathe.objectives import MOST_OBJECTIVES, Goal, goal_of
from swathe.output import EXIT_BAD_INPUT
from swathe.pickled import pack
from swathe.space import ends
from swathe.study import PastTrial, Study

log = logging.getLogger("swathe")

# So many values of a space are tried before anything is started: a composition takes some 50 ms.
_TRIED = 40
# Samplers that Swathe's own sweeps know by another name.
_OWN_NAMES = {"nsgaii": "nsga2"}
# The metric under which an app's numbers are reported, whatever they are.
METRIC = "objective"
# The key that names a sweep here.
STUDY_NAME = "hydra.sweeper.study_name"


@dataclass(frozen=True, slots=True)
class App:
    """What Hydra gave the sweeper: its context, the app's function and the multirun's config."""

    context: HydraContext
    task: TaskFunction
    config: DictConfig

    @property
    def sweep_dir(self) -> Path:
        return Path(str(self.config.hydra.sweep.dir))


@dataclass(frozen=True, slots=True)
class Handed:
    """Where the driver finds what it is to run."""

    folder: Path

    @property
    def sweep_file(self) -> Path:
        return self.folder / "sweep.yaml"

    @property
    def app_file(self) -> Path:
        return self.folder / "app.pkl"

    @property
    def space_file(self) -> Path:
        return self.folder / "space.pkl"


def run(options: Mapping[str, Any], arguments: Sequence[str], app: App) -> None:
    """Run a sweep of the app to its end. Ends the process where it does not succeed, with `swathe launch`'s codes."""
    try:
        _run(options, arguments, app)
    except BadInputError as error:
        print(f"swathe: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except SwatheError as error:
        print(f"swathe: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _run(options: Mapping[str, Any], arguments: Sequence[str], app: App) -> None:
    search = read(_plain(options.get("params")), _plain(options.get("search_space")), arguments)
    extend = _extender(options.get("custom_search_space"))
    _try(app, search)
    space = AppSpace.of(search, extend, _of_app(app.config))
    # The app's own function draws once, too, before Ray starts.
    space.sample(lambda _, distribution: ends(distribution)[0])
    home = open_home(create=True)
    name = _name(options, app)
    # Workers of a running sweep read the files that are handed over; a launch that is refused must not replace them.
    _folder(name, home).refuse_while_driven()
    # A study goes on with the app's config that it began with: with another one, neither its files nor it are touched.
    handed = Handed(home.path / "hydra" / name / _digest(_of_app(app.config)))
    body = _body(options, name, search, handed, app)
    _make_sweep_dir(app.sweep_dir)
    OmegaConf.save(app.config, app.sweep_dir / "multirun.yaml")
    _hand_over(app, space, body, handed)
    code = _drive(handed, home)
    if code < 0:
        raise _killed(-code)
    if code == EXIT_BAD_INPUT:
        # The driver has said why.
        raise SystemExit(code)
    history = _history(name, home, options)
    _check_failures(history, options)
    if code != 0:
        raise SystemExit(code)
    _write_results(history, goal_of(body["sweep"]), app.sweep_dir)


def _folder(name: str, home: Home) -> SweepFolder:
    try:
        return home.sweep(name)
    except BadInputError as error:
        raise as_study_name(error) from None


def as_study_name(error: BadInputError) -> BadInputError:
    """Return what is said of `sweep.name` in the words of who names a study."""
    return BadInputError(str(error).replace("sweep.name", STUDY_NAME))


def _make_sweep_dir(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise bad_value("hydra.sweep.dir", str(folder), f"a folder that can be made ({error.strerror})") from error


def _killed(number: int) -> SwatheError:
    return SwatheError(f"The sweep's driver was killed by signal {number}; the same command goes on.")


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _given(value: Any) -> dict[str, Any]:
    """Return the options that are not null."""
    return {key: one for key, one in (_plain(value) or {}).items() if one is not None}


def _of_app(config: DictConfig) -> DictConfig:
    """Return the app's part of the config, as the app's function gets it."""
    copy = config.copy()
    OmegaConf.set_readonly(copy, False)
    OmegaConf.set_struct(copy, False)
    del copy["hydra"]
    return copy


def _digest(config: DictConfig) -> str:
    return hashlib.sha256(OmegaConf.to_yaml(config, sort_keys=True).encode()).hexdigest()[:16]


def _extender(path: str | None) -> Extender | None:
    if path is None:
        return None
    # As hydra-optuna-sweeper's own example has it, '.module.function' is one beside the app.
    module, _, function = path.removeprefix(".").rpartition(".")
    try:
        found: Extender = getattr(importlib.import_module(module), function)
    except Exception as error:  # Whatever the module raises.
        allowed = f"a function by its dotted path ({type(error).__name__}: {error})"
        raise bad_value("hydra.sweeper.custom_search_space", path, allowed) from error
    return found


# Checking.


def _try(app: App, search: Search) -> None:
    """Compose the app under the ends of every search, so that an unknown key is found before Ray starts."""
    first: dict[str, Value] = {name: ends(one.distribution)[0] for name, one in search.parameters.items()}
    others = ({**first, name: end} for name, one in search.parameters.items() for end in ends(one.distribution)[1:])
    for params in islice([first, *others], _TRIED):
        words = search.overrides(params)
        try:
            app.context.config_loader.load_sweep_config(app.config, words)
        except (HydraException, OmegaConfBaseException) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise BadInputError(f"The overrides {' '.join(words)!r} are not allowed for this app: {reason}.") from error


def _name(options: Mapping[str, Any], app: App) -> str:
    given = options.get("study_name")
    if given is not None:
        return str(given)
    job = plain_name(str(app.config.hydra.job.name)) or "app"
    return f"{job[:60]}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def _body(options: Mapping[str, Any], name: str, search: Search, handed: Handed, app: App) -> dict[str, Any]:
    """Return the sweep as one of Swathe's own files has it."""
    sampler, seed = _sampler(_plain(options.get("sampler")))
    pruner = _given(options.get("pruner")) or {"name": "none"}
    rate = options.get("max_failure_rate", 0.0)
    if not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise bad_value("hydra.sweeper.max_failure_rate", rate, "0 to 1")
    direction = _direction(_plain(options.get("direction")))
    several = isinstance(direction, list)
    metric = [f"{METRIC}_{index}" for index in range(len(direction))] if several else METRIC
    if several and pruner == {"name": "asha"}:
        # The default: with several objectives there is no pruning.
        pruner = {"name": "none"}
    space = {key: str(parameter.distribution) for key, parameter in search.parameters.items()}
    return {
        "defaults": [{"/sampler": sampler["name"]}, {"/pruner": pruner.get("name")}, "_self_"],
        "trainable": "hydra_plugins.swathe_sweeper._trial:run",
        "params": {
            "app": str(handed.app_file),
            "overrides": list(search.fixed),
            "space": space,
            **({"objectives": metric} if several else {}),
        },
        "sampler": sampler,
        "pruner": pruner,
        "cluster": {**_launcher(app, options.get("n_jobs")), **_given(options.get("cluster"))},
        "tracking": _given(options.get("tracking")),
        "sweep": {
            "name": name,
            "metric": metric,
            "direction": direction,
            "trials": options.get("n_trials"),
            "storage": options.get("storage"),
            # Another one each time where neither seed nor name is given; and the same one for a study that goes on.
            "seed": zlib.crc32(name.encode()) if seed is None else seed,
            # An app that raises is not run again, and the first error ends a sweep that allows none.
            "max_failures": 1 if rate == 0 else 1_000_000,
        },
    }


def _launcher(app: App, jobs: int | None) -> dict[str, Any]:
    """Return what `hydra/launcher` means here: how many jobs at once, and on which Ray. The jobs run as trials."""
    launcher = _plain(app.config.hydra.launcher) or {}
    target = str(launcher.get("_target_", ""))
    match target.rpartition(".")[2]:
        case "BasicLauncher":
            return {"workers": jobs}
        case "JoblibLauncher":
            most = launcher.get("n_jobs")
            return {"workers": jobs if most is None or most < 1 else most if jobs is None else min(jobs, most)}
        case "RayLauncher":
            address = launcher.get("ray", {}).get("init", {}).get("address")
            return {"workers": jobs, "address": address}
    raise bad_value("hydra/launcher", target, "basic, joblib and ray, since Swathe's own workers run the jobs")


def _direction(given: Any) -> str | list[str]:
    """Return the direction, or those of several objectives."""
    words = [str(getattr(one, "name", one)) for one in (given if isinstance(given, list) else [given])]
    if not 1 <= len(words) <= MOST_OBJECTIVES or any(word not in ("minimize", "maximize") for word in words):
        allowed = f"minimize, maximize, or a list of up to {MOST_OBJECTIVES} of them"
        raise bad_value("hydra.sweeper.direction", given, allowed)
    return words[0] if len(words) == 1 else words


def _sampler(given: Any) -> tuple[dict[str, Any], int | None]:
    """Return Swathe's options for a sampler that is named by Optuna's class, and the seed that it is given."""
    if not isinstance(given, Mapping):
        choices = ", ".join(f"hydra/sweeper/sampler={name}" for name in SAMPLERS)
        raise bad_value("hydra.sweeper.sampler", given, f"a sampler's config, as these name one: {choices}")
    target = str(given.get("_target_"))
    names = {theirs: ours for ours, theirs in SAMPLERS.items()}
    if target not in names:
        raise bad_value("hydra.sweeper.sampler", target, ", ".join(SAMPLERS))
    seed = given.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise bad_value("hydra.sweeper.sampler.seed", seed, "an integer")
    name = names[target]
    options = _given({key: given.get(key) for key in OPTIONS.get(name, ())})
    return {"name": _OWN_NAMES.get(name, name), **options}, seed


# Handing over.


def _hand_over(app: App, space: AppSpace, body: Mapping[str, Any], handed: Handed) -> None:
    handed.folder.mkdir(parents=True, exist_ok=True)
    whole = (app.context, app.task, app.config, Singleton.get_state())
    handed.app_file.write_bytes(pack(whole, "The app"))
    handed.space_file.write_bytes(pack(space, "The search space"))
    handed.sweep_file.write_text(yaml.safe_dump(dict(body), sort_keys=False))


def _drive(handed: Handed, home: Home) -> int:
    """Run the driver in a process of its own, as Hydra's state is the app's here; return its exit code."""
    command = [sys.executable, "-P", "-m", "hydra_plugins.swathe_sweeper._driver", str(handed.folder)]
    said = shlex.join(["python", *sys.argv])
    environment = {**os.environ, "SWATHE_HOME": str(home.path), "SWATHE_COMMAND": said}
    with subprocess.Popen(command, env=environment) as driver, _passed_on(driver):
        return driver.wait()


@contextmanager
def _passed_on(driver: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave ^C to the driver, which the terminal tells as well, and pass SIGTERM on to it."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, frame: driver.send_signal(number)),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# Afterwards.


def _history(name: str, home: Home, options: Mapping[str, Any]) -> list[PastTrial]:
    study = Study.load(name, folder=home.sweep(name).path, storage=options.get("storage"))
    try:
        return study.history()
    finally:
        study.close()


def _check_failures(history: Sequence[PastTrial], options: Mapping[str, Any]) -> None:
    over = [past for past in history if past.state.final]
    failed = [past for past in over if past.state is TrialState.FAILED]
    rate = options.get("max_failure_rate", 0.0)
    if failed and len(failed) / len(over) > rate:
        reason = str(failed[-1].attrs.get("reason", "no reason is known")).rstrip(".")
        raise SwatheError(
            f"{len(failed)} of {len(over)} trials failed, more than hydra.sweeper.max_failure_rate={rate} allows; "
            f"trial {failed[-1].number}: {reason}."
        )


def _write_results(history: Sequence[PastTrial], goal: Goal, folder: Path) -> None:
    """Write `optimization_results.yaml` as hydra-optuna-sweeper does: the best trial, or the front by number."""
    best = winner_of(history, goal)
    if best is None:
        log.warning("No trial is complete, so there is no best one.")
        return
    results: dict[str, Any] = {"name": "optuna"}
    if goal.several:
        front = sorted(front_of(history, goal), key=lambda past: past.number)
        results["solutions"] = [{"params": dict(past.params), "values": list(past.objectives)} for past in front]
        log.info("Number of Pareto solutions: %s", len(front))
        for past in front:
            log.info("    Values: %s, Params: %s", list(past.objectives), dict(past.params))
    else:
        results |= {"best_params": dict(best.params), "best_value": best.value}
        log.info("Best parameters: %s", dict(best.params))
        log.info("Best value: %s", best.value)
    OmegaConf.save(OmegaConf.create(results), folder / "optimization_results.yaml")
