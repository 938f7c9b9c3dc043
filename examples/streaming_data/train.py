"""One pass through a file of records that need not fit into memory, by the workers of a DataLoader."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import swathe

RECORD = 1 + 784
# Records are read in blocks, in random order, and shuffled within a block.
BLOCK = 4096
BATCHES_PER_REPORT = 100


class Records(IterableDataset):
    """Batches (images, labels) from a file; each worker of the loader reads its own blocks."""

    def __init__(self, file, batch_size, seed):
        self.file, self.batch_size, self.seed = file, batch_size, seed

    def __iter__(self):
        worker = get_worker_info()
        generator = np.random.default_rng(self.seed)
        blocks = generator.permutation(Path(self.file).stat().st_size // RECORD // BLOCK)
        with open(self.file, "rb") as file:
            for block in blocks[worker.id :: worker.num_workers]:
                file.seek(block * BLOCK * RECORD)
                records = np.fromfile(file, np.uint8, BLOCK * RECORD).reshape(BLOCK, RECORD)
                generator.shuffle(records)
                for batch in torch.from_numpy(records).split(self.batch_size):
                    yield batch[:, 1:].float() / 255, batch[:, 0].long()


def train(params):
    data = Records(params.file, params.batch_size, swathe.trial().seed)
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=params.start)
    net = nn.Sequential(nn.Linear(784, params.hidden), nn.ReLU(), nn.Linear(params.hidden, 10))
    optimizer = torch.optim.AdamW(net.parameters(), lr=params.lr)
    losses = []
    for number, (images, labels) in enumerate(loader, 1):
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if number % BATCHES_PER_REPORT == 0:
            # Each batch is new to the network: its mean loss is that of data not seen before.
            if swathe.report(stream_loss=np.mean(losses)):
                break
            losses.clear()
    return net
