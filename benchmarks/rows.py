"""The figures to beat, row by row as they were set, and where each is found in benchmarks/results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bound:
    """What is to be reached: a ratio of at least so much, or a figure of Swathe's of at most so much."""

    value: float
    ratio: bool = False
    unit: str = ""

    def words(self) -> str:
        return f"≥ {self.value:g}x" if self.ratio else f"≤ {self.value:g} {self.unit}"


@dataclass(frozen=True, slots=True)
class Line:
    """A figure `key` of the file `result`.json, which benchmarks/`script` writes; `rate`: more of it is better."""

    words: str
    result: str
    key: str
    bound: Bound | None = None
    rate: bool = False
    script: str = ""

    @property
    def source(self) -> str:
        return self.script or f"{self.result}.py"


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was set: what is measured, the figure or target in words, and the lines that answer it."""

    what: str
    set: str
    lines: Sequence[Line]


def ratio(value: float) -> Bound:
    return Bound(value, ratio=True)


def at_most(value: float, unit: str) -> Bound:
    return Bound(value, unit=unit)


OTHERS = "others/compare.py"
DIGITS_PEERS = ("threads", "processes", "hydra", "syne_tune")
NAMES = {
    "threads": "Optuna alone, `n_jobs` threads",
    "processes": "Optuna alone, processes on a journal",
    "hydra": "hydra-optuna-sweeper with its joblib launcher",
    "syne_tune": "Syne Tune's local backend",
}
TASKS = {"digits": "digits, 64-128-10", "fashion_mnist": "Fashion-MNIST, 784-128-10", "cnn": "digits, a small CNN"}

OWN_MODELS = {
    "own_module": "a network by its `_target_`",
    "own_function": "a function that reports",
    "lightning": "a Lightning fit with a callback",
    "hugging_face": "Hugging Face's Trainer with a callback",
}


def other(kind: str, name: str) -> Line:
    what = "digits, 200 trials x 20 epochs" if kind == "digits" else "200 trials that do nothing"
    return Line(f"{NAMES[name]}: {what}", "others", f"{kind}-{name}", script=OTHERS)


OURS = (
    Row(
        "a trial that does nothing, with 10 reports, pruning, journal and MLflow on: wall time a trial against "
        "Ray Tune with reuse_actors and its MLflow callback",
        "<= 1/12, then 1/20 (MLflow's own calls for such a trial, batched, take 19 ms in one process); within 10 % of "
        "that at the 10,000th trial",
        (
            Line("2,000 trials, whole command", "overhead", "noop-2000", ratio(12)),
            Line("the same, the second aim", "overhead", "noop-2000", ratio(20)),
            Line("200 trials, whole command: mostly the start", "overhead", "noop-200"),
            Line("one further trial, without the start", "overhead", "noop-further", ratio(20)),
            Line("trials 9,001 to 10,000 beside 1,001 to 2,000", "sizes", "late-noop", at_most(10, "%")),
        ),
    ),
    Row(
        "Ray's published rows, sleeping trials scaled to this machine, both tools run",
        "<= 2 % over the minimum",
        (
            Line("160 trials of 1 s in 16 slots", "sleeping", "sleeping-many", at_most(2, "%")),
            Line("32 concurrent trials of 8 s", "sleeping", "sleeping-concurrent", at_most(2, "%")),
            Line("16 trials of 8 s, ten results a second each", "sleeping", "sleeping-results", at_most(2, "%")),
        ),
    ),
    Row(
        "digits, 200 trials x 20 epochs, every epoch of every trial in MLflow on both sides",
        ">= 20x faster than Ray Tune, from command to end, caches warm; >= 6x Ray Tune without any tracking",
        (
            Line("recorded on both sides", "digits", "digits", ratio(20)),
            Line("Ray Tune without any record", "digits", "digits-bare", ratio(6)),
        ),
    ),
    Row(
        "1,000-trial digits sweep with pruning",
        "under 60 s on 2 cores",
        (Line("whole command, recorded", "digits", "digits-pruned", at_most(60, "s")),),
    ),
    Row(
        "Fashion-MNIST, 784-128-10",
        ">= 2x Ray Tune (2.3x is the limit of the two cores)",
        (
            Line("training, recorded by Swathe alone", "fashion_mnist", "fashion", ratio(2), rate=True),
            Line("whole command", "fashion_mnist", "fashion-command"),
        ),
    ),
    Row(
        "the same on one H100",
        ">= 20x one process a trial, >= 5x the best of MPS or fractional GPUs; >= 50 % of the memory-traffic limit",
        (
            Line("beside one process a trial", "gpu", "gpu-process", ratio(20), rate=True),
            Line("beside processes under MPS", "gpu", "gpu-mps", ratio(5), rate=True),
            Line("beside processes that share the GPU in turns", "gpu", "gpu-share", ratio(5), rate=True),
            Line("the program's share of the memory's limit", "gpu", "gpu-memory", ratio(0.5), rate=True),
        ),
    ),
    Row(
        "recording (Optuna and MLflow) in the critical path",
        "<= 2 % of the sweep's wall time",
        (
            Line("digits, 200 trials x 20 epochs", "recording", "recording-digits", at_most(2, "%")),
            Line("Fashion-MNIST, 16 trials x 3 epochs", "recording", "recording-fashion_mnist", at_most(2, "%")),
        ),
    ),
    Row(
        "time to reach the best validation loss that Ray Tune's ASHA finds, same space, same total epochs",
        "<= 1/5",
        tuple(Line(words, "quality", f"quality-{task}", ratio(5)) for task, words in TASKS.items()),
    ),
    Row(
        "starting: from the command to the first training step, warm caches",
        "<= 6 s, and most of it Ray's own start",
        (
            Line("digits, to the first report", "starting", "starting", at_most(6, "s")),
            Line("Ray's own start, as a share of it", "starting", "starting-ray", ratio(0.5)),
        ),
    ),
)

PEERS = (
    Row(
        "Ray Tune, trial that does nothing, 10 reports, ASHA, default settings",
        "1043 ms of wall time a trial",
        (Line("16 trials, without Ray's start", "overhead", "noop-default"),),
    ),
    Row(
        "the same, `reuse_actors=True`",
        "134 ms",
        (Line("200 trials, without Ray's start", "overhead", "noop-reuse_actors"),),
    ),
    Row(
        "the same with its MLflow callback (SQLite)",
        "291 ms",
        (Line("200 trials, without Ray's start", "overhead", "noop-recorded"),),
    ),
    Row(
        "Ray Tune, digits, 64-128-10, batch 64, 200 trials x 20 epochs, no pruning",
        "59.7 s",
        (Line("whole command", "digits", "digits-bare"),),
    ),
    Row(
        "the same, no pruning, with its MLflow callback (SQLite)",
        "213 s",
        (Line("whole command", "digits", "digits"),),
    ),
    Row(
        "the same with ASHA, no MLflow",
        "14.2 s for 520 trial-epochs",
        (Line("100 trials, whole command", "quality", "asha-digits"),),
    ),
    Row(
        "Ray Tune, Fashion-MNIST, 784-128-10, batch 64, AdamW, 16 trials x 3 epochs",
        "25.9 s (0.54 s a trial-epoch)",
        (Line("whole command", "fashion_mnist", "fashion-command"),),
    ),
    Row(
        "Optuna on SQLite: ask + 10 reports + 10 prune decisions + tell",
        "86 ms a trial (journal file 15 ms, memory 6 ms, nearly all of it TPE)",
        (
            Line("SQLite", "raw", "raw-sqlite"),
            Line("journal file, beside Swathe's", "raw", "raw-journal"),
            Line("memory", "raw", "raw-memory"),
        ),
    ),
    Row(
        "MLflow on SQLite: create 6.7, 100 metrics and 10 parameters in one batch 16, terminate 3.0, "
        "one log_metric 3.3",
        "ms",
        (
            Line("create a run", "raw", "raw-mlflow-create"),
            Line("100 metrics and 10 parameters in one batch", "raw", "raw-mlflow-batch"),
            Line("terminate", "raw", "raw-mlflow-terminate"),
            Line("one log_metric", "raw", "raw-mlflow-metric"),
        ),
    ),
    Row(
        "Ray's own published table: 10,000 trials of 1 s on 16 CPUs 715 s (625 is the minimum); 1,000 concurrent "
        "trials of 100 s 168 s; 96 trials at 10 results/s each, 100 s: 169 s",
        "overhead 14 %, 68 %, 69 %",
        (
            Line("160 trials of 1 s in 16 slots", "sleeping", "sleeping-many"),
            Line("32 concurrent trials of 8 s", "sleeping", "sleeping-concurrent"),
            Line("16 trials of 8 s, ten results a second each", "sleeping", "sleeping-results"),
        ),
    ),
    Row(
        "hydra-optuna-sweeper 1.3.0",
        "pins Optuna 2.10; no pruning; a batch waits for its slowest trial",
        (other("digits", "hydra"), other("noop", "hydra")),
    ),
)

FURTHER = (
    Row(
        "Optuna alone, and Syne Tune",
        "whole commands, without pruning; Swathe alone records in MLflow",
        tuple(other(kind, name) for kind in ("digits", "noop") for name in DIGITS_PEERS if name != "hydra"),
    ),
    Row(
        "Cost against size: trials that do nothing",
        "beside Ray Tune with reused actors and its MLflow callback",
        tuple(Line(f"{size:,} trials", "sizes", f"size-noop-{size}") for size in (100, 1_000, 10_000)),
    ),
    Row(
        "Cost against size: small trials of digits, 64-8-10, one epoch",
        "wall time a trial",
        (
            *(Line(f"{size:,} trials", "sizes", f"size-digits-{size}") for size in (100, 1_000, 10_000)),
            Line("trials 9,001 to 10,000 beside 1,001 to 2,000", "sizes", "late-digits"),
        ),
    ),
    Row(
        "Your own model: the first result",
        "one trial, from the command on, without any record or cache; the clone and the set-up before it once",
        tuple(Line(words, "own_models", f"own-{example}") for example, words in OWN_MODELS.items()),
    ),
)
