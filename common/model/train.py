"""Training a DDPM: one flat loop over epochs that can stop at any of them and continue."""

import time
from dataclasses import dataclass, fields

import torch

from common.data import batches
from common.machine import processes, storage
from common.machine.errors import UserError
from common.machine.progress import Progress


@dataclass(frozen=True)
class Training:
    """How long and how a network is trained: constants of the scripts, by their names there."""

    n_epoch: int
    batch_size: int
    lrate: float
    n_step: int = 0
    loss_weight: str = "plain"
    amp: bool = False

    @classmethod
    def of(cls, constants):
        """The training that a script's constants describe."""
        return cls(**{field.name: getattr(constants, field.name) for field in fields(cls)})

    def steps(self, n_images):
        """(all steps, steps of a full epoch) of a training on n_images."""
        per_epoch = -(-n_images // self.batch_size)
        return self.n_step or self.n_epoch * per_epoch, per_epoch


def train_ddpm(ddpm, data, training, *, seeds, state_path, losses_path, save_every, name):
    """Trains `ddpm` in place on `data` (both on one device); returns the mean loss of each epoch.

    Adam, for training.n_step steps or, where that is 0, n_epoch passes over the data; the last
    epoch ends where the steps do. The learning rate falls linearly, epoch by epoch, from lrate to
    lrate / (number of epochs). Every `save_every` seconds the epoch's end is saved in
    `state_path`, where a later call goes on: each epoch draws its own random numbers, so the
    result is the same. losses_path: a table of the losses, which grows on the way. Several
    processes, all of which call this, share each batch. UserError when a loss is not finite.
    """
    leads, device = processes.rank() == 0, data.images.device.type
    saved = processes.first(lambda: storage.load(state_path) if storage.verify(state_path) else {})
    epoch_losses = saved.get("losses", [])
    ddpm.to(memory_format=torch.channels_last).train()
    network = processes.replicated(ddpm)
    optimizer = torch.optim.Adam(ddpm.parameters(), lr=training.lrate, fused=True)
    if saved:
        ddpm.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        if leads:
            print(f"{name}: continuing after epoch {len(saved['losses'])}")

    n_step, per_epoch = training.steps(len(data.labels))
    n_epoch = -(-n_step // per_epoch)
    saved_at = time.monotonic()
    step = len(epoch_losses) * per_epoch
    progress = Progress(name, n_step, "step", done=step, shown=leads)
    progress.saved(f"{len(epoch_losses)} of {n_epoch} epochs")
    for epoch in range(len(epoch_losses), n_epoch):
        for group in optimizer.param_groups:
            group["lr"] = training.lrate * (1 - epoch / n_epoch)
        order = seeds.torch_generator("order", epoch)
        noise = seeds.torch_generator("noise", epoch, device)

        losses = []  # stays on the device: reading it after every step would stop the GPU
        for x_0, c in batches(data, training.batch_size, order):
            part, weight = processes.share(len(c))
            with torch.autocast(device, torch.bfloat16, enabled=training.amp):
                loss = weight * network(x_0, c, noise, part, training.loss_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            step += 1
            progress.to(step, lambda loss=losses[-1]: f"loss {loss.item():.4f}")
            if step == n_step:
                break

        losses = processes.averaged(torch.stack(losses))
        if not losses.isfinite().all():
            bad = int((~losses.isfinite()).nonzero()[0])
            raise UserError(
                f"{name}: the loss is {losses[bad]} in epoch {epoch + 1}, step {bad + 1}: "
                "nothing was saved from this epoch; try a smaller lrate"
            )
        epoch_losses.append(losses.mean().item())
        progress.line(f"epoch {epoch + 1} of {n_epoch}, loss {epoch_losses[-1]:.4f}")
        if leads:
            save_losses(epoch_losses, losses_path)
        if leads and epoch + 1 < n_epoch and time.monotonic() - saved_at >= save_every:
            state = {"model": ddpm.state_dict(), "optimizer": optimizer.state_dict()}
            storage.save({**state, "losses": epoch_losses}, state_path)
            saved_at = time.monotonic()
            progress.saved(f"{epoch + 1} of {n_epoch} epochs")
    progress.close()
    ddpm.to(memory_format=torch.contiguous_format).eval()
    return epoch_losses


def save_losses(losses, path):
    """The mean loss of each epoch as a table."""
    rows = [{"epoch": epoch + 1, "loss": loss} for epoch, loss in enumerate(losses)]
    storage.save_rows(rows, path)
