"""The streams of a model of another library, in ten lines: those of the README."""

import re

import numpy as np
import pytest
import torch
from tiny import ROOT

diffusers = pytest.importorskip("diffusers", reason="needs the package diffusers")


def test_a_unet_of_diffusers_is_measured_in_ten_lines():
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        num_class_embeds=3,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
    )
    images, labels = torch.rand(90, 1, 16, 16) * 2 - 1, torch.arange(90) % 3

    text = (ROOT / "common" / "spectrum" / "README.md").read_text(encoding="utf-8")
    (ten_lines,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    names = {
        "torch": torch,
        "diffusers": diffusers,
        "model": model,
        "images": images,
        "labels": labels,
    }
    exec(ten_lines, names)
    streams, noise, times, alphabar, x_0, c = (
        names[name] for name in ("streams", "noise", "times", "alphabar", "x_0", "c")
    )

    assert all(np.isfinite(values).all() for values in streams.values())
    assert {values.shape for values in streams.values()} == {(3, 4)}

    # One number by another path: torch's own Jacobian of the model at one anchor.
    ab = alphabar[1]
    x_t = ab**0.5 * x_0[2:3] + (1 - ab) ** 0.5 * noise[1, 2:3]
    J = torch.autograd.functional.jacobian(
        lambda x: model(x, times[1], class_labels=c[2:3]).sample, x_t
    ).reshape(256, 256)
    C = torch.eye(256) - (1 - ab) ** 0.5 * (J + J.T) / 2
    largest = torch.linalg.eigvalsh(C.double())[-20:].clamp(min=1e-4)
    np.testing.assert_allclose(streams["log_posterior_20"][1, 2], largest.log().mean(), rtol=1e-4)
