"""ContextUnet: its parameters, the function it computes, and its copy for inference."""

import copy
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from common.model.ddpm import DDPM, from_state_dict
from common.model.unet import ContextUnet, ResidualConvBlock, frozen
from common.seeds import Seeds

N_FEAT = 16


def shapes(state):
    return {key: tuple(value.shape) for key, value in state.items()}


def lively(network):
    """The network in float64, with normalisations that do not merely pass their input on, and
    weights that keep signals alive through all layers."""
    generator = torch.Generator().manual_seed(0)
    network = network.double()
    for key, value in network.state_dict().items():
        if value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator, dtype=torch.float64))
            value.add_(0.5 if key.endswith(("weight", "running_var")) else -0.5)
        elif value.ndim > 1:
            value.mul_(2.5)
    return network.eval()


def unet():
    return lively(Seeds(0, "tests").initialised(lambda: ContextUnet(1, N_FEAT)))


def inputs(n=12):
    """Images, classes, times and a mask that hides every third class."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 1, 28, 28, generator=generator, dtype=torch.float64)
    t = torch.rand(n, generator=generator, dtype=torch.float64)
    return x, torch.arange(n) % 10, t, (torch.arange(n) % 3 == 0).double()


# Parameters


def test_state_dict_is_that_of_existing_checkpoints():
    """Every key and shape for n_feat = 128, as listed in state_dict_keys.txt."""
    listed = {}
    path = Path(__file__).with_name("state_dict_keys.txt")
    for line in path.read_text(encoding="utf-8").splitlines():
        key, *shape = line.split()
        listed[key] = tuple(map(int, shape))
    ddpm = DDPM(ContextUnet(1, 128))
    assert len(listed) == 135
    assert shapes(ddpm.state_dict()) == listed
    assert list(ddpm.state_dict()) == list(listed)
    assert sum(parameter.numel() for parameter in ddpm.parameters()) == 6_585_601


def test_sizes_are_read_from_a_state_dict():
    state = DDPM(ContextUnet(1, 16, 7), (1e-3, 0.3), 20).state_dict()
    ddpm = from_state_dict(state)
    assert (ddpm.n_T, ddpm.nn_model.n_feat, ddpm.nn_model.n_classes) == (20, 16, 7)
    assert not ddpm.training
    assert all(torch.equal(value, state[key]) for key, value in ddpm.state_dict().items())


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("nn_model.out.3.bias", None, r"key nn_model.out.3.bias: expected \(1,\), found None"),
        ("nn_model.extra", (3,), r"key nn_model.extra: expected None, found \(3,\)"),
        ("nn_model.up0.1.bias", (17,), r"key nn_model.up0.1.bias: expected \(16,\), found \(17,\)"),
        ("sqrtab", (21,), r"key sqrtab: expected \(9,\), found \(21,\)"),
        ("alpha_t", None, "key alpha_t is missing: not the state dict of a DDPM"),
        ("nn_model.init_conv.conv1.0.weight", None, "key nn_model.init_conv.conv1.0.weight is mis"),
    ],
)
def test_a_state_dict_of_something_else_is_refused_by_its_key(key, shape, message):
    state = DDPM(ContextUnet(1, 8), n_T=8).state_dict()
    state.pop(key, None)
    if shape:
        state[key] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        from_state_dict(state)


# The function


def block(p, name, x):
    """Twice convolution, BatchNorm with running statistics, GELU."""
    outputs = []
    for part in (f"{name}.conv1", f"{name}.conv2"):
        x = F.conv2d(x, p[f"{part}.0.weight"], p[f"{part}.0.bias"], padding=1)
        mean, variance = p[f"{part}.1.running_mean"], p[f"{part}.1.running_var"]
        x = F.batch_norm(x, mean, variance, p[f"{part}.1.weight"], p[f"{part}.1.bias"], eps=1e-5)
        x = F.gelu(x)
        outputs.append(x)
    return outputs


def embedding(p, name, x):
    x = F.gelu(F.linear(x, p[f"{name}.model.0.weight"], p[f"{name}.model.0.bias"]))
    return F.linear(x, p[f"{name}.model.2.weight"], p[f"{name}.model.2.bias"])[:, :, None, None]


def up(p, name, x, skip):
    x = torch.cat([x, skip], 1)
    x = F.conv_transpose2d(x, p[f"{name}.model.0.weight"], p[f"{name}.model.0.bias"], stride=2)
    x = block(p, f"{name}.model.1", x)[1]
    return block(p, f"{name}.model.2", x)[1]


def written_out(p, x, c, t, context_mask):
    """The network of existing checkpoints, from its state dict p."""
    first, second = block(p, "init_conv", x)
    x = (first + second) / 1.414
    down1 = F.max_pool2d(block(p, "down1.model.0", x)[1], 2)
    down2 = F.max_pool2d(block(p, "down2.model.0", down1)[1], 2)
    hidden = F.gelu(F.avg_pool2d(down2, 7))

    context = torch.zeros(len(c), 10, dtype=x.dtype)
    for i in range(len(c)):
        if context_mask[i] == 0:
            context[i, c[i]] = -1

    up1 = F.conv_transpose2d(hidden, p["up0.0.weight"], p["up0.0.bias"], stride=7)
    up1 = F.relu(F.group_norm(up1, 8, p["up0.1.weight"], p["up0.1.bias"]))
    cemb1, temb1 = embedding(p, "contextembed1", context), embedding(p, "timeembed1", t[:, None])
    up2 = up(p, "up1", cemb1 * up1 + temb1, down2)
    cemb2, temb2 = embedding(p, "contextembed2", context), embedding(p, "timeembed2", t[:, None])
    up3 = up(p, "up2", cemb2 * up2 + temb2, down1)
    out = F.conv2d(torch.cat([up3, x], 1), p["out.0.weight"], p["out.0.bias"], padding=1)
    out = F.relu(F.group_norm(out, 8, p["out.1.weight"], p["out.1.bias"]))
    return F.conv2d(out, p["out.3.weight"], p["out.3.bias"], padding=1)


@torch.inference_mode()
def test_computes_the_function_of_existing_checkpoints():
    network, (x, c, t, mask) = unet(), inputs()
    expected = written_out(network.state_dict(), x, c, t, mask)
    assert 0.01 < expected.std() < 100
    torch.testing.assert_close(network(x, c, t, mask), expected, rtol=0, atol=1e-12)
    as_sampled = network(x, c, t[:, None, None, None], mask)  # the shape that public code passes
    torch.testing.assert_close(as_sampled, expected, rtol=0, atol=1e-12)


@torch.inference_mode()
def test_class_and_time_count_and_a_hidden_class_does_not():
    network, (x, c, t, _) = unet(), inputs()
    hidden, shown = torch.ones(len(c)).double(), torch.zeros(len(c)).double()
    assert torch.equal(network(x, c, t, hidden), network(x, (c + 1) % 10, t, hidden))
    scale = network(x, c, t, shown).std()
    assert (network(x, c, t, shown) - network(x, (c + 1) % 10, t, shown)).std() > 0.01 * scale
    assert (network(x, c, t, shown) - network(x, c, t, hidden)).std() > 0.01 * scale
    assert (network(x, c, t, shown) - network(x, c, t / 2, shown)).std() > 0.01 * scale


@torch.inference_mode()
def test_a_residual_sum_of_equal_channels_adds_the_input():
    """ContextUnet has no such block, but the public class does so."""
    made = lively(Seeds(0, "tests").initialised(lambda: ResidualConvBlock(3, 3, is_res=True)))
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    second = block({f"b.{key}": value for key, value in made.state_dict().items()}, "b", x)[1]
    torch.testing.assert_close(made(x), (x + second) / 1.414, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(28, 28), (4, 28, 28), (4, 1, 32, 32), (4, 3, 28, 28)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="x has shape"):
        unet()(torch.zeros(shape), torch.zeros(4).long(), torch.ones(4), torch.zeros(4))


# Inference


@torch.inference_mode()
def test_frozen_computes_the_same_function_and_leaves_the_network_alone():
    network, (x, c, t, mask) = unet(), inputs()
    before = copy.deepcopy(network.state_dict())
    expected = network(x, c, t, mask)
    fast = frozen(network.train())
    torch.testing.assert_close(fast(x, c, t, mask), expected, rtol=0, atol=1e-12)
    assert not any(module.training for module in fast.modules())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_frozen_lets_gradients_reach_the_image():
    network, (x, c, t, mask) = unet(), inputs(3)
    gradients = []
    for each in (network, frozen(network)):
        leaf = x.clone().requires_grad_()
        each(leaf, c, t, mask).square().sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
