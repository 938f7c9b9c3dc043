"""Composing: a sweep's file, conf/ and overrides become one checked config, by Hydra itself."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from swathe import population, schema
from swathe.errors import BadInputError, bad_value
from swathe.events import Config
from swathe.folders import conf_folders, sweep_folders
from swathe.objectives import Goal, goal_of
from swathe.own_model import own_model
from swathe.repetition import Repetition
from swathe.schema import (
    RECIPE_GROUPS,
    SCHEMA_SUFFIX,
    SWEEP_GROUPS,
    CheckpointOptions,
    ClusterOptions,
    CostOptions,
    LanesOptions,
    PreflightOptions,
    SweepOptions,
    TrackingOptions,
)
from swathe.training import recipe

_GRAMMAR = "KEY=VALUE in Hydra's override grammar"
# Parts of a sweep's config that may change between its sessions: the trials are the same ones.
_NOT_IDENTITY = ("checkpoints", "cluster", "cost", "lanes", "preflight", "tracking", "device")
_NOT_IDENTITY_OF_SWEEP = (
    "name",
    "trials",
    "epochs",
    "wall_time",
    "device_seconds",
    "target",
    "patience",
    "min_improvement",
    "retries",
    "max_failures",
    "trial_timeout",
    "ask_ahead",
    "storage",
    "tags",
    "note",
)
# Groups that make nothing of a trial where they are off: a sweep that was launched before there were any is the same.
_OFF = {"augmentation": asdict(recipe.Augmentation()), "transfer": asdict(recipe.Transfer())}
# Options of a sweep that it is the same without, where they are empty.
_OFF_OF_SWEEP = ("enqueue", "warm_start", "warm_start_best")
# Sections of a sweep whose keys are the user's own, or that are not there until one of them is given.
_OPEN = ("sweep.tags.", "sweep.tags=", "sweep.constraints.", "sweep.constraints=", "sweep.population.")
_ENDS = ("layers", "ends")
_FILE_NODE = "swathe_file"
_ROOT_NODE = "swathe_root"


def sweep_names() -> list[str]:
    """Return the names that `swathe launch` knows here."""
    return sorted({path.stem for folder in sweep_folders() for path in folder.glob("*.yaml")})


@dataclass(frozen=True)
class Composition:
    """A config file with overrides, which can be composed again under other choices of config groups."""

    source: str
    body: Mapping[str, Any]
    groups: Mapping[str, str]
    overrides: tuple[str, ...]

    def compose(self, choices: Mapping[str, str] | None = None) -> DictConfig:
        """Compose with Hydra; `choices` are options of config groups that come before everything the file says.

        Raises `BadInputError`, one sentence with the file, the key and what is allowed.
        """
        store = ConfigStore.instance()
        store.store(name=_FILE_NODE, node=OmegaConf.create(dict(self.body)), provider="swathe")
        missing = [{group: option} for group, option in self.groups.items()]
        node = {"defaults": [f"root{SCHEMA_SUFFIX}", *missing, _FILE_NODE]}
        store.store(name=_ROOT_NODE, node=node, provider="swathe")
        # Hydra asks for a plus before a key that no file has, which every key of these is.
        own = [f"++{word}" if word.startswith(_OPEN) else word for word in self.overrides]
        words = [*own, *(f"{group}={option}" for group, option in (choices or {}).items())]
        with _hydra() as search_path, _refusals(self.source):
            config = compose(_ROOT_NODE, overrides=[search_path, *words])
            OmegaConf.resolve(config)
        return config


@contextmanager
def _hydra() -> Iterator[str]:
    """Start Hydra on our search path; yields the override that adds all folders but the first."""
    schema.register()
    folders = [*conf_folders(), *sweep_folders()]
    for folder in folders:
        if not folder.is_dir():
            raise BadInputError(
                f"Swathe's own folder {folder.name}/ is missing in this installation; install it again."
            )
    GlobalHydra.instance().clear()
    quoted = (str(folder).replace("'", "\\'") for folder in folders[1:])
    rest = ",".join(f"'file://{folder}'" for folder in quoted)
    with initialize_config_dir(str(folders[0]), version_base="1.3"):
        yield f"hydra.searchpath=[{rest}]"


def group_options() -> dict[str, list[str]]:
    """Return every config group on the search path with its options."""
    found: dict[str, set[str]] = {}
    for folder in conf_folders():
        for path in folder.glob("*/*.yaml"):
            found.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(options) for group, options in sorted(found.items())}


def parse_overrides(words: Sequence[str]) -> list[Override]:
    """Parse words of the command line with Hydra's parser; raises `BadInputError` for what is not its grammar."""
    parser = OverridesParser.create()
    parsed = []
    for word in words:
        try:
            parsed.append(parser.parse_override(word))
        except HydraException as error:
            raise BadInputError(
                f"Override {word!r} is not allowed ({_first_line(error)}); allowed: {_GRAMMAR}."
            ) from error
    return parsed


