"""Handwritten digits; the two lines of Swathe's are marked."""

import hydra
import torch
from hydra.utils import instantiate
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import swathe  # one


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(cfg):
    torch.manual_seed(cfg.seed)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    model = torch.nn.Sequential(torch.nn.Linear(64, cfg.hidden), torch.nn.ReLU(), torch.nn.Linear(cfg.hidden, 10))
    optimizer = instantiate(cfg.optimizer, model.parameters(), lr=cfg.lr)
    for epoch in range(1, cfg.epochs + 1):
        for batch in torch.randperm(1500).split(64):
            optimizer.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = cross_entropy(model(x[1500:]), y[1500:]).item()
        swathe.report(loss, epoch)  # two
    print(f"loss {loss:.3f}")
    return loss


if __name__ == "__main__":
    main()
