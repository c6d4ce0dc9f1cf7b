"""Data: what is loaded, how it is quantised, and how it is divided."""

import errno
import io
import urllib.error

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from common import data
from common.data import LabelledImages
from common.machine.errors import UserError

SIZES = {("mnist", True): 60_000, ("mnist", False): 10_000}
SIZES |= {("digits", True): 1500, ("digits", False): 297}


def generator(seed=0):
    return np.random.default_rng(seed)


# The built-in digits


@pytest.mark.parametrize("train", [True, False])
def test_digits_look_like_mnist(train):
    images, labels = data.load_real("digits", train)
    assert images.shape == (SIZES["digits", train], 1, 28, 28) and images.dtype == torch.uint8
    assert labels.shape == (len(images),) and labels.dtype == torch.int64
    border = images.clone()
    border[:, :, 4:24, 4:24] = 0
    assert not border.any()
    assert images.max() == 255
    counts = torch.bincount(labels, minlength=10)
    assert len(counts) == 10 and counts.max() - counts.min() <= 9  # of 174 to 183, in proportion


def cubic_interpolation(n_out, n_in, a=-0.75):
    """The matrix (n_out, n_in) of cubic convolution (Keys 1981), edges repeated, pixel centres."""

    def kernel(x):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0

    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        centre = (i + 0.5) * n_in / n_out - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            matrix[i, np.clip(tap, 0, n_in - 1)] += kernel(centre - tap)
    return matrix


def test_digits_are_scikit_learns_each_in_one_part_only():
    """All 1,797 and no others, by an interpolation written out in float64."""
    pixels, labels = load_digits(return_X_y=True)
    assert len(np.unique(pixels, axis=0)) == len(pixels)  # so equal images are the same image
    matrix = cubic_interpolation(20, 8)
    large = matrix @ pixels.reshape(-1, 8, 8) @ matrix.T * (255 / 16)
    expected = np.zeros((len(large), 28, 28))
    expected[:, 4:24, 4:24] = large.clip(0, 255)

    parts = [data.load_real("digits", train) for train in (True, False)]
    images, found_labels = data.concatenate(parts)
    found = images[:, 0].numpy().astype(float)
    distances = (
        (expected**2).sum((1, 2))[:, None]
        + (found**2).sum((1, 2))[None]
        - 2 * expected.reshape(len(expected), -1) @ found.reshape(len(found), -1).T
    )
    partner = distances.argmin(0)
    assert sorted(partner) == list(range(1797))
    assert np.abs(found - expected[partner]).max() < 0.501  # rounding, and float32
    assert (found_labels.numpy() == labels[partner]).all()


def test_digits_are_divided_the_same_way_every_time():
    first, second = (data.load_real("digits") for _ in range(2))
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)


# MNIST


@pytest.mark.parametrize(("train", "part"), [(True, "train"), (False, "t10k")])
def test_mnist_is_what_its_raw_files_hold(mnist_root, train, part):
    images, labels = data.load_real("mnist", train)
    n = SIZES["mnist", train]
    raw = mnist_root / "MNIST" / "raw"
    pixels = np.fromfile(raw / f"{part}-images-idx3-ubyte", np.uint8, offset=16)
    classes = np.fromfile(raw / f"{part}-labels-idx1-ubyte", np.uint8, offset=8)
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert (images.numpy() == pixels.reshape(n, 1, 28, 28)).all()
    assert (labels.numpy() == classes).all()


