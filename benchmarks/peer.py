"""The peer: Ray Tune with a plain PyTorch loop, at its best settings; one process is one whole sweep.

    python benchmarks/peer.py SWEEP.json OUTCOME.json     # a `PeerSweep` in, an outcome out

What makes it fast, going by the source of Ray Tune: a class trainable with `reset_config`, so that
`reuse_actors` keeps the processes warm; the data as tensors in memory, gathered by index, without a DataLoader; one
thread a process; PyTorch's fused AdamW; losses left on the device until the epoch's end; no files of results beside
MLflow; no storage to synchronise; and, as nothing is pruned, results sent together every `BUFFER_SECONDS`.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

# Swathe sends reports that nobody waits for together, at most so late; the same for the peer.
BUFFER_SECONDS = 0.2
BUFFER = {"TUNE_RESULT_BUFFER_LENGTH": "1000", "TUNE_RESULT_BUFFER_MIN_TIME_S": str(BUFFER_SECONDS)}


@dataclass(frozen=True, slots=True)
class PeerSweep:
    """A random search of Ray Tune.

    `data` is a dataset of Swathe, prepared in `cache`; `lr` the bounds of a log-uniform rate. `workers` processes of
    one CPU train at a time, or, with a `gpu` share above 0, as many that have that share of the GPU each. `record`:
    MLflow's callback is on. What Ray Tune keeps, and MLflow's database, is in `folder`.
    """

    data: dict[str, Any]
    cache: str
    folder: str
    hidden: list[int]
    batch: int
    epochs: int
    trials: int
    lr: tuple[float, float]
    workers: int
    record: bool
    gpu: float = 0.0

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> PeerSweep:
        return cls(**json.loads(path.read_text()))


def network(features: int, hidden: list[int], classes: int) -> Any:
    """Return the fully connected network as a user writes it."""
    from torch import nn

    widths = [features, *hidden]
    layers: list[nn.Module] = []
    for before, after in zip(widths, hidden, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


class Loop:
    """The plain training loop: whole batches of a new permutation each epoch, then the validation part at once."""

    def __init__(self, dataset: Any, module: Any, batch: int, lr: float, seed: int, device: str) -> None:
        import torch

        self._torch, self._data, self._device, self._batch = torch, dataset, device, batch
        self._network = module.to(device)
        self._optimizer = torch.optim.AdamW(self._network.parameters(), lr=lr, fused=True)
        self._shuffle = torch.Generator().manual_seed(seed)

    def epoch(self) -> dict[str, float]:
        """Train one epoch and evaluate it."""
        torch, data, batch = self._torch, self._data, self._batch
        loss_of = torch.nn.functional.cross_entropy
        examples = len(data.train_x)
        order = torch.randperm(examples, generator=self._shuffle).to(self._device)
        total = torch.zeros((), device=self._device)
        steps = examples // batch
        for rows in order[: steps * batch].split(batch):
            loss = loss_of(self._network(data.train_x[rows]), data.train_y[rows])
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            total += loss.detach()
        with torch.inference_mode():
            outputs = self._network(data.val_x)
            val_loss = loss_of(outputs, data.val_y).item()
            accuracy = (outputs.argmax(1) == data.val_y).double().mean().item()
        return {"train_loss": total.item() / steps, "val_loss": val_loss, "val_accuracy": accuracy}


def trainable() -> type:
    """Return the class that Ray Tune's processes run."""
    from ray import tune

    class Training(tune.Trainable):
        """One process: the data stays, each trial brings a new network."""

        def setup(self, config: dict[str, Any], sweep: PeerSweep) -> None:
            import torch

            from swathe.training.data import load
            from swathe.training.recipe import Data

            torch.set_num_threads(1)
            self._sweep = sweep
            self._device = "cuda" if sweep.gpu else "cpu"
            self._dataset = load(Data(**sweep.data), Path(sweep.cache)).to(self._device)
            self._begin(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._begin(new_config)
            return True

        def step(self) -> dict[str, Any]:
            self._epoch += 1
            return {**self._loop.epoch(), "done": self._epoch == self._sweep.epochs}

        def _begin(self, config: dict[str, Any]) -> None:
            import torch

            torch.manual_seed(config["seed"])
            data, sweep = self._dataset, self._sweep
            module = network(data.train_x.shape[1], sweep.hidden, data.classes)
            self._loop = Loop(data, module, sweep.batch, config["lr"], config["seed"], self._device)
            self._epoch = 0

    return Training


def run(sweep: PeerSweep) -> dict[str, Any]:
    """Run the sweep in this process.

    Returns the best val_loss, the reports, and `training_seconds`: from the start of the first trial, whose process is
    ready by then, to the last report.
    """
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class Clock(tune.Callback):
        """Notes when the first trial began and when the last report came."""

        def __init__(self) -> None:
            self.began, self.reported, self.reports = 0.0, 0.0, 0

        def on_trial_start(self, *args: Any, **facts: Any) -> None:
            self.began = self.began or time.time()

        def on_trial_result(self, *args: Any, **facts: Any) -> None:
            self.reported = time.time()
            self.reports += 1

    ray.init(
        address="local", num_cpus=sweep.workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    clock = Clock()
    callbacks: list[Any] = [clock]
    if sweep.record:
        callbacks.append(
            MLflowLoggerCallback(tracking_uri=f"sqlite:///{sweep.folder}/mlflow.db", experiment_name="peer")
        )
    resources = {"cpu": 1, "gpu": sweep.gpu} if sweep.gpu else {"cpu": 1}
    process = tune.with_resources(tune.with_parameters(trainable(), sweep=sweep), resources)
    tuner = tune.Tuner(
        process,
        param_space={"lr": tune.loguniform(*sweep.lr), "seed": tune.randint(0, 2**31)},
        tune_config=tune.TuneConfig(
            metric="val_loss",
            mode="min",
            num_samples=sweep.trials,
            reuse_actors=True,
            search_alg=tune.search.basic_variant.BasicVariantGenerator(random_state=0),
        ),
        run_config=tune.RunConfig(
            name="peer",
            storage_path=sweep.folder,
            verbose=0,
            callbacks=callbacks,
            # Else a class trainable is saved at the end of each trial, and its results are not sent together.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    results = tuner.fit()
    ray.shutdown()
    if results.num_errors:
        sys.exit(f"{results.num_errors} trials of Ray Tune failed: {results.errors[0]}")
    return {
        "best_val_loss": min(result.metrics["val_loss"] for result in results),
        "reports": clock.reports,
        "training_seconds": clock.reported - clock.began,
    }


def main() -> None:
    sweep, outcome = Path(sys.argv[1]), Path(sys.argv[2])
    outcome.write_text(json.dumps(run(PeerSweep.read(sweep))))


if __name__ == "__main__":
    main()
