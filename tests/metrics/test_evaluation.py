"""Metrics of samples against real data, their reference set, and their floor."""

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from tiny import feature_network

from common.data import LabelledImages, load_real
from common.metrics import evaluation, lenet
from common.metrics.fid import calculate_frechet_distance, feature_statistics
from common.metrics.prdc import nearest_radii


@pytest.fixture(scope="module")
def network():
    return lenet.from_state_dict(feature_network())


@pytest.fixture(scope="module")
def real():
    return load_real("digits")


def against(real, network, tmp_path, n_ref):
    return evaluation.reference(real, network, n_ref, tmp_path / "features.pth", {"a": "b"})


def test_scores_are_those_of_an_independent_library(real, network, tmp_path):
    samples = load_real("digits", train=False)
    reference = against(real, network, tmp_path, 200)
    found = evaluation.scores(samples, network, reference)
    fake = lenet.extract_mnist_features(samples.images, network)
    all_real = lenet.extract_mnist_features(real.images, network)
    expected = compute_prdc(reference.compared.numpy(), fake.numpy(), nearest_k=5)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9)
    fid = calculate_frechet_distance(*feature_statistics(fake), *feature_statistics(all_real))
    assert found["fid"] == pytest.approx(fid, rel=1e-9)
    scores = network(samples.images.float() / 255).argmax(1)
    assert found["accuracy"] == (scores == samples.labels).double().mean().item() > 0.9
    wrong = LabelledImages(samples.images, (samples.labels + 1) % 10)
    assert evaluation.scores(wrong, network, reference)["accuracy"] < 0.05


def test_the_reference_is_balanced_the_same_for_all_and_computed_once(real, network, tmp_path):
    first = against(real, network, tmp_path, 200)
    again = against(real, None, tmp_path, 200)  # without a network it can only be read
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first.features.shape == (1500, 84) and first.radii.shape == (200,)
    rows = {row.tobytes() for row in first.compared.numpy()}
    chosen = [row.tobytes() in rows for row in first.features.numpy()]
    assert np.bincount(real.labels[chosen]).min() >= 20
    whole = against(real, network, tmp_path, 0)
    assert torch.equal(whole.compared, whole.features)  # as in files of earlier versions
    torch.testing.assert_close(whole.radii, nearest_radii(whole.features))


def test_the_floor_of_small_data_is_one_half_against_the_other(real, network, tmp_path):
    reference = against(real, network, tmp_path, 500)
    found = evaluation.floor(real, "digits", network, reference, 1000, 500)
    assert found["N"] == 750 and found["real"] == "training images against 750 others"
    halves = evaluation._halves(real)
    one, other = (reference.features[part].numpy() for part in halves)
    fid = calculate_frechet_distance(*feature_statistics(one), *feature_statistics(other))
    assert found["fid"] == pytest.approx(fid, rel=1e-9)
    expected = compute_prdc(other[:500], one, nearest_k=5)
    assert found["recall"] == pytest.approx(expected["recall"], abs=1e-9)


def test_each_half_of_unequal_classes_has_half_of_each():
    labels = torch.arange(10).repeat_interleave(torch.tensor([5000] + [500] * 9))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    one, other = evaluation._halves(LabelledImages(torch.zeros(len(labels), 1), labels))
    assert sorted([*one.tolist(), *other.tolist()]) == list(range(len(labels)))
    for half in (one, other):
        counts = labels[half].bincount()
        assert (counts - labels.bincount() / 2).abs().max() <= 10


def test_the_floor_takes_test_images_where_there_are_as_many_as_samples(real, network, tmp_path):
    reference = against(real, network, tmp_path, 0)
    found = evaluation.floor(real, "digits", network, reference, 100, 0)
    assert (found["N"], found["real"]) == (100, "test images")
    assert 0 < found["fid"] < 100 and found["precision"] > 0.8
