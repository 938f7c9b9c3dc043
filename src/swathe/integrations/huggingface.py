"""Hugging Face's Trainer: a callback that reports evaluations, ends the training when told to, and keeps its state."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import swathe
from swathe import function
from swathe.errors import SwatheError
from swathe.integrations.naming import name_objective
from swathe.integrations.processes import refuse_strange_processes

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
else:
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise ImportError("swathe.integrations.huggingface needs it: pip install 'swathe[transformers]'.") from error

# What an evaluation says of the machine and the clock: no two runs have the same.
_OF_THE_CLOCK = ("_runtime", "_per_second", "_preparation_time")
# What the trainer logs of the training, and what a recipe of Swathe's calls it.
_OF_THE_TRAINING = {"loss": "train_loss", "grad_norm": "grad_norm"}


class SwatheCallback(TrainerCallback):
    """Reports each evaluation, by the trainer's own names (`eval_loss`), and ends the training when told to.

    The step is the epoch where `eval_strategy` is "epoch", else the global step. `metric` is the evaluation's name of
    what the sweep calls `sweep.metric`, if it is another. When it is time for a checkpoint, the trainer is told to save
    after the evaluation; its folder is kept (`swathe.checkpoint`), and a trial whose worker died goes on from it:

        callback = SwatheCallback()
        trainer = Trainer(model, arguments, callbacks=[callback], ...)
        trainer.train(resume_from_checkpoint=callback.resume_path(arguments))

    `arguments.output_dir` must be the trial's own, such as a temporary folder. Outside of a sweep it does nothing.
    Raises `SwatheError` when `metric` was not evaluated, for several evaluation sets, and for a training of several
    processes that `swathe.integrations.ray_train` has not started.
    """

    def __init__(self, metric: str | None = None) -> None:
        self._metric = metric
        self._training = False
        # Whether the training would go on from a checkpoint: without that one is not to be kept.
        self._resumes = False
        self._reported: int | None = None
        self._logs: dict[str, float] = {}
        # Whether the save that comes is for us alone.
        self._asked = False

    def resume_path(self, args: TrainingArguments) -> str | None:
        """Return the folder from which `trainer.train(resume_from_checkpoint=...)` goes on; None at the beginning."""
        self._resumes = True
        state = swathe.restore()
        if state is None:
            return None
        folder = _folder(args, state["global_step"])
        for name, content in state["files"].items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return str(folder)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        refuse_strange_processes("swathe.integrations.huggingface", args.world_size)
        self._training = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # An evaluation after it is no report.
        self._training = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._logs.update({name: (logs or {})[key] for key, name in _OF_THE_TRAINING.items() if key in (logs or {})})

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not self._training:
            return
        if self._reported == state.global_step:
            raise SwatheError(
                "swathe.integrations.huggingface: eval_dataset: several sets are not allowed; allowed: one, as a trial "
                "has one report a step."
            )
        self._reported = state.global_step
        values = {**self._logs, **_evaluated(metrics or {})}
        if self._metric is not None:
            name_objective(values, self._metric, "swathe.integrations.huggingface", "evaluated")
        if swathe.report(values, step=_step(args, state)):
            control.should_training_stop = True
        elif self._resumes and function.checkpoint_due():
            self._asked = not control.should_save
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = _folder(args, state.global_step)
        try:
            # A save without an evaluation before it is not of the last report.
            if self._resumes and self._reported == state.global_step:
                swathe.checkpoint(lambda: {"global_step": state.global_step, "files": _files(folder)})
        finally:
            if self._asked:
                shutil.rmtree(folder, ignore_errors=True)
            self._asked = False


def _evaluated(metrics: Mapping[str, float]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in metrics.items()
        if name != "epoch" and not name.endswith(_OF_THE_CLOCK) and isinstance(value, int | float)
    }


def _step(args: TrainingArguments, state: TrainerState) -> int:
    return round(state.epoch or 0) if args.eval_strategy == "epoch" else state.global_step


def _folder(args: TrainingArguments, global_step: int) -> Path:
    """Return where the trainer saves after so many steps."""
    return Path(args.output_dir or ".") / f"checkpoint-{global_step}"


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
