"""A trial of two processes in which everything happens once: a process dies, then its worker, then it is pruned."""

from __future__ import annotations

import os
import signal
from copy import deepcopy
from pathlib import Path
from typing import Any

import ray.train.torch
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import swathe
from swathe.errors import SwatheError
from swathe.integrations import ray_train

BATCH = 50


def train(params: Any) -> Any:
    folder = Path(params.folder)
    if not (folder / "worker").exists():
        (folder / "refused").write_text(refusal(workers=99))
    (folder / "worker").write_text(str(os.getpid()))
    return ray_train.fit(loop, params, workers=2, resources_per_worker={"CPU": 1})


def refusal(workers: int) -> str:
    try:
        ray_train.fit(loop, {}, workers=workers)
    except SwatheError as error:
        return str(error)
    return "it was not"


def loop(params: Any) -> Any:
    folder, info = Path(params.folder), swathe.trial()
    assert info is not None
    assert info.world_size == torch.distributed.get_world_size() == 2
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    net = nn.Linear(64, 10)
    # In one process, with batches of double the size.
    alone = deepcopy(net)
    kept = swathe.restore()
    epoch = 0
    if kept is not None:
        epoch = kept["epoch"]
        net.load_state_dict(kept["net"])
        alone.load_state_dict(kept["alone"])
    model = ray.train.torch.prepare_model(net)
    while epoch < 8:
        epoch += 1
        for start in range(0, 1000, 2 * BATCH):
            mine = slice(start + info.rank * BATCH, start + (info.rank + 1) * BATCH)
            step(model, inputs[mine], targets[mine])
            both = slice(start, start + 2 * BATCH)
            step(alone, inputs[both], targets[both])
        if epoch == 3 and info.rank == 1 and once(folder / "rank"):
            os.kill(os.getpid(), signal.SIGKILL)
        if epoch == 5 and info.rank == 0 and once(folder / "trial"):
            os.kill(int((folder / "worker").read_text()), signal.SIGKILL)
        loss = 100.0 if epoch == 6 else float(nn.functional.cross_entropy(net(inputs[1000:]), targets[1000:]))
        if swathe.report(val_loss=loss, ranks=between_ranks(net), alone=difference(net, alone)):
            break
        swathe.checkpoint({"epoch": epoch, "net": net.state_dict(), "alone": alone.state_dict()})
    (folder / f"ended-{info.rank}").write_text(str(epoch))
    return model


def step(model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    model.zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= 0.1 * parameter.grad


def between_ranks(net: nn.Linear) -> float:
    weights = [torch.empty_like(net.weight) for _ in range(2)]
    torch.distributed.all_gather(weights, net.weight.detach())
    return float((weights[0] - weights[1]).abs().max())


def difference(net: nn.Linear, alone: nn.Linear) -> float:
    return float((net.weight - alone.weight).abs().max())


def once(marker: Path) -> bool:
    if marker.exists():
        return False
    marker.touch()
    return True
