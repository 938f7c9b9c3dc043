"""The claims, one a module, in the order in which `make results` runs their sweeps: the shortest first."""

from scripts.results.claims import (
    batch_size,
    early_stopping,
    exploding,
    fine_tuning,
    learning_rate,
    mixed_precision,
    mnist_headline,
    normalization,
    optimizers_compared,
    quickstart,
    regularization,
    schedules,
    vanishing,
    warmup,
)

CLAIMS = {
    module.CLAIM.name: module.CLAIM
    for module in (
        quickstart,
        learning_rate,
        normalization,
        exploding,
        vanishing,
        regularization,
        early_stopping,
        schedules,
        optimizers_compared,
        batch_size,
        fine_tuning,
        warmup,
        mixed_precision,
        mnist_headline,
    )
}