@dataclass(frozen=True)
class ComposedSweep:
    """A sweep's whole config.

    `values` is the composed config as plain data; `space` and `when` are the search space as it was written (that of
    the command line included, keys that were fixed there left out), `fixed` the values of those keys, and `searched`
    the keys whose search stands on the command line.
    """

    name: str
    values: Config
    config: DictConfig = field(repr=False)
    composition: Composition = field(repr=False)
    space: Mapping[str, str]
    when: Mapping[str, Any]
    fixed: Mapping[str, Any]
    searched: frozenset[str] = frozenset()

    @cached_property
    def sweep(self) -> SweepOptions:
        return SweepOptions(**self.values["sweep"])

    @cached_property
    def goal(self) -> Goal:
        """The objectives and the constraints."""
        return goal_of(self.values["sweep"])

    @property
    def repetition(self) -> Repetition:
        """Which trials are one point."""
        return Repetition(self.sweep.repeats, self.sweep.repeats_of)

    @cached_property
    def population(self) -> population.Options | None:
        """How its trials learn from each other, None where they do not."""
        return population.options_of(self.values["sweep"])

    @cached_property
    def cluster(self) -> ClusterOptions:
        return ClusterOptions(**self.values["cluster"])

    @property
    def checkpoints(self) -> CheckpointOptions:
        return CheckpointOptions(**self.values["checkpoints"])

    @property
    def lanes(self) -> LanesOptions:
        return LanesOptions(**self.values["lanes"])

    @property
    def preflight(self) -> PreflightOptions:
        return PreflightOptions(**self.values["preflight"])

    @property
    def cost(self) -> CostOptions:
        return CostOptions(**self.values["cost"])

    @cached_property
    def tracking(self) -> TrackingOptions:
        return TrackingOptions(**self.values["tracking"])

    @property
    def sampler(self) -> Mapping[str, Any]:
        return self.values["sampler"]  # type: ignore[no-any-return]

    @property
    def pruner(self) -> Mapping[str, Any]:
        return self.values["pruner"]  # type: ignore[no-any-return]

    @property
    def source(self) -> str:
        """The file as the user would name it."""
        return self.composition.source

    @cached_property
    def identity(self) -> str:
        """A digest of everything that makes this sweep's trials what they are; its budget and its cluster are not."""
        kept = {key: value for key, value in self.values.items() if key not in _NOT_IDENTITY and value != _OFF.get(key)}
        if kept.get("data", {}).get("classes", "") is None:
            kept["data"] = {key: value for key, value in kept["data"].items() if key != "classes"}
        kept["diagnosis"] = {key: value for key, value in kept["diagnosis"].items() if (key, value) != _ENDS}
        kept["sweep"] = {key: value for key, value in kept["sweep"].items() if key not in _NOT_IDENTITY_OF_SWEEP}
        if not kept["sweep"]["constraints"]:
            del kept["sweep"]["constraints"]
        if kept["sweep"]["repeats"] == 1:
            del kept["sweep"]["repeats"], kept["sweep"]["repeats_of"]
        kept["sweep"] = {key: value for key, value in kept["sweep"].items() if value or key not in _OFF_OF_SWEEP}
        kept["sweep"].pop("population", None)
        if self.population is not None:
            kept["sweep"]["population"] = asdict(self.population)
        return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def compose_sweep(sweep: str, overrides: Sequence[str]) -> ComposedSweep:
    """Compose a sweep: a name in sweeps/ or the path of a YAML file, with overrides of the command line.

    An override whose value is a sweep (`optim.lr=interval(0,1)`) adds to the search space, one with a plain value takes
    that key out of it. Raises `BadInputError`.
    """
    path = _find_sweep(sweep)
    source = _shown(path)
    body = _with_named_options(source, read_yaml(path, source))
    _check_search(source, body)
    parsed = parse_overrides(overrides)
    given = {override.key_or_group: override.value() for override in parsed}
    own = own_model(_with_inherited(body), given, given, _space_keys(body))
    body = _without_swapped(body, {**given, **own.swaps})
    searched = {override.key_or_group: _value_text(override) for override in parsed if override.is_sweep_override()}
    plain = [override for override in parsed if not override.is_sweep_override()]
    fixed = {override.key_or_group: override.value() for override in plain}
    words = own.words(str(override.input_line) for override in plain)
    body = own.body(body, {*_space_keys(body), *searched} - fixed.keys())
    named = _groups_named(body)
    function = _is_function(body, fixed)
    unpruned = _has_several(body, fixed) or _has_population(body, fixed)
    groups = {**SWEEP_GROUPS, "pruner": "none"} if unpruned else SWEEP_GROUPS
    defaults = groups if function else {**RECIPE_GROUPS, **groups}
    missing = {group: option for group, option in {**defaults, **own.groups}.items() if group not in named}
    composition = Composition(source, body, missing, words)
    config = composition.compose()
    values = plain_values(config)
    schema.check(values)
    _check_sections(values, (*defaults, *schema.SECTIONS))
    section = values["sweep"]
    written = {str(key): _space_text(source, key, value) for key, value in (section.pop("space") or {}).items()}
    when = _when_with(section.pop("when") or {}, searched, fixed)
    conditional = _keys_under(when)
    added = {key: text for key, text in searched.items() if key not in conditional}
    space = {key: text for key, text in {**written, **added}.items() if key not in fixed or key in searched}
    section["space"], section["when"] = space, when
    section["name"] = section["name"] or path.stem
    return ComposedSweep(section["name"], values, config, composition, space, when, fixed, frozenset(searched))


