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
    """A search of Ray Tune: at random without pruning, or, with a `seed`, by Optuna's TPE with ASHA.

    `data` is a dataset of Swathe, prepared in `cache`; `lr` the bounds of a log-uniform rate. `workers` processes of
    one CPU train at a time, or, with a `gpu` share above 0, as many that have that share of the GPU each. `record`:
    MLflow's callback is on. What Ray Tune keeps, and MLflow's database, is in `folder`. `decay`: bounds of a
    log-uniform weight decay, which else is AdamW's own. With `channels` the network is a small convolutional one.
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
    seed: int | None = None
    decay: tuple[float, float] | None = None
    channels: tuple[int, ...] = ()

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


def convolutional(shape: tuple[int, int, int], channels: tuple[int, ...], hidden: list[int], classes: int) -> Any:
    """Return the small convolutional network, which takes its images as flat rows."""
    from torch import nn

    layers: list[nn.Module] = [nn.Unflatten(1, shape)]
    widths = [shape[0], *channels]
    for before, after in zip(widths, channels, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    side = 2 ** len(channels)
    features = channels[-1] * (shape[1] // side) * (shape[2] // side)
    return nn.Sequential(*layers, nn.Flatten(), *network(features, hidden, classes))


class Loop:
    """The plain training loop: whole batches of a new permutation each epoch, then the validation part at once."""

    def __init__(
        self, dataset: Any, module: Any, batch: int, lr: float, seed: int, device: str, decay: float = 0.01
    ) -> None:
        import torch

        self._torch, self._data, self._device, self._batch = torch, dataset, device, batch
        self._network = module.to(device)
        self._optimizer = torch.optim.AdamW(self._network.parameters(), lr=lr, weight_decay=decay, fused=True)
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
            if sweep.channels:
                module = convolutional(data.image_shape, sweep.channels, sweep.hidden, data.classes)
            else:
                module = network(data.train_x.shape[1], sweep.hidden, data.classes)
            decay = config.get("decay", 0.01)
            self._loop = Loop(data, module, sweep.batch, config["lr"], config["seed"], self._device, decay)
            self._epoch = 0

    return Training


def searching(sweep: PeerSweep) -> tuple[Any, Any]:
    """Return the searcher and the scheduler."""
    from ray import tune

    if sweep.seed is None:
        # It costs less than any other searcher of Ray Tune.
        return tune.search.basic_variant.BasicVariantGenerator(random_state=0), None
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch(seed=sweep.seed), ASHAScheduler(max_t=sweep.epochs, grace_period=1, reduction_factor=4)


def run(sweep: PeerSweep) -> dict[str, Any]:
    """Run the sweep in this process.

    Returns the best val_loss, the reports, when the first and each better one came, and `training_seconds`: from the
    start of the first trial, whose process is ready by then, to the last report.
    """
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class Clock(tune.Callback):
        """Notes when the first trial began, and when the first and the last report came (unix time, seconds)."""

        def __init__(self) -> None:
            self.began, self.first, self.reported, self.reports = 0.0, 0.0, 0.0, 0
            # Each time that a report was the best so far: when, and its val_loss.
            self.best: list[tuple[float, float]] = []

        def on_trial_start(self, *args: Any, **facts: Any) -> None:
            self.began = self.began or time.time()

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
            self.reported = time.time()
            if not self.best or result["val_loss"] < self.best[-1][1]:
                self.best.append((self.reported, result["val_loss"]))
            self.first = self.first or self.reported
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
    # A searcher that learns is not to learn from seeds.
    seed = tune.randint(0, 2**31) if sweep.seed is None else sweep.seed
    space = {"lr": tune.loguniform(*sweep.lr), "seed": seed}
    if sweep.decay:
        space["decay"] = tune.loguniform(*sweep.decay)
    search, scheduler = searching(sweep)
    tuner = tune.Tuner(
        process,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="val_loss",
            mode="min",
            num_samples=sweep.trials,
            reuse_actors=True,
            search_alg=search,
            scheduler=scheduler,
            max_concurrent_trials=sweep.workers if sweep.seed is not None else None,
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
        "first_report": clock.first,
        "improvements": clock.best,
        "training_seconds": clock.reported - clock.began,
    }


def main() -> None:
    sweep, outcome = Path(sys.argv[1]), Path(sys.argv[2])
    outcome.write_text(json.dumps(run(PeerSweep.read(sweep))))


if __name__ == "__main__":
    main()