@pytest.mark.parametrize(
    ("name", "folder"), [("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_what_torchvision_stores_like_mnist_is_read_from_its_folder(
    name, folder, tmp_path, monkeypatch
):
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    generator, written = np.random.default_rng(0), {}
    for part, n in (("train", 60_000), ("t10k", 10_000)):
        images = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        header = np.array([2051, n, 28, 28], ">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = np.array([2049, n], ">i4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
        written[part == "train"] = images, labels
    monkeypatch.setenv("MNIST_ROOT", str(tmp_path))
    for train, (images, labels) in written.items():
        found = data.load_real(name, train)
        assert (found.images[:, 0].numpy() == images).all()
        assert (found.labels.numpy() == labels).all()
    assert data.n_training(name) == 60_000


def own_file(path, **changes):
    """The digits as a file of one's own, with changes."""
    arrays = {}
    for part, train in (("train", True), ("test", False)):
        images, labels = data.load_real("digits", train)
        arrays |= {f"{part}_images": images[:, 0].numpy(), f"{part}_labels": labels.numpy()}
    np.savez(path, **{**arrays, **changes})
    return path


def test_a_file_of_ones_own_is_read(tmp_path):
    path = own_file(tmp_path / "own.npz")
    for train in (True, False):
        found, expected = data.load_real(str(path), train), data.load_real("digits", train)
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.labels, expected.labels)
    assert data.n_training(str(path)) == 1500
    assert data.n_training(str(tmp_path / "gone.npz")) == np.inf


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_images": np.zeros((5, 28, 28))}, "train_images must be uint8"),
        ({"train_images": np.zeros((5, 32, 32), np.uint8)}, r"not uint8 \(5, 32, 32\)"),
        ({"train_labels": np.zeros(1500, int)}, "from 0 to 9, each of which"),
        ({"train_labels": np.arange(1500) % 11}, "from 0 to 9, each of which"),
        ({"train_labels": np.arange(7)}, "must be 1500 whole numbers"),
        ({"train_labels": np.arange(1500) % 10 + 0.5}, "must be 1500 whole numbers"),
    ],
)
def test_a_file_of_another_form_is_refused(changes, said, tmp_path):
    with pytest.raises(UserError, match=said):
        data.load_real(str(own_file(tmp_path / "own.npz", **changes)))


def test_a_file_without_the_arrays_or_that_is_none_is_refused(tmp_path):
    np.savez(tmp_path / "own.npz", images=np.zeros(3))
    with pytest.raises(UserError, match="cannot read train_images and train_labels from .*own.npz"):
        data.load_real(str(tmp_path / "own.npz"))
    whole = own_file(tmp_path / "own.npz").read_bytes()
    flipped = bytes([*whole[:900], whole[900] ^ 1, *whole[901:]])
    alone = io.BytesIO()
    np.save(alone, np.zeros(3))
    for content in (b"PK something", b"", whole[:-9], flipped, alone.getvalue()):
        (tmp_path / "own.npz").write_bytes(content)
        with pytest.raises(UserError, match="cannot read train_images"):
            data.load_real(str(tmp_path / "own.npz"))
    with pytest.raises(UserError, match="No such file"):
        data.load_real(str(tmp_path / "gone.npz"))


def test_missing_mnist_that_cannot_be_downloaded_is_one_sentence(tmp_path, monkeypatch):
    def no_network(*arguments, **keywords):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", no_network)
    monkeypatch.setenv("MNIST_ROOT", str(tmp_path))
    with pytest.raises(UserError) as stopped:
        data.load_real("mnist")
    said = str(stopped.value)
    assert "\n" not in said
    assert said.startswith(f"MNIST is not in {tmp_path} and cannot be downloaded")
    assert str(tmp_path / "MNIST" / "raw") in said
    assert "MNIST_ROOT" in said and "--dataset digits" in said


def damaged_mnist(tmp_path, mnist_root, change):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (mnist_root / "MNIST" / "raw").iterdir():
        (raw / path.name).write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "change", [lambda content: b"", lambda content: content[:-100]], ids=["empty", "truncated"]
)
def test_damaged_mnist_is_called_damaged_and_not_missing(tmp_path, monkeypatch, mnist_root, change):
    damaged_mnist(tmp_path, mnist_root, change)
    monkeypatch.setenv("MNIST_ROOT", str(tmp_path))
    with pytest.raises(UserError, match=r"the MNIST files in .*raw are damaged") as stopped:
        data.load_real("mnist", train=False)
    assert "\n" not in str(stopped.value) and "downloaded" not in str(stopped.value)


def test_mnist_that_cannot_be_read_for_a_moment_is_not_damaged(monkeypatch):
    def refused(*arguments, **keywords):
        raise PermissionError(errno.EACCES, "Permission denied", "train-images-idx3-ubyte")

    refused.__name__ = "MNIST"
    monkeypatch.setitem(data.LIKE_MNIST, "mnist", refused)
    with pytest.raises(UserError, match="^cannot read train-images-idx3-ubyte: Permission denied"):
        data.load_real("mnist")


# Quantisation


def test_rounding_darkens_nothing_on_average():
    x = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0))
    error = data.quantised(x).double() / 255 - x.double()
    assert abs(error.mean()) < 0.02 / 255  # truncation: -0.5 / 255
    assert error.abs().max() < 0.5001 / 255


