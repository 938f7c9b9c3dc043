"""A sweep's pre-flight as its workers get it: what is tried, by which key it is remembered, and who does it."""

from __future__ import annotations

import fcntl
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from swathe.home import write_aside
from swathe.training.recipe import Adam, Recipe, Schedule, Transfer
from swathe.training.symptoms import Thresholds
from swathe.training.verdict import Verdict


@dataclass(frozen=True, slots=True)
class PreflightTask:
    """What is tried: `probes`, of so many `choices` (in a word), for at most some `seconds`.

    `key` is a digest of all that the verdict depends on; the verdict is remembered under it in the home's folder
    `preflight`, so that only the first launch pays for it.
    """

    key: str
    home: str
    probes: tuple[Recipe, ...]
    choices: str
    thresholds: Thresholds
    seconds: float

    @property
    def file(self) -> Path:
        """Where the verdict is remembered."""
        return Path(self.home) / "preflight" / f"{self.key}.json"


def probe(recipe: Recipe, thresholds: Thresholds) -> Recipe:
    """Return what a recipe is tried as: its structure on its data, with Adam at the pre-flight's rate and seed 0.

    What does not change the structure is left out, so that two searches over it have one verdict. So are loaded
    weights, which are looked for when a trial needs them.
    """
    optim, schedule = Adam(lr=thresholds.broken_lr), Schedule()
    return replace(recipe, optim=optim, schedule=schedule, transfer=Transfer(), epochs=1, seed=0)


def remembered(task: PreflightTask) -> Verdict | None:
    """Return the verdict of an earlier pre-flight, None where there is none that can be read."""
    try:
        return Verdict.from_dict(json.loads(task.file.read_text()))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def settle(task: PreflightTask, device: str) -> Verdict:
    """Return the verdict, after doing what is to be tried unless another worker of this node has done it."""
    task.file.parent.mkdir(parents=True, exist_ok=True)
    with task.file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return remembered(task) or make(task, device)


def make(task: PreflightTask, device: str, *, lanes: bool = False) -> Verdict:
    """Try everything now, remember the verdict and return it."""
    # It imports PyTorch, which the driver does without.
    from swathe.training.preflight import examine

    cache = Path(task.home) / "data"
    verdict = examine(task.probes, task.choices, device, cache, task.thresholds, seconds=task.seconds, lanes=lanes)
    write_aside(task.file, json.dumps(verdict.as_dict()).encode())
    return verdict


def code_digest() -> str:
    """Return a digest of the code that a verdict depends on: all of `swathe.training`, read in a few milliseconds."""
    folder = Path(__file__).parent / "training"
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
