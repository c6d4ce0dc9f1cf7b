"""A network that nobody trained, and samples of it."""

import pytest
import torch

from common.model import sample as sampling
from common.model.ddpm import DDPM
from common.model.sample import Sampling, generate_samples
from common.model.unet import ContextUnet
from common.seeds import Seeds


def small_ddpm(n_T=12, n_feat=8):
    ddpm = Seeds(3, "tests").initialised(lambda: DDPM(ContextUnet(1, n_feat), (1e-4, 0.5), n_T))
    for module in ddpm.modules():  # as after training: statistics that are not the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(1))
            module.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    return ddpm.eval()


def sample(ddpm, n, tmp_path, w=0, max_c=100, save_every=1e9, seeds=None, **how):
    return generate_samples(
        ddpm,
        n,
        w,
        Sampling(max_c, **how),
        seeds=seeds or Seeds(0, "tests", w, 4),
        stage="samples",
        partial_path=tmp_path / "part",
        save_every=save_every,
        name="test",
    )


def stopped_and_continued(ddpm, tmp_path, monkeypatch, w=0, **how):
    """130 samples whose making was stopped in the third batch of 30, where it then went on."""
    batches, name = [], f"{how.get('sampler', 'ddpm')}_chain"
    chain = getattr(sampling, name)

    def stops_in_the_third_batch(*arguments, **options):
        batches.append(1)
        if len(batches) == 3:
            raise KeyboardInterrupt
        return chain(*arguments, **options)

    monkeypatch.setattr(sampling, name, stops_in_the_third_batch)
    with pytest.raises(KeyboardInterrupt):
        sample(ddpm, 130, tmp_path, w=w, max_c=30, save_every=0, **how)
    continued = sample(ddpm, 130, tmp_path, w=w, max_c=30, **how)
    assert len(batches) == 3 + 3  # 60 of 130 images were safe; 3 batches of 30 remain
    return continued
