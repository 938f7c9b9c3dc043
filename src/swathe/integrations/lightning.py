"""Lightning: a callback that reports what a trainer has validated, ends its fit when told to, and keeps its state."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import swathe
from swathe.integrations import generators
from swathe.integrations.naming import name_objective
from swathe.integrations.processes import refuse_strange_processes

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    # Trainers of either package take callbacks of the other.
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError as error:
            raise ImportError(
                "swathe.integrations.lightning needs Lightning: pip install 'swathe[lightning]'."
            ) from error

_FILE = "trainer.ckpt"


class SwatheCallback(Callback):
    """Reports all logged numbers after each validation, and sets `trainer.should_stop` when the trial is to end.

    The step is the epoch, counted from 1; of a trainer that validates within its epochs it is the global step. `metric`
    is the logged name of what the sweep calls `sweep.metric`, if it is another. Between epochs the trainer's state and
    the global random generators are kept (`swathe.checkpoint`), from which a trial whose worker died goes on:

        callback = SwatheCallback()
        trainer = Trainer(max_epochs=20, callbacks=[callback], enable_checkpointing=False, logger=False)
        trainer.fit(model, data, ckpt_path=callback.resume_path())

    Outside of a sweep it does nothing. Raises `SwatheError` when `metric` was not logged, and for a trainer of several
    processes that `swathe.integrations.ray_train` has not started.
    """

    def __init__(self, metric: str | None = None) -> None:
        super().__init__()
        self._metric = metric
        # Whether the running epoch has been validated, and whether anything has been reported.
        self._validated = False
        self._reported = False
        # Whether the fit would go on from a checkpoint: without that one is not to be kept.
        self._resumes = False
        self._generators: generators.States | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def resume_path(self) -> str | None:
        """Return the file from which `trainer.fit(ckpt_path=...)` goes on; None where the trial begins."""
        self._resumes = True
        state = swathe.restore()
        if state is None:
            return None
        self._generators = state["generators"]
        self._folder = tempfile.TemporaryDirectory(prefix="swathe-")
        path = Path(self._folder.name) / _FILE
        path.write_bytes(state["trainer"])
        return os.fspath(path)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_strange_processes("swathe.integrations.lightning", trainer.world_size)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Next, an epoch's batches are drawn, as they were after `on_train_epoch_start` when the state was kept.
        if self._generators is not None:
            generators.put_back(self._generators)
            self._generators = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
            # An epoch begins, at its first batch: Lightning takes it for one in whose middle the fit had ended.
            trainer.fit_loop.restarting = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Here the epoch before is over, with its schedulers, and the next one has drawn nothing yet.
        self._validated = False
        if self._reported and self._resumes:
            swathe.checkpoint(lambda: _state(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._validated = True
        if not _validates_at_epoch_ends(trainer):
            self._report(trainer, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The means over the epoch of what was logged in training are here only now.
        if _validates_at_epoch_ends(trainer) and (self._validated or not trainer.enable_validation):
            self._report(trainer, trainer.current_epoch + 1)

    def _report(self, trainer: Trainer, step: int) -> None:
        values = _logged(trainer)
        if self._metric is not None:
            name_objective(values, self._metric, "swathe.integrations.lightning", "logged")
        self._reported = True
        if swathe.report(values, step=step):
            trainer.should_stop = True


def _logged(trainer: Trainer) -> dict[str, float]:
    """Return the numbers that were logged last, by their names."""
    values: dict[str, float] = {}
    for name, value in trainer.callback_metrics.items():
        # Metrics of other shapes, such as confusion matrices, are no numbers.
        with suppress(TypeError, ValueError, RuntimeError):
            values[name] = float(value)
    return values


def _validates_at_epoch_ends(trainer: Trainer) -> bool:
    """Whether there is at most one validation in each epoch, at its end."""
    batches = trainer.val_check_batch
    return (
        trainer.check_val_every_n_epoch is not None and batches is not None and batches >= trainer.num_training_batches
    )


def _state(trainer: Trainer) -> dict[str, Any]:
    """Return what a fit goes on from: Lightning's own checkpoint, as bytes, and the random generators."""
    kept = generators.states()
    with tempfile.TemporaryDirectory(prefix="swathe-") as folder:
        path = Path(folder) / _FILE
        trainer.save_checkpoint(path)
        return {"trainer": path.read_bytes() if trainer.is_global_zero else b"", "generators": kept}
