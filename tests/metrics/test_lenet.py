"""The feature network: its parameters, the function it computes, and how well it classifies."""

import pytest
import torch
from torch.nn import functional as F

from common.data import load_real
from common.metrics import lenet
from common.metrics.lenet import LeNet
from common.seeds import Seeds

SHAPES = {
    "features.0.weight": (6, 1, 5, 5),
    "features.0.bias": (6,),
    "features.1.weight": (6,),
    "features.1.bias": (6,),
    "features.1.running_mean": (6,),
    "features.1.running_var": (6,),
    "features.1.num_batches_tracked": (),
    "features.4.weight": (16, 6, 5, 5),
    "features.4.bias": (16,),
    "features.5.weight": (16,),
    "features.5.bias": (16,),
    "features.5.running_mean": (16,),
    "features.5.running_var": (16,),
    "features.5.num_batches_tracked": (),
    "fc.0.weight": (120, 256),
    "fc.0.bias": (120,),
    "fc.2.weight": (84, 120),
    "fc.2.bias": (84,),
    "fc3.weight": (10, 84),
    "fc3.bias": (10,),
}


def network():
    """A LeNet in eval mode whose BatchNorm does not merely pass its input on."""
    generator = torch.Generator().manual_seed(0)
    made = Seeds(0, "tests").initialised(LeNet)
    for key, value in made.state_dict().items():
        if key.split(".")[:2] in (["features", "1"], ["features", "5"]) and value.ndim:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return made.eval()


def some_images(n=50):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (n, 1, 28, 28), generator=generator, dtype=torch.uint8)


def test_parameters_are_those_of_existing_checkpoints():
    assert {key: tuple(value.shape) for key, value in LeNet().state_dict().items()} == SHAPES


def test_features_are_the_84_outputs_of_fc_after_its_last_relu():
    """The network written out in float64."""
    made = network()
    p = {key: value.double() for key, value in made.state_dict().items()}
    x = some_images().double() / 255
    for convolution, norm in (("features.0", "features.1"), ("features.4", "features.5")):
        x = F.conv2d(x, p[f"{convolution}.weight"], p[f"{convolution}.bias"])
        mean, variance = p[f"{norm}.running_mean"], p[f"{norm}.running_var"]
        x = F.batch_norm(x, mean, variance, p[f"{norm}.weight"], p[f"{norm}.bias"])
        x = F.max_pool2d(F.relu(x), 2)
    x = x.reshape(len(x), 16 * 4 * 4)
    x = F.relu(x @ p["fc.0.weight"].T + p["fc.0.bias"])
    x = F.relu(x @ p["fc.2.weight"].T + p["fc.2.bias"])

    found = lenet.extract_mnist_features(some_images(), made)
    assert found.shape == (50, 84) and found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found.double(), x, rtol=1e-4, atol=1e-6)
    assert (found >= 0).all() and 0.05 < (found == 0).double().mean() < 0.95

    scores = x @ p["fc3.weight"].T + p["fc3.bias"]
    with torch.inference_mode():
        found = made(some_images().float() / 255)
    torch.testing.assert_close(found.double(), scores, rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_the_batch():
    made = network()
    whole = lenet.extract_mnist_features(some_images(), made)
    for batch_size in (1, 7, 50):
        parts = lenet.extract_mnist_features(some_images(), made, batch_size)
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    alone = lenet.extract_mnist_features(some_images()[3:4], made)
    torch.testing.assert_close(alone, whole[3:4], rtol=1e-5, atol=1e-6)


def test_a_network_in_train_mode_is_refused():
    before = {key: value.clone() for key, value in network().state_dict().items()}
    made = network().train()
    with pytest.raises(ValueError, match="train mode"):
        lenet.extract_mnist_features(some_images(), made)
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())


def test_a_state_dict_gives_the_network_back_in_eval_mode():
    made = network()
    again = lenet.from_state_dict(made.state_dict())
    assert not again.training
    expected = lenet.extract_mnist_features(some_images(), made)
    assert torch.equal(lenet.extract_mnist_features(some_images(), again), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc3.bias": None}, r"key fc3.bias: expected \(10,\), found None"),
        ({"fc4.bias": torch.zeros(3)}, r"key fc4.bias: expected None, found \(3,\)"),
        ({"fc.2.weight": torch.zeros(83, 120)}, r"fc.2.weight: expected \(84, 120\), found \(83"),
    ],
)
def test_a_state_dict_of_something_else_is_refused_by_its_key(changes, message):
    state = {**LeNet().state_dict(), **changes}
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        lenet.from_state_dict(state)


def test_accuracy_is_the_fraction_of_right_answers():
    made, data = network(), load_real("digits", train=False)
    with torch.inference_mode():
        answers = made(data.images.float() / 255).argmax(1)
    expected = (answers == data.labels).double().mean()
    for batch_size in (10, 1000):
        assert lenet.accuracy(made, data, batch_size) == pytest.approx(float(expected), abs=1e-12)


def test_training_follows_its_seeds():
    data = load_real("digits").subset(slice(200))
    first, again, other = (
        lenet.train_lenet(data, Seeds(seed, "tests"), n_step=3).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["fc3.weight"], other["fc3.weight"])
    assert first["features.1.num_batches_tracked"] == 3


def test_held_out_digits_are_recognised():
    """After an eighth of the steps that a run takes."""
    trained = lenet.train_lenet(load_real("digits"), Seeds(0, "FullSynthetic"), n_step=300)
    assert not trained.training
    assert lenet.accuracy(trained, load_real("digits", train=False)) >= 0.97


@pytest.mark.slow
def test_mnists_test_set_is_recognised(mnist_root):
    trained = lenet.train_lenet(load_real("mnist"), Seeds(0, "FullSynthetic"))
    assert lenet.accuracy(trained, load_real("mnist", train=False)) >= 0.985