def _when_with(when: Mapping[str, Any], searched: Mapping[str, str], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conditions with what the command line says of their parameters."""
    changed: dict[str, Any] = {}
    for condition, branch in when.items():
        if not isinstance(branch, Mapping):
            changed[condition] = branch
            continue
        changed[condition] = {
            key: _when_with(value, searched, fixed)
            if key == "when" and isinstance(value, Mapping)
            else searched.get(key, value)
            for key, value in branch.items()
            if key not in fixed
        }
    return changed


def _keys_under(when: Mapping[str, Any]) -> set[str]:
    keys: set[str] = set()
    for branch in when.values():
        if isinstance(branch, Mapping):
            keys |= {key for key in branch if key != "when"}
            keys |= _keys_under(branch["when"]) if isinstance(branch.get("when"), Mapping) else set()
    return keys


def compose_run(overrides: Sequence[str]) -> Config:
    """Compose one training run from conf/ and overrides, without a search. Raises `BadInputError`."""
    return _compose_run({}, overrides, "the command line")


def override_values(values: Mapping[str, Any], overrides: Sequence[str], source: str = "the file") -> Config:
    """Return a run's recorded config with overrides, checked as any other. Raises `BadInputError`.

    An override that swaps a config group drops what the record had under that group.
    """
    swapped = {override.key_or_group for override in parse_overrides(overrides)} & set(RECIPE_GROUPS)
    body: dict[str, Any] = {key: value for key, value in values.items() if key not in swapped}
    defaults: list[Any] = []
    options = group_options()
    for group in RECIPE_GROUPS:
        section = body.get(group)
        if group in swapped or not isinstance(section, Mapping):
            continue
        name = section.get("name", RECIPE_GROUPS[group])
        if name not in options.get(group, ()):
            raise bad_value(f"{source}: {group}.name", name, ", ".join(options.get(group, ())))
        defaults.append({f"/{group}": name})
    return _compose_run({**body, "defaults": [*defaults, "_self_"]}, overrides, source)


def _compose_run(body: Mapping[str, Any], overrides: Sequence[str], source: str) -> Config:
    parsed = parse_overrides(overrides)
    for override in parsed:
        if override.is_sweep_override():
            allowed = "one value, since only `swathe launch` searches"
            raise bad_value(override.key_or_group, _value_text(override), allowed)
    fixed = {override.key_or_group: override.value() for override in parsed}
    function = _is_function(body, fixed)
    named = _groups_named(body)
    defaults = {"cluster": "local", "sampler": "random", "pruner": "none"} | ({} if function else dict(RECIPE_GROUPS))
    own = own_model(_with_inherited(body), fixed, fixed, ())
    missing = {group: option for group, option in {**defaults, **own.groups}.items() if group not in named}
    composition = Composition(source, body, missing, own.words(overrides))
    values = plain_values(composition.compose())
    schema.check(values)
    _check_sections(values, (*defaults, *schema.SECTIONS))
    return {key: value for key, value in values.items() if key not in NOT_A_TRIALS}


# Parts of a sweep's config that no trial's numbers depend on.
NOT_A_TRIALS = frozenset(
    {
        *("sweep", "checkpoints", "cluster", "cost", "lanes", "diagnosis", "preflight"),
        *("tracking", "sampler", "pruner", "device"),
    }
)


def plain_values(config: DictConfig) -> Config:
    """Return a composed config as plain data without what is not set: missing groups, an unused function's keys."""
    values: Config = {
        str(key): OmegaConf.to_container(config[key]) if OmegaConf.is_config(config[key]) else config[key]
        for key in config
        if not OmegaConf.is_missing(config, str(key))
    }
    if values.get("trainable") is None:
        values.pop("trainable", None)
        if not values.get("params"):
            values.pop("params", None)
    if recipe.own_target(values.get("model")) is not None:
        # A file of conf/ need not have it.
        values["model"] = {"name": recipe.OWN, **values["model"]}
    return values


# Files.


def _find_sweep(sweep: str) -> Path:
    if sweep.endswith((".yaml", ".yml")) or "/" in sweep:
        path = Path(sweep)
        if not _is_file(path):
            raise bad_value("SWEEP", sweep, "the path of an existing YAML file")
        return path
    for folder in sweep_folders():
        if _is_file(folder / f"{sweep}.yaml"):
            return folder / f"{sweep}.yaml"
    raise bad_value("SWEEP", sweep, f"the path of a YAML file, or one of {', '.join(sweep_names())}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False  # No file can have this name.


def _shown(path: Path) -> str:
    """Return a file as people name it: relative where it lies below the working folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return f"{path.parent.name}/{path.name}"


def read_yaml(path: Path, source: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, numbers as OmegaConf reads them (1e-5 is one). Raises `BadInputError`."""
    try:
        loaded = OmegaConf.load(path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" at line {mark.line + 1}"
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise BadInputError(f"{source}: no YAML{where} ({problem}); allowed: a YAML file with a mapping.") from error
    except Exception as error:  # PyYAML reads `!!timestamp x` and the like with whatever it stumbles over.
        raise BadInputError(f"{source}: cannot be read ({_first_line(error)}); allowed: a YAML file.") from error
    if isinstance(loaded, ListConfig) or not isinstance(loaded, DictConfig):
        raise BadInputError(f"{source}: holds no mapping; allowed: a YAML file with a mapping of keys to values.")
    body: dict[str, Any] = OmegaConf.to_container(loaded)  # type: ignore[assignment]
    defaults = body.get("defaults", [])
    if not isinstance(defaults, list):
        raise bad_value(f"{source}: defaults", defaults, "a list such as [/model: mlp, _self_]")
    return body


def _without_swapped(body: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the file says under a config group that the command line swaps: it was for another option."""
    named: dict[str, Any] = {}
    for entry in body.get("defaults", []):
        if isinstance(entry, Mapping):
            named |= {str(key).split()[-1].lstrip("/"): option for key, option in entry.items()}
    swapped = {group for group in group_options() if group in given and given[group] != named.get(group, given[group])}
    return {key: value for key, value in body.items() if key not in swapped}


def _check_search(source: str, body: Mapping[str, Any]) -> None:
    section = body.get("sweep")
    for name, allowed in (
        ("space", "a mapping of keys to searches, such as {optim.lr: 'interval(0.01, 1)'}"),
        ("when", "conditions such as 'optim=momentum', each with its parameters"),
    ):
        value = section.get(name) if isinstance(section, Mapping) else None
        if value is not None and not isinstance(value, Mapping):
            raise bad_value(f"{source}: sweep.{name}", value, allowed)


def _space_keys(body: Mapping[str, Any]) -> set[str]:
    """Return the keys that a file searches, and those that it builds on."""
    sections = (one.get("sweep") for one in _with_inherited(body))
    spaces = (section.get("space") for section in sections if isinstance(section, Mapping))
    return {str(key) for space in spaces if isinstance(space, Mapping) for key in space}


def _with_named_options(source: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's content with `sampler: gp` as its defaults list has it: `- /sampler: gp`."""
    known = group_options()
    named = {key: value for key, value in body.items() if key in known and isinstance(value, str)}
    if not named:
        return dict(body)
    listed = _groups_named({"defaults": body.get("defaults", [])})
    for group, option in named.items():
        if option not in known[group]:
            raise bad_value(f"{source}: {group}", option, f"{', '.join(known[group])}, or a mapping of its keys")
        if group in listed:
            raise bad_value(f"{source}: {group}", option, "to be named once, and the defaults list names one")
    defaults = [{f"/{group}": option} for group, option in named.items()] + (body.get("defaults") or ["_self_"])
    kept = {key: value for key, value in body.items() if key not in named}
    return {**kept, "defaults": defaults}


def _groups_named(body: Mapping[str, Any]) -> set[str]:
    """Return the config groups that a file's defaults list names, and those of the sweeps that it builds on."""
    return {
        str(key).split()[-1].lstrip("/").split("@")[0]
        for one in _with_inherited(body)
        for entry in one.get("defaults", [])
        if isinstance(entry, Mapping)
        for key in entry
    }


def _with_inherited(body: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[Mapping[str, Any]]:
    """Yield a file's content and that of the sweeps that it builds on; refuses a sweep that builds on itself."""
    yield body
    for entry in body.get("defaults", []):
        if not isinstance(entry, str) or entry == "_self_":
            continue
        name = entry.lstrip("/")
        if name in above:
            circle = " -> ".join((*above, name))
            raise bad_value("defaults", entry, f"a sweep that does not build on itself, as here: {circle}")
        for folder in sweep_folders():
            path = folder / f"{name}.yaml"
            if path.is_file():
                yield from _with_inherited(read_yaml(path, _shown(path)), (*above, name))
                break


def _check_sections(values: Mapping[str, Any], sections: Iterable[str]) -> None:
    """Refuse a part of the config that was emptied or taken out, such as with `sampler=[]` or `~sweep`."""
    for section in sections:
        if not isinstance(values.get(section), Mapping):
            options = ", ".join(group_options().get(section, ()))
            raise bad_value(section, values.get(section), options or "its keys, each with a value")


def _is_function(body: Mapping[str, Any], fixed: Mapping[str, Any]) -> bool:
    if "trainable" in fixed:
        return fixed["trainable"] is not None
    return any(one.get("trainable") is not None for one in _with_inherited(body))


def _has_several(body: Mapping[str, Any], fixed: Mapping[str, Any]) -> bool:
    """Whether a sweep has several objectives, so that the pruner that it does not name is none."""
    if "sweep.metric" in fixed:
        return isinstance(fixed["sweep.metric"], list)
    sections = (one.get("sweep") for one in _with_inherited(body))
    named = [section["metric"] for section in sections if isinstance(section, Mapping) and "metric" in section]
    # A file's own word comes before those of the sweeps that it builds on.
    return bool(named) and isinstance(named[0], list)


def _has_population(body: Mapping[str, Any], fixed: Mapping[str, Any]) -> bool:
    """Whether a sweep's trials are populations, so that the pruner that it does not name is none."""
    if population.KEY in fixed:
        return fixed[population.KEY] is not None
    if any(key.startswith(f"{population.KEY}.") for key in fixed):
        return True
    sections = (one.get("sweep") for one in _with_inherited(body))
    named = [one["population"] for one in sections if isinstance(one, Mapping) and "population" in one]
    return bool(named) and named[0] is not None


def _value_text(override: Override) -> str:
    return str(override.input_line).partition("=")[2]


def _space_text(source: str, key: object, value: Any) -> str:
    if not isinstance(value, str):
        raise bad_value(
            f"{source}: sweep.space.{key}", value, "a search such as interval(0, 1), choice(a, b), range(1, 9)"
        )
    return value


# Refusing in one sentence.

_FULL_KEY = re.compile(r"full_key: (\S+)")
_UNKNOWN = re.compile(r"Key '([^']*)' (?:is )?not in ")
_TYPE = re.compile(
    r"(?:Value|Cannot convert|Cannot assign) '?(.*?)'? of type '([^']*)' "
    r"(?:could not be converted to|is incompatible with type hint) '?([^'\n]*)'?"
)
_INSIDE = re.compile(r"^In '([^']*)':")
_KINDS = {"Float": "a number", "Integer": "an integer", "Boolean": "true or false", "String": "text"}


@contextmanager
def _refusals(source: str) -> Iterator[None]:
    try:
        yield
    except BadInputError:
        raise
    except MissingConfigException as error:
        raise _no_such_option(source, error) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise _refusal(source, error) from error
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        key = _FULL_KEY.search(str(error))
        where = source if key is None else f"{source}: {key[1]}"
        raise BadInputError(f"{where}: {_first_line(error)}.") from error


def _no_such_option(source: str, error: MissingConfigException) -> BadInputError:
    group, _, option = str(error.missing_cfg_file or "").rpartition("/")
    if not group:
        return bad_value(f"{source}: defaults", option, "config groups such as /model: mlp, sweeps, and _self_")
    options = [name for name in error.options or () if not name.endswith(SCHEMA_SUFFIX)]
    if not options:
        return bad_value(f"{source}: config group", group, ", ".join(group_options()))
    return bad_value(group, option, ", ".join(options))


def _refusal(source: str, error: Exception) -> BadInputError:
    texts = [str(error)]
    cause = error.__cause__
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(texts)
    inside = _INSIDE.match(texts[0])
    if inside is not None:
        where = source if inside[1] in (_FILE_NODE, _ROOT_NODE) else f"conf/{inside[1]}.yaml"
        prefix = f"{where}: "
    else:
        prefix = ""
    full = _FULL_KEY.search(text)
    unknown, wrong = _UNKNOWN.search(text), _TYPE.search(text)
    if unknown is not None and full is not None:
        return BadInputError(f"{prefix}{full[1]}: there is no such key; allowed: {_siblings(full[1])}.")
    if wrong is not None and full is not None:
        return bad_value(f"{prefix}{full[1]}", wrong[1], _KINDS.get(wrong[3], wrong[3].removeprefix("Union")))
    where_key = "" if full is None else f"{full[1]}: "
    lines = [line for line in texts[-1].splitlines() if line.strip() and "raised while composing" not in line]
    lines = [_INSIDE.sub("", line).strip() for line in lines]
    return BadInputError(f"{prefix}{where_key}{(lines or [type(error).__name__])[0].rstrip('.')}.")


def _siblings(full_key: str) -> str:
    """Return the keys that stand where an unknown one was written, from the classes that are the schema."""
    parent = full_key.rpartition(".")[0]
    known = _keys_of(parent)
    return ", ".join(known) if known else "the keys of its config group; `swathe config SWEEP` prints them"


def _keys_of(section: str) -> list[str]:
    if not section:
        return [item.name for item in fields(schema.Root)]
    sections = schema.SECTIONS
    if section in sections:
        return [item.name for item in fields(sections[section])]
    kinds: Mapping[str, Mapping[str, Any]] = {
        "model": recipe.MODELS,
        "data": recipe.DATASETS,
        "optim": recipe.OPTIMIZERS,
        "schedule": recipe.SCHEDULES,
        "regularization": {"": recipe.Regularization},
        "augmentation": {"": recipe.Augmentation},
        "transfer": recipe.TRANSFERS,
    }
    names = (item.name for kind in kinds.get(section, {}).values() for item in fields(kind))
    return list(dict.fromkeys(names))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
