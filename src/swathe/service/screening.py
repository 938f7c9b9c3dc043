"""What a request's config may not hold: a config must not be a way to run code, nor to read outside of the folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from swathe.errors import BadInputError, bad_value
from swathe.home import open_home

# As deep as YAML may be nested, far beyond what a sweep needs.
MAX_DEPTH = 24
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
# The keys whose value is a function that is imported.
_FUNCTIONS = frozenset({"trainable", "translator"})
_DEFAULT = re.compile(r"(?:(?:override|optional) +)*/?[A-Za-z0-9_]+(?:[/.@][A-Za-z0-9_]+)*")
# What may stand around a word in Hydra's grammar.
_BETWEEN = re.compile(r"[\s,()\[\]{}'\"=:\\]+")
_MODEL = re.compile(r"(?<!\w)(?:models|runs):/(?!/)")
_ADDRESS = re.compile(r"(?<![A-Za-z0-9_])address(?![A-Za-z0-9_])")
_SHOWN = 100


def screen_request(text: str | None, overrides: Sequence[str]) -> None:
    """Refuse a sweep's YAML or overrides that hold what may not come over the network; raises `BadInputError`.

    Nothing of it is composed for that, and nothing imported.
    """
    if text is not None:
        _screen_yaml(text)
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0].strip()
        _screen_key(key, word)
        if _ADDRESS.search(word):
            raise _not_over_network("cluster.address")
        screen_text(word)


def screen_values(values: Any) -> None:
    """Refuse what a parsed value holds in its texts, as `screen_request` does for the words themselves."""
    for text in _texts(values):
        screen_text(text)


def screen_composed(
    values: Mapping[str, Any], searches: Iterable[tuple[str, str]], allowed_modules: Sequence[str]
) -> None:
    """Refuse a composed config, and the searches of its space by key, that name a function of a module not allowed."""
    for key, text in _pairs(values):
        if "_target_" in (key, text):
            raise _not_code("_target_")
        if key in _FUNCTIONS and text:
            _screen_module(text, allowed_modules)
        _screen_function(text, allowed_modules)
    for key, search in searches:
        for word in re.split(r"[\s,()\[\]{}'\"=]+", search):
            # What is imported is what stands before a colon, and where there is none, perhaps all of it.
            if key.rpartition(".")[2] in _FUNCTIONS and word not in ("", "choice", "null"):
                _screen_module(word, allowed_modules)
            _screen_function(word, allowed_modules)


def screen_text(text: str) -> None:
    """Refuse one text: what Hydra could run, what it would look up, URLs, and paths outside the working folder."""
    if "\0" in text:
        raise bad_value("sweep", _short(text), "texts without NUL")
    if "_target_" in text:
        raise _not_code("_target_")
    if "${" in text:
        raise bad_value(
            "sweep", _short(text), "texts without interpolations, which could read the server's environment"
        )
    if "://" in text:
        raise _not_over_network(_short(text))
    # The name of a model in MLflow; what comes after it is looked at as a path all the same.
    for word in (text, *_BETWEEN.split(_MODEL.sub("", text))):
        _screen_path(word)


def _screen_path(word: str) -> None:
    folder, home = os.path.realpath(Path.cwd()), os.path.realpath(open_home().path)
    path = os.path.realpath(os.path.join(folder, os.path.expanduser(word)))
    # The home holds the tokens; what is in it has names, such as those of sweeps.
    if not _within(path, folder) or _within(path, home):
        raise bad_value("sweep", _short(word), "paths inside the server's working folder, and outside of its home")


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)


def _screen_function(text: str, allowed_modules: Sequence[str]) -> None:
    """Refuse what looks like a function wherever it stands."""
    if _FUNCTION.fullmatch(text):
        _screen_module(text, allowed_modules)


def _screen_module(text: str, allowed_modules: Sequence[str]) -> None:
    if text.partition(":")[0] not in allowed_modules:
        allowed = ", ".join(allowed_modules) or "none, as the server was started without --allow-module"
        raise bad_value("function", _short(text), f"functions of these modules: {allowed}")


def _screen_key(key: str, word: str) -> None:
    if re.match(r"hydra(?:[./@]|$)", key):
        raise bad_value("hydra", _short(word), "keys of the sweep itself")


def _not_code(key: str) -> BadInputError:
    return BadInputError(
        f"{key}: it is not allowed in a sweep that comes over the network; allowed: keys of the sweep."
    )


def _not_over_network(key: str) -> BadInputError:
    return BadInputError(
        f"{key}: addresses and URLs are not allowed in a sweep that comes over the network; allowed: those of the "
        "server's own conf/ and sweeps/."
    )


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _texts(values: Any) -> Iterable[str]:
    """Yield every text in plain data, keys included."""
    match values:
        case str():
            yield values
        case dict():
            for key, item in values.items():
                yield str(key)
                yield from _texts(item)
        case list() | tuple():
            for item in values:
                yield from _texts(item)


def _pairs(values: Any, key: str = "") -> Iterable[tuple[str, str]]:
    """Yield every text in plain data with the key that it stands under, and every key with an empty one."""
    match values:
        case str():
            yield key, values
        case dict():
            for name, item in values.items():
                yield str(name), ""
                yield from _pairs(item, str(name))
        case list() | tuple():
            for item in values:
                yield from _pairs(item, key)


# YAML.


def _screen_yaml(text: str) -> None:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _screen_events(text, loader)
        root = yaml.compose(text, Loader=loader)
    except yaml.YAMLError:
        # Composing says what is wrong with it, in the command line's own words.
        return
    if isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            if isinstance(key, yaml.ScalarNode) and key.value == "defaults":
                _screen_defaults(value)
            else:
                _screen_pair(key, value)


def _screen_events(text: str, loader: Any) -> None:
    """Refuse anchors, whose aliases can mean a billion values, and deep nesting, before there is a tree."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise bad_value("yaml", "an anchor or alias", "YAML without them")
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        if depth > MAX_DEPTH:
            raise bad_value("yaml", f"nesting deeper than {MAX_DEPTH}", f"at most {MAX_DEPTH} levels")


def _screen_nodes(nodes: Iterable[Any]) -> None:
    for node in nodes:
        match node:
            case yaml.ScalarNode():
                screen_text(node.value)
            case yaml.SequenceNode():
                _screen_nodes(node.value)
            case yaml.MappingNode():
                for key, value in node.value:
                    _screen_pair(key, value)


def _screen_pair(key: Any, value: Any) -> None:
    if isinstance(key, yaml.ScalarNode):
        _screen_key(key.value, key.value)
        if _ADDRESS.search(key.value):
            raise _not_over_network("cluster.address")
    _screen_nodes([key, value])


def _screen_defaults(node: Any) -> None:
    """Refuse a defaults list that names anything but config groups, options and sweeps by their plain names."""
    if not isinstance(node, yaml.SequenceNode):
        _screen_nodes([node])
        return
    for entry in node.value:
        pairs = entry.value if isinstance(entry, yaml.MappingNode) else [(entry, None)]
        for key, option in pairs:
            if not isinstance(key, yaml.ScalarNode) or not _DEFAULT.fullmatch(key.value):
                shown = _short(str(key.value))
                raise bad_value("defaults", shown, "config groups such as /model, sweeps by name, and _self_")
            _screen_key(key.value.split()[-1].lstrip("/"), key.value)
            if option is not None:
                _screen_nodes([option])
