"""A linear classifier of scikit-learn's digits, as the template splits it up."""

from functools import partial

import torch
from sklearn.datasets import load_digits


class Digits:
    def __init__(self, batch_size: int) -> None:
        x, y = load_digits(return_X_y=True)
        self.batch_size = batch_size
        self.x, self.y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)


class Classifier(torch.nn.Module):
    def __init__(self, net: torch.nn.Module, optimizer: partial) -> None:
        super().__init__()
        self.net, self.optimizer = net, optimizer(net.parameters())


def network(size: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(64, size), torch.nn.ReLU(), torch.nn.Linear(size, 10))


class Trainer:
    def __init__(self, max_epochs: int) -> None:
        self.max_epochs = max_epochs

    def __call__(self, model: Classifier, data: Digits) -> dict[str, float]:
        for _ in range(self.max_epochs):
            for start in range(0, 1500, data.batch_size):
                batch = slice(start, min(1500, start + data.batch_size))
                loss = torch.nn.functional.cross_entropy(model.net(data.x[batch]), data.y[batch])
                model.optimizer.zero_grad()
                loss.backward()
                model.optimizer.step()
        with torch.no_grad():
            right = model.net(data.x[1500:]).argmax(1) == data.y[1500:]
        return {"val/acc_best": right.float().mean().item()}
