"""What guessing costs on a dataset: what the losses of a run are measured by."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from swathe.training.symptoms import Facts

# It imports PyTorch, which a diagnosis does without.
if TYPE_CHECKING:
    from torch import Tensor

    from swathe.training.data import Dataset


# A worker asks for each of its trials.
@lru_cache(maxsize=4)
def dataset_facts(
    dataset: Dataset, *, label_smoothing: float = 0.0, steps_per_report: int | None = None, objective: str = "val_loss"
) -> Facts:
    """Return what is known of a run on a dataset before it begins.

    A guess is the best constant one, on the training part and on the validation part: the mean, or the classes' shares.
    Of many examples of one class and few of another it costs less than ln(classes), and naming the commonest is right
    more often than 1 / classes.
    """
    parts = dataset.train_y.flatten(), dataset.val_y.flatten()
    if dataset.classes:
        counts = [part.bincount(minlength=dataset.classes) for part in parts]
        losses = [_entropy(one) for one in counts]
        accuracy = counts[1].max().item() / len(parts[1])
    else:
        losses, accuracy = [part.var(correction=0).item() for part in parts], None
    # Where all targets are alike, guessing costs nothing and measures nothing.
    train_loss, val_loss = (loss if loss > 0 else None for loss in losses)
    return Facts(
        classes=dataset.classes if dataset.classes > 1 else None,
        baseline_loss=train_loss,
        val_baseline_loss=val_loss,
        base_accuracy=accuracy,
        label_smoothing=label_smoothing,
        steps_per_report=steps_per_report,
        objective=objective,
    )


def _entropy(counts: Tensor) -> float:
    """Return the entropy of the shares that counts are, in nats."""
    shares = counts[counts > 0].double() / counts.sum()
    return -(shares * shares.log()).sum().item()
