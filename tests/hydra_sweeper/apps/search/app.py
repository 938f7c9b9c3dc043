"""An app that draws a part of its search space itself, and that reports on its way: two lines more."""

import hydra
from omegaconf import DictConfig
from optuna.trial import Trial

import swathe


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(cfg: DictConfig) -> float:
    loss = 10.0
    for epoch in range(1, cfg.epochs + 1):
        loss = (cfg.x - 1) ** 2 + (cfg.z - cfg.x) ** 2 + cfg.w + 1 / epoch
        swathe.report(loss, epoch)
    return loss


def configure(cfg: DictConfig, trial: Trial) -> None:
    """Draw z near x, and w, which the config does not have."""
    x = trial.params["x"]
    trial.suggest_float("z", x - cfg.distance, x + cfg.distance)
    trial.suggest_float("+w", 0.0, 1.0)


if __name__ == "__main__":
    main()
