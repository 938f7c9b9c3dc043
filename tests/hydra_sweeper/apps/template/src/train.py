"""An app in the layout of lightning-hydra-template: objects by `_target_`, a search in a file of its own."""

import os
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

os.environ.setdefault("PROJECT_ROOT", str(Path(__file__).parents[1]))
sys.path.insert(0, os.environ["PROJECT_ROOT"])


@hydra.main(version_base="1.3", config_path="../configs", config_name="train.yaml")
def main(cfg: DictConfig) -> float | None:
    datamodule = hydra.utils.instantiate(cfg.data)
    model = hydra.utils.instantiate(cfg.model)
    metrics = hydra.utils.instantiate(cfg.trainer)(model, datamodule)
    Path(cfg.paths.output_dir, "metrics.txt").write_text(f"{metrics}\n")
    return metrics[cfg.optimized_metric] if cfg.get("optimized_metric") else None


if __name__ == "__main__":
    main()
