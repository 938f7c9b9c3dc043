"""What runs in each process of a trial of several: the user's loop, and what its calls of Swathe's reach."""

from __future__ import annotations

import inspect
import io
import os
import pickle
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import ray.train

from swathe import function, surroundings
from swathe.errors import SwatheError
from swathe.integrations.rank_actors import Ended
from swathe.worker import add_import_paths, reason_of, set_threads

# A rank that fails says so at once and dies so many seconds later: if it failed since another one is gone, Ray Train,
# which looks every two seconds, has seen that one by then.
LAST_SECONDS = 5.0


@dataclass(slots=True)
class Shared:
    """What ranks get when they begin; `step` and `state` are those of the last checkpoint."""

    packed: bytes
    info: function.TrialInfo
    folder: str = field(default_factory=os.getcwd)
    metric: str | None = None
    state: bytes | None = None
    step: int | None = None


class RankSession:
    """What calls in a rank reach."""

    def __init__(self, shared: Shared, info: function.TrialInfo, channel: Any) -> None:
        self._shared = shared
        self.info = info
        self._channel = channel
        self._turn = 0

    @property
    def metric(self) -> str:
        return self._shared.metric or "val_loss"

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        return bool(self._ask("report", (step, dict(metrics))))

    def checkpoint_due(self) -> bool:
        return bool(self._ask("due"))

    def checkpoint(self, state: Any) -> bool:
        if not self.checkpoint_due():
            return False
        # A state that is gathered from all ranks is asked for in all of them.
        found = state() if inspect.isroutine(state) else state
        return bool(self._ask("keep", pickle.dumps(found) if self.info.rank == 0 else None))

    def restore(self) -> Any:
        return None if self._shared.state is None else pickle.loads(self._shared.state)

    def _ask(self, kind: str, payload: Any = None) -> Any:
        mine = payload if self.info.rank == 0 else None
        answer = ray.get(self._channel.ask.remote(self._turn, self.info.rank, kind, mine))
        self._turn += 1
        if isinstance(answer, Ended):
            raise function.TrialStopped
        if isinstance(answer, SwatheError):
            raise answer
        return answer


def run_rank(config: dict[str, Any]) -> None:
    """Run the loop in one rank, as the trial that it is a part of."""
    shared, channel = config["shared"], config["channel"]
    context = ray.train.get_context()
    info = replace(shared.info, rank=context.get_world_rank(), world_size=context.get_world_size())
    if os.path.isdir(shared.folder):
        os.chdir(shared.folder)
    try:
        loop, params = _unpickled(shared.packed)
        function.install(RankSession(shared, info, channel), shared.step)
        with surroundings.kept(info.seed):
            set_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
            result = loop(params)
        if info.rank == 0 and hasattr(result, "state_dict"):
            ray.get(channel.say.remote("model", _state_of(result)))
    except function.TrialStopped:
        pass
    except BaseException as error:
        ray.get(channel.say.remote("failed", (info.rank, reason_of(error), traceback.format_exc())))
        if info.world_size > 1:
            time.sleep(LAST_SECONDS)
        raise
    finally:
        function.install(None)
        if info.rank == 0:
            ray.get(channel.leave.remote())


def _state_of(model: Any) -> dict[str, Any]:
    """Return a model's state, of one that DDP has wrapped its own, on the CPU: the trial's process has no GPU."""
    state = getattr(model, "module", model).state_dict()
    return {name: value.cpu() if hasattr(value, "cpu") else value for name, value in state.items()}


def _unpickled(packed: bytes) -> Any:
    stream = io.BytesIO(packed)
    add_import_paths(pickle.load(stream))
    return pickle.load(stream)
