"""Training a DDPM: one flat loop over epochs that can stop at any of them and continue."""

import time

import torch
from tqdm import tqdm

from common import storage
from common.data import batches
from common.errors import UserError


def train_ddpm(
    ddpm, data, *, n_epoch, batch_size, lrate, seeds, state_path, save_every, name, amp=False
):
    """Trains `ddpm` in place on `data` (both on one device); returns the mean loss of each epoch.

    Adam; the learning rate falls linearly from lrate to lrate / n_epoch. Every `save_every`
    seconds the epoch's end is saved in `state_path`, where a later call goes on: each epoch draws
    its own random numbers, so the result is the same. amp: in bfloat16
    where that suffices. UserError when a loss is not finite.
    """
    device = data.images.device
    ddpm.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(ddpm.parameters(), lr=lrate, fused=True)
    epoch_losses = []
    if storage.intact(state_path):
        state = storage.load(state_path)
        ddpm.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        epoch_losses = state["losses"]
        print(f"{name}: continuing after epoch {len(epoch_losses)} of {n_epoch}")

    ddpm.train()
    saved_at = time.monotonic()
    bar = tqdm(
        initial=len(epoch_losses), total=n_epoch, desc=name, unit="epoch", disable=None, leave=False
    )
    for epoch in range(len(epoch_losses), n_epoch):
        for group in optimizer.param_groups:
            group["lr"] = lrate * (1 - epoch / n_epoch)
        order = seeds.torch_generator("order", epoch)
        noise = seeds.torch_generator("noise", epoch, device)

        losses = []  # stays on the device: reading it after every step would stop the GPU
        for x_0, c in batches(data, batch_size, order):
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                loss = ddpm(x_0, c, noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())

        losses = torch.stack(losses)
        if not losses.isfinite().all():
            step = int((~losses.isfinite()).nonzero()[0])
            raise UserError(
                f"{name}: the loss is {losses[step]} in epoch {epoch + 1}, step {step + 1}: "
                "nothing was saved from this epoch; try a smaller lrate"
            )
        epoch_losses.append(losses.mean().item())
        bar.set_postfix(loss=f"{epoch_losses[-1]:.4f}")
        bar.update()
        if epoch + 1 < n_epoch and time.monotonic() - saved_at >= save_every:
            state = {"model": ddpm.state_dict(), "optimizer": optimizer.state_dict()}
            storage.save({**state, "losses": epoch_losses}, state_path)
            saved_at = time.monotonic()
    bar.close()
    ddpm.to(memory_format=torch.contiguous_format).eval()
    return epoch_losses
