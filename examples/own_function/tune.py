"""A small network learns a sine."""

import torch

import swathe


def train(params):
    x = torch.linspace(-1, 1, 256)[:, None]
    model = torch.nn.Sequential(torch.nn.Linear(1, params.hidden), torch.nn.Tanh(), torch.nn.Linear(params.hidden, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=params.lr)
    for _ in range(params.epochs):
        loss = torch.nn.functional.mse_loss(model(x), torch.sin(3 * x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if swathe.report(val_loss=loss.item()):  # the pruner says when to stop
            break
    return model  # its state is kept when it is the best so far
