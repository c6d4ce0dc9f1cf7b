"""Training a DDPM: one flat loop over epochs that can stop at any of them and continue."""

import time

import torch
from tqdm import tqdm

from common import processes, storage
from common.data import batches
from common.errors import UserError


def train_ddpm(
    ddpm, data, *, n_epoch, batch_size, lrate, seeds, state_path, save_every, name, amp=False
):
    """Trains `ddpm` in place on `data` (both on one device); returns the mean loss of each epoch.

    Adam; the learning rate falls linearly from lrate to lrate / n_epoch. Every `save_every`
    seconds the epoch's end is saved in `state_path`, where a later call goes on: each epoch draws
    its own random numbers, so the result is the same. amp: the network computes in bfloat16 where
    autocast does. Several processes share each batch. UserError when a loss is not finite.
    """
    device = data.images.device.type
    saved = storage.load(state_path) if storage.intact(state_path) else None
    if saved:
        print(f"{name}: continuing after epoch {len(saved['losses'])} of {n_epoch}")
    state, losses = processes.together(
        _trained,
        ddpm.cpu(),
        data.to("cpu"),
        saved,
        device=device,
        n_epoch=n_epoch,
        batch_size=batch_size,
        lrate=lrate,
        seeds=seeds,
        state_path=state_path,
        save_every=save_every,
        name=name,
        amp=amp,
    )
    ddpm.to(device).load_state_dict(state)
    ddpm.eval()
    return losses


def _trained(
    ddpm,
    data,
    saved,
    *,
    device,
    n_epoch,
    batch_size,
    lrate,
    seeds,
    state_path,
    save_every,
    name,
    amp,
):
    """The state dict of the trained `ddpm` and the mean loss of each epoch, in each process."""
    data = data.to(device)
    ddpm.to(device, memory_format=torch.channels_last).train()
    network = processes.replicated(ddpm)
    optimizer = torch.optim.Adam(ddpm.parameters(), lr=lrate, fused=True)
    epoch_losses = []
    if saved:
        ddpm.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        epoch_losses = saved["losses"]

    first = processes.rank() == 0
    saved_at = time.monotonic()
    bar = tqdm(
        initial=len(epoch_losses),
        total=n_epoch,
        desc=name,
        unit="epoch",
        disable=None if first else True,
        leave=False,
    )
    for epoch in range(len(epoch_losses), n_epoch):
        for group in optimizer.param_groups:
            group["lr"] = lrate * (1 - epoch / n_epoch)
        order = seeds.torch_generator("order", epoch)
        noise = seeds.torch_generator("noise", epoch, device)

        losses = []  # stays on the device: reading it after every step would stop the GPU
        for x_0, c in batches(data, batch_size, order):
            part, weight = processes.share(len(c))
            with torch.autocast(device, torch.bfloat16, enabled=amp):
                loss = weight * network(x_0, c, noise, part)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())

        losses = processes.averaged(torch.stack(losses))
        if not losses.isfinite().all():
            step = int((~losses.isfinite()).nonzero()[0])
            raise UserError(
                f"{name}: the loss is {losses[step]} in epoch {epoch + 1}, step {step + 1}: "
                "nothing was saved from this epoch; try a smaller lrate"
            )
        epoch_losses.append(losses.mean().item())
        bar.set_postfix(loss=f"{epoch_losses[-1]:.4f}")
        bar.update()
        if first and epoch + 1 < n_epoch and time.monotonic() - saved_at >= save_every:
            state = {"model": ddpm.state_dict(), "optimizer": optimizer.state_dict()}
            storage.save({**state, "losses": epoch_losses}, state_path)
            saved_at = time.monotonic()
    bar.close()
    ddpm.to(memory_format=torch.contiguous_format)
    return ddpm.state_dict(), epoch_losses
