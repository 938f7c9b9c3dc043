"""A Hydra app for hydra-optuna-sweeper with its joblib launcher; runs in an environment of its own (environments.py).

python benchmarks/others/hydra_app.py -m hydra/sweeper=optuna hydra/launcher=joblib folder=FOLDER index=choice(0,1)
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import hydra  # noqa: E402 - the script runs from anywhere
from benchmarks.others import work  # noqa: E402
from hydra.core.config_store import ConfigStore  # noqa: E402


@dataclass
class Config:
    """Where the trials' work is told, and which point of it is trained."""

    folder: str = "."
    index: int = 0


ConfigStore.instance().store(name="app", node=Config)


@hydra.main(version_base="1.3", config_path=None, config_name="app")
def main(config: Config) -> float:
    *_, last = work.trial(Path(config.folder), config.index)
    return last


if __name__ == "__main__":
    main()
