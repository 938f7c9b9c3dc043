"""The code of a network of the user's own: found by the dotted path in `model._target_`, and told from other code.

Needs no PyTorch, but for what the user's module imports.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import json
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swathe.errors import BadInputError, bad_value
from swathe.training.recipe import CSV, IMAGE_SHAPES, Own, Recipe, Text, is_language_model, is_regression

if TYPE_CHECKING:
    from swathe.training.data import Dataset

KEY = "model._target_"
# The tags that have the digest of the code, and the sizes that the network was made for.
SOURCE, SIZES = "swathe.model_source", "swathe.model_sizes"
_ALLOWED = "the dotted path of an nn.Module, such as mynet.Net for the class Net in mynet.py of the working folder"
_KEYWORDS = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def check_call(recipe: Recipe) -> None:
    """Refuse a network of one's own that cannot be imported or takes other arguments; of other recipes, do nothing.

    Imports the user's module. Raises `BadInputError`.
    """
    if isinstance(recipe.model, Own):
        arguments_of(recipe.model, dict.fromkeys(offered(recipe)))


def load(target: str) -> Callable[..., Any]:
    """Import what a dotted path names, a class of `nn.Module` or a function; raises `BadInputError`."""
    parts = target.split(".")
    for count in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:count])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            # A class within a class has a path that ends in no module; what the module itself lacks is an error.
            if error.name is not None and f"{name}.".startswith(f"{error.name}.") and count > 1:
                continue
            raise _not_imported(target, error) from error
        except (Exception, SystemExit) as error:
            raise _not_imported(target, error) from error
        return _checked(target, _within(target, found, name, parts[count:]))
    raise bad_value(KEY, target, _ALLOWED)


def arguments_of(model: Own, offers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments that a network is made with: the config's, and those of `offers` that it names.

    Raises `BadInputError` for an argument that its signature does not have, and for one that nobody gives.
    """
    target = load(model.target)
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return dict(model.arguments)  # Of code in C there is none.
    named = {one.name: one for one in parameters if one.kind in _KEYWORDS}
    if not any(one.kind is Parameter.VAR_KEYWORD for one in parameters):
        for key, value in model.arguments.items():
            if key not in named:
                raise bad_value(f"model.{key}", value, f"the arguments of {model.target}: {_listed(named)}")
    taken = {**{key: value for key, value in offers.items() if key in named}, **model.arguments}
    for key, one in named.items():
        if key not in taken and one.default is Parameter.empty:
            allowed = f"a value, as {model.target} has no default for it; given by Swathe: {_listed(offers)}"
            raise bad_value(f"model.{key}", None, allowed)
    return taken


def offered(recipe: Recipe) -> list[str]:
    """Return the names of the arguments that Swathe gives to a network for this data, see `swathe.training.own`."""
    data = recipe.data
    names = ["in_features", "out_features"]
    if data.name in IMAGE_SHAPES:
        names.append("image_shape")
    if not is_regression(data) and not is_language_model(data):
        names.append("classes")
    if not isinstance(data, CSV) and hasattr(data, "length"):
        names += ["length", "vocabulary" if isinstance(data, Text) else "variables"]
    return names


@lru_cache(maxsize=64)
def source_digest(target: str) -> str:
    """Return a digest of the code behind a dotted path: its module, and all that it imports of the same folder.

    Of an installed package it is the module alone, and the package's version. It is made once in a process, which goes
    on with the code that it has imported; "" where there is no such module.
    """
    top = target.partition(".")[0]
    root = _root(top)
    if root is None:
        return ""
    digest = hashlib.sha256()
    if _is_installed(root):
        for path in _files(root, target):
            digest.update(path.read_bytes())
        digest.update(_version(top).encode())
        return digest.hexdigest()
    for path in _with_imports(root, target):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def source_of(recipe: Recipe) -> str | None:
    """Return the digest of the code that a recipe's network is the user's own of, None of another network."""
    return source_digest(recipe.model.target) if isinstance(recipe.model, Own) else None


