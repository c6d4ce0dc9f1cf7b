"""Labelled images: MNIST and its like, the built-in digits, a file of one's own; and batches."""

import math
import os
import zlib
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.datasets import KMNIST, MNIST, FashionMNIST

from common.machine import records
from common.machine.errors import UserError

LIKE_MNIST = {"mnist": MNIST, "fashion_mnist": FashionMNIST, "kmnist": KMNIST}
# What np.load raises for a file that is no .npz, or a damaged one.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    AttributeError,
    BadZipFile,
    zlib.error,
)
N_MNIST, N_DIGITS = (60_000, 10_000), (1_500, 297)  # training and test images


class LabelledImages(NamedTuple):
    """images uint8 (N, 1, 28, 28) with their labels int64 (N,)."""

    images: torch.Tensor
    labels: torch.Tensor

    def subset(self, index):
        """The images at these indices (int64 (M,)) or in this slice."""
        return LabelledImages(self.images[index], self.labels[index])

    def to(self, device):
        return LabelledImages(self.images.to(device), self.labels.to(device))


def concatenate(parts):
    """One LabelledImages out of several, in their order."""
    images, labels = zip(*parts, strict=True)
    return LabelledImages(torch.cat(images), torch.cat(labels))


def load_real(dataset, train=True):
    """The training or test part of a dataset: images of 10 classes.

    "mnist", "fashion_mnist", "kmnist" (60,000 / 10,000), "digits" (1,500 / 297), or the path of an
    .npz file with train_images, test_images uint8 (N, 28, 28) and train_labels, test_labels (N,)
    from 0 to 9. The first three lie, as torchvision stores them, in the folder named by the
    environment variable MNIST_ROOT, else in data/ at the project's root, and are downloaded when
    missing. UserError says what to do when that fails.
    """
    if dataset in LIKE_MNIST:
        return _like_mnist(LIKE_MNIST[dataset], train)
    return _digits(train) if dataset == "digits" else _own(Path(dataset), train)


def n_training(dataset):
    """How many training images a dataset has; infinity for a file that is there no more."""
    if dataset in LIKE_MNIST:
        return N_MNIST[0]
    if dataset == "digits":
        return N_DIGITS[0]
    return len(_own(Path(dataset), True).labels) if Path(dataset).exists() else math.inf


def _like_mnist(kind, train):
    name = kind.__name__
    root = Path(os.environ.get("MNIST_ROOT") or Path(__file__).resolve().parents[1] / "data")
    raw = root / name / "raw"
    try:
        found = kind(root, train=train, download=False)
        if len(found.data) != N_MNIST[0 if train else 1]:
            raise ValueError(f"{len(found.data)} images")
    except PermissionError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    except Exception as error:  # many types, from files that are empty or cut
        if "not found" not in str(error):
            raise UserError(
                f"the {name} files in {raw} are damaged ({type(error).__name__}): put them there "
                "again"
            ) from error
        print(f"downloading {name} into {root} ...")
        try:
            found = kind(root, train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{name} is not in {root} and cannot be downloaded ({type(error).__name__}): put "
                f"its four *-ubyte files into {raw}, or set MNIST_ROOT to the folder that holds "
                f"{name}/raw, or use the built-in digits with --dataset digits"
            ) from error
    return LabelledImages(found.data[:, None], found.targets)


def _own(path, train):
    part = "train" if train else "test"
    try:
        with np.load(path) as arrays:
            images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    except UNREADABLE as error:
        raise UserError(
            f"cannot read {part}_images and {part}_labels from {path}: {error}"
        ) from error
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or len(images) == 0:
        raise UserError(
            f"{path}: {part}_images must be uint8 (N, 28, 28), not {images.dtype} {images.shape}"
        )
    whole = np.issubdtype(labels.dtype, np.integer) and labels.shape == (len(images),)
    if not whole or set(np.unique(labels)) != set(range(10)):
        raise UserError(
            f"{path}: {part}_labels must be {len(images)} whole numbers from 0 to 9, each of "
            "which is there"
        )
    labels = torch.from_numpy(labels.astype(np.int64))
    return LabelledImages(torch.from_numpy(images)[:, None], labels)


def _digits(train):
    """scikit-learn's 1,797 digits of 8x8 pixels as 20x20 (bicubic), centred in 28x28."""
    pixels, labels = load_digits(return_X_y=True)  # (1797, 64) in 0..16
    part = train_test_split(
        np.arange(len(labels)), test_size=N_DIGITS[1], stratify=labels, random_state=0
    )[0 if train else 1]
    small = torch.from_numpy(pixels[part]).float().reshape(-1, 1, 8, 8) / 16
    large = torch.nn.functional.interpolate(small, size=(20, 20), mode="bicubic")
    return LabelledImages(
        quantised(torch.nn.functional.pad(large, (4, 4, 4, 4))),
        torch.from_numpy(labels[part].astype(np.int64)),
    )


def quantised(x):
    """Float images as uint8: clamped to [0, 1] and rounded (truncation would darken each by
    half a grey level on average, a bias that a self-consuming loop compounds)."""
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def balanced_order(labels, generator, whole=False):
    """Indices (M,) of images in which every run of 10 has one of each of the 10 classes.

    labels int64 (N,); each class is shuffled by the numpy generator; M is 10 times the size of
    the smallest class. Disjoint slices of it are disjoint, class-balanced samples. whole: M = N,
    with what the larger classes have left at the end, in turns.
    """
    labels = np.asarray(labels)
    classes = [generator.permutation(np.flatnonzero(labels == c)) for c in range(10)]
    shortest = min(map(len, classes))
    order = [c[turn] for turn in range(max(map(len, classes))) for c in classes if turn < len(c)]
    return torch.from_numpy(np.stack(order if whole else order[: 10 * shortest]))


def balanced_slice(order, start, n):
    """n indices of a `balanced_order` from position start; UserError when it is too short."""
    if start + n > len(order):
        raise UserError(
            f"the real data cannot last: {start + n} images are needed, but there are "
            f"{len(order)} in equal classes"
        )
    return order[start : start + n]


def balanced_sample(data, n, generator):
    """n different images of LabelledImages, as many of each class as there are; all of them, in
    their own order, when n is not below their number."""
    if n >= len(data.labels):
        return data
    return data.subset(balanced_order(data.labels, generator, whole=True)[:n])


def drawn_anew(data, n, generator):
    """n different images of LabelledImages for a control; UserError when there are fewer."""
    if n > len(data.labels):
        raise UserError(
            f"a control needs {n:,} real images without repeats, but there are no more than "
            f"{len(data.labels):,} to draw from: give smaller training sets"
        )
    return balanced_sample(data, n, generator)


def batches(data, batch_size, generator):
    """One epoch in random order: pairs of x_0 float (B, 1, 28, 28) in [0, 1] and c int64 (B,).

    data lives on the device as uint8; the CPU generator draws the order. The last batch is
    smaller when batch_size does not divide the number of images.
    """
    order = torch.randperm(len(data.labels), generator=generator).to(data.labels.device)
    for index in order.split(batch_size):
        # index_select copies whole images, where indexing copies byte by byte.
        yield data.images.index_select(0, index) / 255, data.labels.index_select(0, index)


def fingerprint(data):
    """A hash of LabelledImages' content."""
    return records.digest(*(part.numpy().tobytes() for part in data))
