"""Writes records of 1 + 784 bytes, a label and an image: Fashion-MNIST, some times over."""

import sys

import numpy as np

from swathe.home import open_home
from swathe.training.data import load
from swathe.training.recipe import Data

times = int(sys.argv[1]) if len(sys.argv) > 1 else 4
dataset = load(Data("fashion_mnist", standardize=False), open_home(create=True).data)
images = (dataset.train_x.numpy() * 255).round().astype(np.uint8)
records = np.concatenate([dataset.train_y.numpy().astype(np.uint8)[:, None], images], axis=1)
with open("records.bin", "wb") as file:
    for _ in range(times):
        records.tofile(file)
