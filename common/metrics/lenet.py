"""LeNet: the classifier whose 84 features FID and PRDC are computed from.

LeCun et al. 1998, with BatchNorm. Parameter names and the function computed are those of the
public MAD-Detection code, so an existing prmodel.pth can be used.
"""

import torch
from torch import nn

from common.data import batches
from common.machine.device import full_precision
from common.machine.progress import Progress

N_FEATURES = 84


class LeNet(nn.Module):
    """Images float (B, 1, 28, 28) in [0, 1] -> class scores (B, 10)."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, kernel_size=5),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.fc = nn.Sequential(
            nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, N_FEATURES), nn.ReLU()
        )
        self.fc3 = nn.Linear(N_FEATURES, 10)

    def embed(self, x):
        """The features (B, 84): the outputs of `fc` after its last ReLU."""
        return self.fc(self.features(x).flatten(1))

    def forward(self, x):
        return self.fc3(self.embed(x))


def train_lenet(data, seeds, n_step=2400, batch_size=128, lrate=2e-3):
    """A LeNet trained on LabelledImages (on the device to train on), in eval mode.

    A fixed number of steps, so that small data sets are seen as often as they need; Adam, with the
    learning rate falling to zero along a cosine. Images are shifted by up to two pixels.
    """
    device = data.images.device
    network = seeds.initialised(LeNet, "lenet weights").to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=lrate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_step)
    order = seeds.torch_generator("lenet order")
    shifts = seeds.numpy_generator("lenet shifts")
    progress, step = Progress("feature network", n_step, "step", tenths=True), 0
    while step < n_step:
        for x, c in batches(data, batch_size, order):
            x = torch.roll(x, tuple(shifts.integers(-2, 3, size=2)), dims=(2, 3))
            loss = nn.functional.cross_entropy(network(x), c)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            progress.to(step)
            if step == n_step:
                break
    progress.close()
    return network.eval()


def from_state_dict(state):
    """The LeNet with these weights, on the CPU, in eval mode; ValueError names wrong keys."""
    network = LeNet()
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise ValueError(f"key {key}: expected {expected.get(key)}, found {found.get(key)}")
    network.load_state_dict(state)
    return network.eval()


def extract_mnist_features(images, network, batch_size=1000):
    """Features float32 (N, 84) on the CPU of images uint8 (N, 1, 28, 28), by a LeNet in eval mode.

    The network's device does the work. ValueError for a network in train mode.
    """
    if network.training:
        raise ValueError("the feature network is in train mode: BatchNorm would mix the images")
    return _in_batches(network.embed, images, network, batch_size)


def accuracy(network, data, batch_size=1000):
    """The fraction of LabelledImages that the network classifies correctly."""
    scores = _in_batches(network, data.images, network, batch_size)
    return (scores.argmax(1) == data.labels).sum().item() / len(data.labels)


@torch.inference_mode()
def _in_batches(function, images, network, batch_size):
    """A function of images in [0, 1] on the network's device, of images uint8 (N, 1, 28, 28)."""
    device = next(network.parameters()).device
    parts = images.split(batch_size)
    with full_precision():
        return torch.cat([function(part.to(device).float() / 255).cpu() for part in parts])
