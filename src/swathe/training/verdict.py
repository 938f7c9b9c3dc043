"""What a pre-flight says: one line for each thing that it looked at. Pure: no input or output, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """How a check ended: `error` refuses the sweep, unless it was told not to."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: the `subject` in a word or two, and a sentence with the numbers."""

    subject: str
    outcome: Outcome
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks in the order in which they were made, and how long they took (seconds)."""

    checks: tuple[Check, ...]
    seconds: float

    @property
    def errors(self) -> tuple[Check, ...]:
        """What refuses the sweep."""
        return tuple(check for check in self.checks if check.outcome is Outcome.ERROR)

    @property
    def remarks(self) -> tuple[Check, ...]:
        """What the user should know: all that is not well."""
        return tuple(check for check in self.checks if check.outcome is not Outcome.OK)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it; `from_dict` reads it."""
        return {"checks": [asdict(check) for check in self.checks], "seconds": self.seconds}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Verdict:
        """Read what `as_dict` returns; raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        checks: Sequence[Mapping[str, str]] = plain["checks"]
        read = (Check(one["subject"], Outcome(one["outcome"]), one["text"]) for one in checks)
        return cls(tuple(read), float(plain["seconds"]))
