"""`hydra/sweeper=swathe`: Hydra's multirun with Ray, Optuna, pruning and MLflow for any app."""
