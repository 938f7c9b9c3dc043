"""Handwritten digits with two processes in each trial: Ray Train starts them, DistributedDataParallel joins them."""

import ray.train.torch
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import swathe
from swathe.integrations import ray_train


def train(params):
    """The trial: in its own worker, which waits for the others."""
    return ray_train.fit(loop, params, workers=2)


def loop(params):
    """What each of its processes does."""
    images, labels = load_digits(return_X_y=True)
    inputs, labels = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    loader = DataLoader(TensorDataset(inputs[:1500], labels[:1500]), params.batch_size, shuffle=True)
    loader = ray.train.torch.prepare_data_loader(loader)  # each process has its part of every epoch
    net = nn.Sequential(nn.Linear(64, params.hidden), nn.ReLU(), nn.Linear(params.hidden, 10))
    model = ray.train.torch.prepare_model(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=params.lr)
    kept = swathe.restore() or {"epoch": 0}
    if kept["epoch"]:
        net.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
    for epoch in range(kept["epoch"], params.epochs):
        loader.sampler.set_epoch(epoch)
        for batch, target in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), target).backward()
            optimizer.step()
        with torch.no_grad():
            val_loss = nn.functional.cross_entropy(net(inputs[1500:]), labels[1500:])
        if swathe.report(val_loss=val_loss):  # all of them are told the same
            break
        swathe.checkpoint(
            lambda: {"epoch": epoch + 1, "model": net.state_dict(), "optimizer": optimizer.state_dict()}  # noqa: B023
        )
    return model
