"""Training: what is learnt, and that stopping and evaluating do not change it."""

import pytest
import torch

from common.data import LabelledImages, load_real
from common.machine import storage
from common.machine.errors import UserError
from common.model import train
from common.model.ddpm import DDPM
from common.model.train import Training, train_ddpm
from common.model.unet import ContextUnet
from common.seeds import Seeds

SEEDS = Seeds(5, "tests")


def data(n=96):
    return load_real("digits").subset(slice(n))


def trained(tmp_path, n_epoch=3, images=None, save_every=0, **changes):
    ddpm = SEEDS.initialised(lambda: DDPM(ContextUnet(1, 8), (1e-4, 0.5), 8))
    options = {"n_epoch": n_epoch, "batch_size": 32, "lrate": 1e-3, **changes}
    losses = train_ddpm(
        ddpm,
        images or data(),
        Training(**options),
        seeds=SEEDS,
        state_path=tmp_path / "state",
        losses_path=tmp_path / "losses.csv",
        save_every=save_every,
        name="test",
    )
    return ddpm, losses


def same(a, b):
    return all(torch.equal(x, b.state_dict()[key]) for key, x in a.state_dict().items())


def test_a_stopped_training_continues_bit_for_bit(tmp_path, monkeypatch):
    whole, losses = trained(tmp_path / "whole", n_epoch=4)
    batches = train.batches
    epochs = []

    def stops_in_the_third_epoch(*arguments):
        epochs.append(1)
        for i, batch in enumerate(batches(*arguments)):
            if len(epochs) == 3 and i == 1:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(train, "batches", stops_in_the_third_epoch)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", n_epoch=4)
    torch.rand(7)  # whatever the global state does, it has no part in this
    continued, continued_losses = trained(tmp_path / "stopped", n_epoch=4)
    assert len(epochs) == 3 + 2  # the first two epochs were not repeated
    assert same(continued, whole) and continued_losses == losses


def test_training_is_plain_adam_with_a_linearly_falling_rate(tmp_path):
    """The same epochs written out with PyTorch's defaults give the same weights."""
    ddpm, losses = trained(tmp_path)
    plain = SEEDS.initialised(lambda: DDPM(ContextUnet(1, 8), (1e-4, 0.5), 8)).train()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3, fused=False, foreach=False)
    images, labels = data()
    plain_losses = []
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - epoch / 3)
        noise = SEEDS.torch_generator("noise", epoch)
        order = torch.randperm(96, generator=SEEDS.torch_generator("order", epoch))
        for start in range(0, 96, 32):
            index = order[start : start + 32]
            loss = plain(images[index] / 255, labels[index], noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            plain_losses.append(loss.item())
    expected = torch.tensor(plain_losses).reshape(3, 3).mean(1)
    torch.testing.assert_close(torch.tensor(losses), expected, rtol=1e-4, atol=0)
    # Weights cannot be compared one by one: a bias before BatchNorm has no gradient but rounding,
    # which Adam scales up. The functions can.
    x, t = (
        torch.randn(10, 1, 28, 28, generator=torch.Generator().manual_seed(0)),
        torch.full((10,), 4),
    )
    with torch.no_grad():
        ours, theirs = (model.eval().eps(x, t, labels[:10]) for model in (ddpm, plain))
    assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_the_loss_falls_and_the_model_is_left_in_eval_mode(tmp_path):
    ddpm, losses = trained(tmp_path, n_epoch=15, save_every=1e9)
    assert losses[-1] < 0.5 * losses[0]
    assert not ddpm.training
    assert ddpm.nn_model.down1.model[0].conv1[0].weight.is_contiguous()


def test_a_loss_that_is_not_finite_stops_training_before_anything_is_saved(tmp_path):
    images = data(64)
    broken = LabelledImages(images.images, images.labels)
    with pytest.raises(UserError, match=r"loss is (nan|inf) in epoch \d+, step \d+"):
        trained(tmp_path, n_epoch=2, images=broken, lrate=1e30)
    state = tmp_path / "state"
    if state.exists():  # an epoch that was still finite
        saved = torch.load(state, weights_only=True)
        assert all(v.isfinite().all() for v in saved["model"].values())


def test_amp_trains_in_bfloat16_to_about_the_same_loss_and_is_off_by_default(tmp_path, monkeypatch):
    dtypes, forward = [], ContextUnet.forward

    def noted(*arguments):
        predicted = forward(*arguments)
        dtypes.append(predicted.dtype)
        return predicted

    monkeypatch.setattr(ContextUnet, "forward", noted)
    _, losses = trained(tmp_path / "off")
    assert set(dtypes) == {torch.float32}
    dtypes.clear()
    ddpm, rounded = trained(tmp_path / "on", amp=True)
    assert set(dtypes) == {torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in ddpm.parameters())
    assert rounded != losses
    torch.testing.assert_close(rounded, losses, rtol=0.02, atol=0)  # bfloat16: 8 bits, 0.4 %


def test_a_number_of_steps_ends_training_within_an_epoch(tmp_path):
    """7 steps of 3 an epoch: two whole epochs and a third of one, whose losses are tabled."""
    ddpm, losses = trained(tmp_path / "steps", n_step=7)
    rows = storage.load_rows(tmp_path / "steps" / "losses.csv")
    assert [float(row["loss"]) for row in rows] == losses and len(losses) == 3
    whole, more = trained(tmp_path / "epochs")
    assert more[:2] == losses[:2] and more[2] != losses[2] and not same(ddpm, whole)
    again, same_losses = trained(tmp_path / "again", n_step=9)
    assert same(again, whole) and same_losses == more  # nine steps are three epochs


def test_a_training_of_steps_continues_bit_for_bit(tmp_path, monkeypatch):
    whole, losses = trained(tmp_path / "whole", n_step=7, loss_weight="min_snr")
    saved, save = [], storage.save

    def stops_when_the_second_epoch_is_saved(value, path):
        save(value, path)
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(storage, "save", stops_when_the_second_epoch_is_saved)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", n_step=7, loss_weight="min_snr")
    continued, ours = trained(tmp_path / "stopped", n_step=7, loss_weight="min_snr")
    assert same(continued, whole) and ours == losses
    plain, _ = trained(tmp_path / "plain", n_step=7)
    assert not same(plain, whole)
