"""TF32 is for training and sampling only; spectra and features get all of float32. Memory stays."""

import os
import platform
import subprocess
import sys

import pytest
import torch
from tiny import ROOT

from common.data import LabelledImages
from common.machine import device
from common.metrics.lenet import LeNet, accuracy, extract_mnist_features
from common.spectrum import jacobian


@pytest.fixture(autouse=True)
def restored():
    before = [getattr(owner, name) for owner, name, _, _ in device._switches()]
    yield
    for (owner, name, _, _), value in zip(device._switches(), before, strict=True):
        setattr(owner, name, value)


def states():
    return [getattr(owner, name) for owner, name, _, _ in device._switches()]


def test_full_precision_holds_inside_and_is_restored_even_after_an_error():
    device.allow_tf32()
    on = states()
    with pytest.raises(KeyboardInterrupt), device.full_precision():
        assert all(state != allowed for state, allowed in zip(states(), on, strict=True))
        raise KeyboardInterrupt
    assert states() == on == [on_ for _, _, on_, _ in device._switches()]


def test_jacobians_and_features_are_computed_without_tf32():
    device.allow_tf32()
    on, seen = states(), []

    def eps(x, t, c):
        seen.append(states())
        return 2 * x

    jacobian.jacobian(eps, torch.zeros(1, 1, 2, 2), torch.ones(1), torch.zeros(1))
    network = LeNet().eval()
    network.register_forward_hook(lambda *_: seen.append(states()))
    network.fc.register_forward_hook(lambda *_: seen.append(states()))
    extract_mnist_features(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), network)
    accuracy(network, LabelledImages(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.zeros(1)))
    assert len(seen) >= 4 and all(state != on for state in seen)
    assert states() == on


@pytest.mark.cuda
def test_scripts_allow_tf32_on_cuda():
    device.use(deterministic=False)
    assert states() == [on for _, _, on, _ in device._switches()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_memory_that_was_freed_is_kept_for_what_is_wanted_next():
    """Even where the environment says otherwise, as on a worker of Dask: 20 times 20 MB would be
    100,000 pages that are taken again."""
    code = (
        "import resource, torch\n"
        "from common.machine import device\n"
        "def faults():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def use():\n"
        "    return [torch.ones(1_000_000) for _ in range(5)] and None\n"
        "device.keep_memory()\n"
        "use()\n"
        "before = faults()\n"
        "for _ in range(20):\n"
        "    use()\n"
        "print(faults() - before)\n"
    )
    told = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=told, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 10_000
