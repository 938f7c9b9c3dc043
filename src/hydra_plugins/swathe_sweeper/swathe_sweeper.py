"""The plugin that Hydra finds. Hydra imports this module in every app, so that all else is imported when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

# Registers the configs.
from hydra_plugins.swathe_sweeper import _config  # noqa: F401


class SwatheSweeper(Sweeper):
    """Runs an app's function once a trial, in warm workers; the options are those of `_config.SwatheSweeperConf`."""

    def __init__(self, **options: Any) -> None:
        self.options: Mapping[str, Any] = options
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self._task: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self._task, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep that the options and the command line say; a refusal is one sentence, with exit code 2."""
        from hydra_plugins.swathe_sweeper import _sweep

        assert self.config is not None
        assert self.hydra_context is not None
        assert self._task is not None
        _sweep.run(self.options, arguments, _sweep.App(self.hydra_context, self._task, self.config))
