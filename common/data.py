"""Labelled images: MNIST, the built-in digits, and batches of either."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.datasets import MNIST

from common.machine import records
from common.machine.errors import UserError

N_TEST_DIGITS = 297


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
    """The training or test part of "mnist" (60,000 / 10,000) or "digits" (1,500 / 297).

    MNIST lies in the folder named by the environment variable MNIST_ROOT, else in data/ at the
    project's root, and is downloaded when missing. UserError says what to do when that fails.
    """
    return {"mnist": _mnist, "digits": _digits}[dataset](train)


def _mnist(train):
    root = Path(os.environ.get("MNIST_ROOT") or Path(__file__).resolve().parents[1] / "data")
    try:
        mnist = MNIST(root, train=train, download=False)
        if len(mnist.data) != (60_000 if train else 10_000):
            raise ValueError(f"{len(mnist.data)} images")
    except PermissionError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    except Exception as error:  # many types, from files that are empty or cut
        if "not found" not in str(error):
            raise UserError(
                f"the MNIST files in {root / 'MNIST' / 'raw'} are damaged "
                f"({type(error).__name__}): put them there again"
            ) from error
        print(f"downloading MNIST into {root} ...")
        try:
            mnist = MNIST(root, train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"MNIST is not in {root} and cannot be downloaded ({type(error).__name__}): put "
                f"its four *-ubyte files into {root / 'MNIST' / 'raw'}, or set MNIST_ROOT to the "
                "folder that holds MNIST/raw, or use the built-in digits with --dataset digits"
            ) from error
    return LabelledImages(mnist.data[:, None], mnist.targets)


def _digits(train):
    """scikit-learn's 1,797 digits of 8x8 pixels as 20x20 (bicubic), centred in 28x28."""
    pixels, labels = load_digits(return_X_y=True)  # (1797, 64) in 0..16
    part = train_test_split(
        np.arange(len(labels)), test_size=N_TEST_DIGITS, stratify=labels, random_state=0
    )[0 if train else 1]
    small = torch.from_numpy(pixels[part]).float().reshape(-1, 1, 8, 8) / 16
    large = torch.nn.functional.interpolate(small, size=(20, 20), mode="bicubic")
    return LabelledImages(
        quantised(torch.nn.functional.pad(large, (4, 4, 4, 4))), torch.from_numpy(labels[part])
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
