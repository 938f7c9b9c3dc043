"""A small convolutional network."""

from torch import nn


class Net(nn.Module):
    def __init__(self, image_shape, classes, width=16, dropout=0.0):  # Swathe gives the first two
        super().__init__()
        channels, height, _ = image_shape
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(width * (height // 2) ** 2, classes))

    def forward(self, x):  # [batch, channels, height, width] -> [batch, classes]
        return self.head(self.features(x))
