"""Trials of several processes, on several GPUs or nodes: Ray Train's `TorchTrainer` inside a trial.

The trial's own worker waits while the processes (ranks) of Ray Train do the work. What they report goes to the trial
through an actor, `Channel`, and its answers go back to all of them: so that they are stopped together.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks import WorkingDirectorySetupCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2.api.exceptions import WorkerGroupError

import swathe
from swathe import function
from swathe.errors import SwatheError
from swathe.integrations.rank_actors import Channel, Ended, Guard
from swathe.integrations.ranks import Shared, run_rank
from swathe.pickled import pack
from swathe.worker import reason_of

_WHAT = "swathe.integrations.ray_train"
# How often ranks are started again when one of them has died.
RETRIES = 2
# Ranks that were told to stop end within so many seconds, or are ended.
STOP_SECONDS = 60.0


class Model:
    """What rank 0 has returned, as its state: `fit` returns it, and the trial returns it in turn."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._state = state

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state dictionary."""
        return self._state


class RankError(SwatheError):
    """A rank has raised: the text is which one, and what."""


def fit(
    loop: Callable[[Any], Any],
    params: Any,
    *,
    workers: int,
    use_gpu: bool = False,
    resources_per_worker: Mapping[str, float] | None = None,
    backend: str | None = None,
) -> Model | None:
    """Call `loop(params)` in `workers` processes with `torch.distributed` set up, as one trial; return rank 0's model.

    To be called, and its result returned, by a sweep's function. `loop` runs in processes of Ray Train, so
    `ray.train.torch.prepare_model` and all else of it may be used there, with a CPU each, or a GPU each (`use_gpu`), or
    `resources_per_worker` as Ray Train takes them; `backend` is gloo on CPUs and nccl on GPUs unless said. In all ranks
    `swathe.report`, `checkpoint`, `restore` and `trial` work as in any function: what rank 0 reports and keeps is the
    trial's, and every rank gets its answer, so all of them must call these in the same order, or rank 0 alone. Global
    generators are seeded alike in all ranks.

        def train(params):
            return ray_train.fit(loop, params, workers=2)

        def loop(params):
            model = ray.train.torch.prepare_model(Net())
            for epoch in range(10):
                ...
                if swathe.report(val_loss=loss):
                    break
            return model

    The trial's worker must hold no CPU and no GPU itself: `cluster.cpus_per_worker=0`. When a rank dies, all are
    started again, at most twice, from the last checkpoint; reports that were made before are then passed over. Raises
    `SwatheError` where the cluster is too small, when a rank raises, and when ranks go on dying.
    """
    shared = Shared(pack((loop, params), "The loop"), replace(swathe.trial() or _NO_TRIAL, world_size=workers))
    # A node that is about to be taken away is as one that is gone: ranks begin again from the last checkpoint.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    shared.metric = function.objective()
    shared.state, shared.step = swathe.restore(), function.last_report()[0]
    with _cluster():
        bundle = dict(resources_per_worker or {"CPU": 1, **({"GPU": 1} if use_gpu else {})})
        _check_resources(workers, bundle)
        scaling = ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=bundle)
        for _ in range(1 + RETRIES):
            attempt = _Attempt(shared, function.last_report()[0])
            lost = attempt.run(scaling, backend)
            if attempt.ended:
                raise function.TrialStopped
            if not lost:
                return None if attempt.model is None else Model(attempt.model)
    raise SwatheError(f"{_WHAT}: a process has died, {1 + RETRIES} times: {lost}")


_NO_TRIAL = function.TrialInfo(0, 0, {})


@contextmanager
def _cluster() -> Iterator[None]:
    """Have Ray for the time being, where a trial runs in the user's own process."""
    if ray.is_initialized():
        yield
        return
    ray.init(
        address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, namespace="swathe"
    )
    try:
        yield
    finally:
        ray.shutdown()


def _check_resources(workers: int, bundle: Mapping[str, float]) -> None:
    """Raise `SwatheError` for what would wait for resources for ever."""
    context = ray.get_runtime_context()
    # The user's own process holds nothing.
    held = context.get_assigned_resources() if context.get_actor_id() else {}
    for kind, key in (("CPU", "cpus"), ("GPU", "gpus")):
        if held.get(kind):
            raise SwatheError(
                f"{_WHAT}: cluster.{key}_per_worker: {held[kind]:g} is not allowed; allowed: 0, since the trial's own "
                "worker only waits for the others."
            )
    there = ray.cluster_resources()
    for kind, amount in bundle.items():
        if workers * amount > there.get(kind, 0.0):
            raise SwatheError(
                f"{_WHAT}: workers: {workers} of {amount:g} {kind} each are not allowed; allowed: "
                f"{there.get(kind, 0.0):g} {kind} together."
            )


