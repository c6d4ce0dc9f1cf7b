"""Precision, recall, density and coverage against the package `prdc`, and their memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import prdc
import pytest
from tiny import ROOT

from common.metrics.prdc import compute_prdc_slice, nearest_radii


def rng(seed=0):
    return np.random.default_rng(seed)


def clusters(n, d, seed):
    """Points around 10 centres, of which 3 are missing where the seed is odd."""
    r = rng(seed)
    centres = rng(99).normal(size=(10, d)) * 4
    return centres[r.integers(10 - 3 * (seed % 2), size=n)] + r.normal(size=(n, d))


def grid(n, d, seed):
    """Whole numbers: many equal points and equal distances, none of them rounded."""
    return rng(seed).integers(0, 4, size=(n, d)).astype(np.float64)


def relu(n, d, seed):
    """float32 features as LeNet's: mostly zeros, some units silent."""
    r = rng(seed)
    return (r.normal(size=(n, 8)) @ r.normal(size=(8, d)) - 2).clip(min=0).astype(np.float32)


SETS = {
    "random": (rng(0).normal(size=(230, 84)), rng(1).normal(size=(150, 84))),
    "few real": (rng(0).normal(size=(9, 5)), rng(1).normal(size=(150, 5))),
    "clustered": (clusters(300, 20, 0), clusters(211, 20, 1)),
    "far": (rng(0).normal(size=(60, 5)), 100 + rng(1).normal(size=(60, 5))),
    "grid": (grid(200, 3, 0), grid(150, 3, 1)),
    "relu": (relu(200, 84, 0), relu(150, 84, 0) * np.float32(1.1)),
}


def by_the_package(real, fake, k=5):
    """Of features as float64, which the package would leave in float32."""
    return prdc.compute_prdc(np.float64(real), np.float64(fake), k)


@pytest.mark.parametrize("block", [1, 7, 500])  # 500 is more than there are points
@pytest.mark.parametrize("name", SETS)
def test_equals_the_package_in_blocks_of_any_size(name, block):
    real, fake = SETS[name]
    assert compute_prdc_slice(real, fake, block=block) == pytest.approx(
        by_the_package(real, fake), abs=1e-12
    )


@pytest.mark.parametrize("k", [1, 3, 8])
def test_equals_the_package_for_other_numbers_of_neighbours(k):
    real, fake = SETS["clustered"]
    assert compute_prdc_slice(real, fake, k) == pytest.approx(
        by_the_package(real, fake, k), abs=1e-12
    )


def test_lost_clusters_lower_recall_and_coverage_but_not_precision():
    """So the sets above do not compare trivial values."""
    found = compute_prdc_slice(*SETS["clustered"])
    assert all(found[name] > 0.85 for name in ("precision", "density"))
    assert all(0.5 < found[name] < 0.7 for name in ("recall", "coverage"))
    swapped = compute_prdc_slice(*SETS["clustered"][::-1])
    assert (swapped["precision"], swapped["recall"]) == (found["recall"], found["precision"])


def test_a_model_that_copies_real_images_is_measured_as_by_the_package():
    """Such fakes lie exactly on the rim of balls, which the balls do not hold."""
    real = rng().integers(0, 9, size=(300, 20)).astype(np.float64)  # distances without rounding
    assert compute_prdc_slice(real, real[:200]) == pytest.approx(
        by_the_package(real, real[:200]), abs=1e-12
    )


def test_radii_are_the_distances_to_the_kth_nearest_other_point():
    points = SETS["random"][0]
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    for k in (1, 5):
        np.testing.assert_allclose(nearest_radii(points, k), np.sort(distances)[:, k], rtol=1e-12)


@pytest.mark.parametrize("name", SETS)
def test_radii_computed_once_give_the_same(name):
    real, fake = SETS[name]
    radii = nearest_radii(real)
    assert radii.shape == (len(real),)
    assert compute_prdc_slice(real, fake, real_radii=radii) == compute_prdc_slice(real, fake)


def test_too_few_points_and_wrong_shapes_are_refused():
    enough, few = np.zeros((6, 3)), np.zeros((5, 3))
    assert compute_prdc_slice(enough, enough)["coverage"] == 0  # all balls have radius 0
    for real, fake in ((few, enough), (enough, few), (enough[0], enough), (enough, enough[None])):
        with pytest.raises(ValueError, match="N of 6 or more"):
            compute_prdc_slice(real, fake)
    with pytest.raises(ValueError, match="N of 6 or more"):
        nearest_radii(few)


MEASURED = """
import torch

from common.metrics.prdc import compute_prdc_slice, nearest_radii

def peak():
    with open("/proc/self/status", encoding="utf-8") as status:
        return int(next(line.split()[1] for line in status if line.startswith("VmHWM")))

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
real, fake = (torch.randn(n, 84, generator=generator).relu() for n in ({n}, 1_000))
compute_prdc_slice(fake, fake)
before = peak()
radii = {radii}
print(compute_prdc_slice(real, fake, real_radii=radii)["coverage"], peak() - before)
"""


def measured(n, radii):
    """Coverage of 1,000 fakes among n real points, and by how much the metrics raise the process's
    peak of memory, in GB."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc/self/status, which tells a process's peak of memory on Linux")
    command = [sys.executable, "-c", MEASURED.format(n=n, radii=radii)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    coverage, kibibytes = map(float, done.stdout.split())
    return coverage, kibibytes * 1024 / 1e9


@pytest.mark.parametrize("block", [100, 300])
def test_blocks_do_not_add_up_to_the_whole_matrix(block):
    """9,000 real points: 0.65 GB as a matrix, 7 or 22 MB a block."""
    _, more = measured(9000, f"nearest_radii(real, block={block})")
    assert more < 0.1


@pytest.mark.parametrize(
    "radii",
    ["torch.full((60_000,), 7.5)", pytest.param("nearest_radii(real)", marks=pytest.mark.slow)],
    ids=["known", "new"],
)
def test_sixty_thousand_real_images_need_little_memory(radii):
    """Their distances to one another would be 29 GB, to the fakes 0.5."""
    coverage, more = measured(60_000, radii)
    assert 0 < coverage < 1 and more < 0.3