def test_grey_levels_survive_and_others_are_clamped():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(data.quantised(levels.float() / 255), levels)
    assert data.quantised(torch.tensor([-7.0, -0.001, 1.001, 300.0])).tolist() == [0, 0, 255, 255]


# Balanced samples

LABELS = torch.from_numpy(generator(1).permutation(np.repeat(np.arange(10), np.arange(12, 22))))
IMAGES = LabelledImages(
    torch.arange(len(LABELS)).to(torch.uint8)[:, None, None, None].expand(-1, 1, 28, 28), LABELS
)  # each image's pixels are its index


def test_every_ten_of_a_balanced_order_hold_every_class():
    order = data.balanced_order(LABELS, generator())
    assert len(order) == len(set(order.tolist())) == 120  # 12 of the rarest class
    assert (LABELS[order].reshape(-1, 10).sort(1).values == torch.arange(10)).all()


def test_a_balanced_order_is_a_shuffle_of_each_class_by_its_generator():
    first, again, other = (data.balanced_order(LABELS, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    for c in range(10):
        of_class = first[LABELS[first] == c]
        assert of_class.tolist() != sorted(of_class.tolist())
        assert of_class.tolist() != other[LABELS[other] == c].tolist()


def test_slices_of_a_balanced_order_are_disjoint_until_it_ends():
    order = data.balanced_order(LABELS, generator())
    parts = [data.balanced_slice(order, start, 30) for start in (0, 30, 60, 90)]
    assert len(set(torch.cat(parts).tolist())) == 120
    assert all((torch.bincount(LABELS[part], minlength=10) == 3).all() for part in parts)
    with pytest.raises(UserError, match="121 images are needed, but there are 120"):
        data.balanced_slice(order, 91, 30)


def test_a_balanced_sample_has_different_images_with_their_labels():
    for n in (1, 10, 50, 57, 120):
        images, labels = data.balanced_sample(IMAGES, n, generator())
        index = images[:, 0, 0, 0].long()
        assert len(set(index.tolist())) == n and torch.equal(labels, LABELS[index])
        counts = torch.bincount(labels, minlength=10)
        assert counts.max() - counts.min() <= 1


def test_a_sample_of_all_images_is_the_data_and_of_nearly_all_has_what_there_is():
    assert data.balanced_sample(IMAGES, len(LABELS), generator()) is IMAGES
    nearly = data.balanced_sample(IMAGES, len(LABELS) - 3, generator())
    kept = {image.numpy().tobytes() for image in nearly.images}
    assert len(nearly.labels) == len(LABELS) - 3 and len(kept) == len(nearly.labels)
    balanced = data.balanced_sample(IMAGES, 120, generator())  # ten of the smallest class's size
    assert torch.equal(nearly.images[:120], balanced.images)
    assert torch.bincount(balanced.labels).tolist() == [12] * 10
    with pytest.raises(UserError, match=f"no more than {len(LABELS)} to draw from"):
        data.drawn_anew(IMAGES, len(LABELS) + 1, generator())


# Batches


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(50, [50, 50, 50, 15]), (165, [165]), (1000, [165])]
)
def test_an_epoch_holds_every_image_once_with_its_label(batch_size, sizes):
    epoch = list(data.batches(IMAGES, batch_size, torch.Generator().manual_seed(0)))
    assert [len(x_0) for x_0, _ in epoch] == [len(c) for _, c in epoch] == sizes
    x_0, c = (torch.cat(parts) for parts in zip(*epoch, strict=True))
    assert x_0.shape == (165, 1, 28, 28) and x_0.dtype == torch.float32
    index = (x_0[:, 0, 0, 0] * 255).round().long()
    assert sorted(index.tolist()) == list(range(165)) and index.tolist() != sorted(index.tolist())
    assert torch.equal(c, LABELS[index])


def test_batches_are_scaled_to_the_unit_interval():
    grey = torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None, None].expand(3, 1, 28, 28)
    [(x_0, _)] = data.batches(LabelledImages(grey, torch.zeros(3)), 3, torch.Generator())
    assert sorted(x_0[:, 0, 0, 0].tolist()) == pytest.approx([0, 0.2, 1])


def test_the_order_of_an_epoch_comes_from_its_generator():
    orders = [
        torch.cat([c for _, c in data.batches(IMAGES, 50, torch.Generator().manual_seed(seed))])
        for seed in (0, 0, 1)
    ]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
