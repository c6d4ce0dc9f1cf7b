"""How good a set of samples is: FID, PRDC and class accuracy against real data, and their floor."""

from typing import NamedTuple

import torch

from common.data import balanced_order, load_real
from common.machine import storage
from common.machine.errors import UserError
from common.metrics.fid import calculate_frechet_distance, feature_statistics
from common.metrics.lenet import accuracy, extract_mnist_features
from common.metrics.neighbours import distance_to_training, entropy
from common.metrics.prdc import compute_prdc_slice, nearest_radii
from common.seeds import Seeds

ENOUGH_TEST_IMAGES = 1000  # for a floor; a test part with fewer is replaced by halves


class Reference(NamedTuple):
    """Real data as the metrics see it: features (N, 84) of all images, for FID, and for PRDC those
    `compared` (N_ref, 84) with their radii (N_ref,)."""

    features: torch.Tensor
    compared: torch.Tensor
    radii: torch.Tensor


def reference(real, lenet, n_ref, path, key):
    """The Reference of real LabelledImages, computed once and kept in `path` under `key`.

    n_ref: how many images PRDC compares with, 0 for all. They are the same for every seed: numbers
    against different ones could not be compared.
    """
    key = {**key, "N_ref": n_ref} if n_ref else key
    chosen = _balanced(real, n_ref) if n_ref else slice(None)
    with storage.lock(path.with_suffix(".lock"), wait=True):  # other weights' loops too
        if storage.verify(path):
            saved = storage.load(path, "main.py")
            if saved["key"] == key:
                features, radii = saved["features"], saved["radii"]
                return Reference(features, features[chosen], radii)
        features = _features(real.images, lenet, "the real images")
        compared = features[chosen]
        radii = nearest_radii(compared)
        storage.save({"key": key, "features": features, "radii": radii}, path)
        return Reference(features, compared, radii)


def scores(samples, lenet, against, training=None):
    """{"fid", "precision", "recall", "density", "coverage", "entropy", "distance_to_training",
    "accuracy"} of LabelledImages.

    entropy and distance_to_training, to the LabelledImages that the model was trained on where they
    are given, are of `neighbours`, in the 84 features. accuracy: the fraction that the
    feature network puts into the class that was asked for.
    """
    features = _features(samples.images, lenet, "the samples")
    found = {**_distances(features, against), "entropy": entropy(features)}
    if training is not None:
        known = _features(training.images, lenet, "the training set")
        found["distance_to_training"] = distance_to_training(features, known)
    return {**found, "accuracy": accuracy(lenet, samples)}


def floor(real, dataset, lenet, against, n_eval, n_ref):
    """What real images score: a row {"real", "N", "fid", ...}, the least that samples can reach.

    As many test images as there are samples (or all of them); where the test part is too small,
    half of the training images against the other half.
    """
    test = load_real(dataset, train=False)
    if len(test.labels) >= min(n_eval, ENOUGH_TEST_IMAGES):
        chosen = test.subset(_balanced(test, n_eval))
        return {
            "real": "test images",
            "N": len(chosen.labels),
            **_distances(_features(chosen.images, lenet, "the test images"), against),
        }
    one, other = _halves(real)
    compared = against.features[other[:n_ref] if n_ref else other]
    half = Reference(against.features[other], compared, nearest_radii(compared))
    chosen = one[:n_eval]
    return {
        "real": f"training images against {len(other):,} others",
        "N": len(chosen),
        **_distances(against.features[chosen], half),
    }


def _distances(features, against):
    fid = calculate_frechet_distance(
        *feature_statistics(features), *feature_statistics(against.features)
    )
    return {"fid": fid, **compute_prdc_slice(against.compared, features, real_radii=against.radii)}


def _balanced(data, n):
    """Indices of n images (0: all), of each class as many as there are."""
    order = balanced_order(data.labels, Seeds(0, "reference").numpy_generator("order"), whole=True)
    return order[: n or None]


def _halves(data):
    """Indices of the images in two halves, with half of each class in each."""
    order = _balanced(data, 0)
    labels, place = data.labels[order], torch.empty(len(order), dtype=torch.float64)
    for c in labels.unique():
        place[labels == c] = torch.linspace(0, 1, int((labels == c).sum()), dtype=torch.float64)
    return order[place.argsort(stable=True)].tensor_split([len(order) // 2])


def _features(images, lenet, what):
    features = extract_mnist_features(images, lenet)
    if not features.isfinite().all():
        raise UserError(
            f"the features of {what} are not finite: move prmodel.pth away and run initialmain.py"
        )
    return features