class _Held(WorkerGroupCallback):
    """Tells the guard what Ray Train has reserved."""

    def __init__(self, guard: Any) -> None:
        self._guard = guard

    def after_worker_group_start(self, worker_group: Any) -> None:
        handle = worker_group.get_worker_group_state().placement_group_handle
        ray.get(self._guard.hold.remote(handle.placement_group))


class _Trainer(TorchTrainer):
    """A `TorchTrainer` whose ranks run in the trial's folder, and whose reservation is our guard's."""

    def _create_default_callbacks(self) -> list[Any]:
        others = (PlacementGroupCleanerCallback, WorkingDirectorySetupCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, others)]


class _Attempt:
    """The ranks from their start to their end, once."""

    def __init__(self, shared: Shared, reported: int | None) -> None:
        self._shared = shared
        self._reported = reported
        self.ended = False
        self.model: Mapping[str, Any] | None = None
        self._stopping = False
        # Whether the ranks are where they have been before one of them died.
        self._again = False
        self._failed: tuple[int, str, str] | None = None
        self._error: BaseException | None = None

    def run(self, scaling: ScalingConfig, backend: str | None) -> str:
        """Run the ranks; return "", or why they were lost. Raises `RankError` when one of them has raised."""
        actor: Any = ray.remote(num_cpus=0)
        channel = actor(Channel).remote()
        guard = actor(Guard).options(lifetime="detached").remote(channel)
        guard.watch.remote()
        with tempfile.TemporaryDirectory(prefix="swathe-ray-train-") as folder:
            trainer = _Trainer(
                run_rank,
                train_loop_config={"shared": self._shared, "channel": channel},
                torch_config=TorchConfig(backend=backend),
                scaling_config=scaling,
                run_config=RunConfig(
                    name="trial",
                    storage_path=folder,
                    failure_config=FailureConfig(max_failures=0),
                    callbacks=[_Held(guard)],
                ),
            )
            thread = threading.Thread(target=self._train, args=(trainer, channel), daemon=True, name="ray-train")
            thread.start()
            try:
                self._serve(channel)
            finally:
                ray.get(channel.close.remote())
                thread.join()
        return self._outcome()

    def _train(self, trainer: _Trainer, channel: Any) -> None:
        try:
            trainer.fit()
        except BaseException as error:
            self._error = error
        finally:
            channel.finish.remote()

    def _serve(self, channel: Any) -> None:
        """Answer what the ranks ask until they are done, or do not end when told to."""
        while True:
            limit = STOP_SECONDS if self._stopping else None
            try:
                item = ray.get(channel.next.remote(), timeout=limit)
            except ray.exceptions.GetTimeoutError:
                return
            if item is None:
                return
            kind, turn, payload = item
            answer = self._handle(kind, payload)
            if turn >= 0:
                channel.answer.remote(turn, answer)

    def _handle(self, kind: str, payload: Any) -> Any:
        try:
            match kind:
                case "report":
                    return self._report(*payload)
                case "due":
                    return not self._again and function.checkpoint_due()
                case "keep":
                    return self._keep(payload)
                case "model":
                    self.model = payload
                case "failed":
                    self._failed = self._failed or payload
        except function.TrialStopped:
            self.ended = self._stopping = True
            return Ended()
        except SwatheError as error:
            return error
        return None

    def _report(self, step: int, metrics: Mapping[str, float]) -> bool:
        # The first ranks begin where the reports end.
        before = self._reported if self._shared.step != self._reported else None
        self._again = before is not None and step <= before
        if self._again:
            return False
        self._stopping = swathe.report(metrics, step=step)
        return self._stopping

    def _keep(self, state: bytes) -> bool:
        # Where the trial ends with it, ranks that begin later are of another attempt, which restores it.
        kept = swathe.checkpoint(state)
        self._shared.state, self._shared.step = state, function.last_report()[0]
        return kept

    def _outcome(self) -> str:
        error = self._error
        if error is None or self.ended or self._stopping:
            return ""
        failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
        for rank, failure in failures.items():
            if isinstance(failure, WorkerHealthCheckFailedError):
                return f"rank {rank} is gone"
        if self._failed is None:
            raise SwatheError(f"{_WHAT}: {reason_of(error)}") from error
        rank, reason, text = self._failed
        raise RankError(f"rank {rank}: {reason}") from _Remote(text)


class _Remote(Exception):  # noqa: N818
    """The traceback of a rank, as the cause of the trial's."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"
