"""A network of the user's own in a sweep's file or on the command line: `model: {_target_: mynet.Net, hidden: 64}`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from swathe.training.recipe import OWN, TARGET

_PREFIX = "model."
_KEY = f"{_PREFIX}{TARGET}"


@dataclass(frozen=True, slots=True)
class OwnModel:
    """Where it stands: in the file, on the command line, or in both."""

    in_file: bool
    on_command_line: bool

    def __bool__(self) -> bool:
        return self.in_file or self.on_command_line

    @property
    def swaps(self) -> Mapping[str, str]:
        """The config group that the command line swaps by naming one."""
        return {"model": OWN} if self.on_command_line else {}

    @property
    def groups(self) -> Mapping[str, str]:
        """The config group that is taken when nothing names one."""
        return {"model": OWN} if self else {}

    def words(self, words: Iterable[str]) -> tuple[str, ...]:
        """Return the overrides in Hydra's grammar, in which a key that no file has needs a sign."""
        if not self:
            return tuple(words)
        signed = (f"++{word}" if word.startswith(_PREFIX) else word for word in words)
        return (*(f"{group}={option}" for group, option in self.swaps.items()), *signed)

    def body(self, body: Mapping[str, Any], searched: Iterable[str]) -> dict[str, Any]:
        """Return a file's content in which the arguments that are searched have a key."""
        names = [key.removeprefix(_PREFIX) for key in sorted(searched) if key.startswith(_PREFIX)] if self else []
        if not names:
            return dict(body)
        return {**body, "model": {**dict.fromkeys(names), **(body.get("model") or {})}}


def own_model(
    bodies: Iterable[Mapping[str, Any]], given: Iterable[str], swapped: Mapping[str, Any], space: Iterable[str]
) -> OwnModel:
    """Return where a network of the user's own is named.

    `bodies` are the file's content and that of those that it builds on, `given` the keys on the command line, `swapped`
    what it says of config groups, and `space` the keys that are searched: where `model` is one of them or is swapped,
    it is the options' files that say so.
    """
    if "model" in swapped or "model" in space:
        return OwnModel(in_file=False, on_command_line=False)
    sections = (body.get("model") for body in bodies)
    in_file = any(isinstance(section, Mapping) and TARGET in section for section in sections)
    return OwnModel(in_file, on_command_line=_KEY in given)
