"""TF32 is for training and sampling only; spectra and features get all of float32."""

import pytest
import torch

from common.loop import loop
from common.machine import device
from common.metrics import evaluation
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


def test_jacobians_and_features_are_computed_without_tf32(monkeypatch):
    device.allow_tf32()
    on, seen = states(), []

    def eps(x, t, c):
        seen.append(states())
        return 2 * x

    jacobian.jacobian(eps, torch.zeros(1, 1, 2, 2), torch.ones(1), torch.zeros(1))
    monkeypatch.setattr(
        evaluation, "extract_mnist_features", lambda *_: seen.append(states()) or torch.zeros(1, 84)
    )
    evaluation._features(None, None, "")
    assert len(seen) >= 2 and all(state != on for state in seen)
    assert states() == on


@pytest.mark.cuda
def test_scripts_allow_tf32_on_cuda():
    loop._use_device(type("Constants", (), {"deterministic": False}))
    assert states() == [on for _, _, on, _ in device._switches()]
