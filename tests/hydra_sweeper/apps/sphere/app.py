"""An app that knows nothing of Swathe."""

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(cfg: DictConfig) -> float:
    if cfg.error:
        raise RuntimeError("cfg.error is set")
    print(f"x={cfg.x} y={cfg.y} norm={cfg.norm.name}")
    return cfg.norm.scale * (cfg.x**2 + cfg.y**2)


if __name__ == "__main__":
    main()