def source_tags(recipe: Recipe, data: Dataset) -> dict[str, str]:
    """Return that digest, and the sizes that the network was made for, as tags of the trial's run."""
    source = source_of(recipe)
    if source is None:
        return {}
    sequence = None if data.sequence is None else asdict(data.sequence)
    sizes = {"inputs": data.train_x.shape[1], "outputs": data.classes or 1, "image_shape": data.image_shape}
    return {SOURCE: source, SIZES: json.dumps({**sizes, "sequence": sequence})}


def copy_source(target: str, folder: Path) -> list[str]:
    """Copy the code behind a dotted path into a folder; return what then lies in it, nothing of an installed package.

    Those are the files of which `source_digest` is made, in their packages.
    """
    root = _root(target.partition(".")[0])
    if root is None or _is_installed(root):
        return []
    for path in _with_imports(root, target):
        place = folder / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    return sorted(str(path) for path in folder.iterdir())


def installed(target: str) -> str | None:
    """Return the installed package behind a dotted path as `name==version`, None where it has none of its own."""
    top = target.partition(".")[0]
    number = _version(top)
    return f"{top}=={number}" if number else None


def _not_imported(target: str, error: BaseException) -> BadInputError:
    words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return BadInputError(f"{KEY}: {target!r} cannot be imported ({words}); allowed: {_ALLOWED}.")


def _within(target: str, module: Any, name: str, path: list[str]) -> Any:
    found = module
    for part in path:
        if not hasattr(found, part):
            own = [key for key, value in vars(found).items() if _is_network(value) and value.__module__ == name]
            allowed = f"the networks of {name}: {_listed(own)}"
            raise bad_value(KEY, target, allowed)
        found = getattr(found, part)
    return found


def _checked(target: str, found: Any) -> Callable[..., Any]:
    if not callable(found) or (isinstance(found, type) and not _is_network(found)):
        raise bad_value(KEY, target, "a class of torch.nn.Module, or a function that returns one")
    return found  # type: ignore[no-any-return]


def _is_network(found: object) -> bool:
    # By its ancestors' names: PyTorch need not be imported for what is none.
    return isinstance(found, type) and any(
        (one.__module__, one.__name__) == ("torch.nn.modules.module", "Module") for one in found.__mro__
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


# Where code is.


def _root(top: str) -> Path | None:
    """Return the folder in which a module without dots lies; None where there is none, or it is no file."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).absolute().parent
    return Path(spec.origin).absolute().parent if spec.has_location and spec.origin else None


def _is_installed(root: Path) -> bool:
    paths = sysconfig.get_paths()
    return any(root == Path(paths[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib"))


def _version(top: str) -> str:
    try:
        return version(top)
    except PackageNotFoundError:
        return ""


def _files(root: Path, name: str) -> Iterator[Path]:
    """Yield the files of a dotted name, those of the packages around it first, as far as it names modules."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:count])
        yield from (path for path in (place / "__init__.py", place.with_name(f"{place.name}.py")) if path.is_file())


def _with_imports(root: Path, target: str) -> list[Path]:
    """Return the files of a name and of all that they import below `root`, sorted."""
    waiting, found = list(_files(root, target)), set[Path]()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        waiting += [file for name in _imported(root, path) for file in _files(root, name)]
    return sorted(found)


def _imported(root: Path, path: Path) -> list[str]:
    """Return the dotted names that a file imports, wherever in it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []  # Whoever imports it says what is wrong with it.
    around = path.relative_to(root).parent.parts
    names: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                names += [alias.name for alias in node.names]
            case ast.ImportFrom():
                within = around[: len(around) - node.level + 1] if node.level else ()
                module = ".".join([*within, *([node.module] if node.module else [])])
                names += [f"{module}.{alias.name}" if module else alias.name for alias in node.names]
    return names
