"""The textbook side of the benchmarks computes what ours does, on small inputs; those that measure
runs take one."""

import re
import shutil
import sys

import numpy as np
import pytest
import torch
from tiny import ROOT, copied

from common.machine import storage
from common.metrics.fid import calculate_frechet_distance, feature_statistics
from common.metrics.prdc import compute_prdc_slice
from common.model.sample import balanced_labels, ddpm_chain, fast_eps

sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
import quality
import sampler_loops
import sampling
import speed
import streams
import textbook_speed as textbook


@pytest.mark.parametrize("w", [0, 1])
def test_sampling(w):
    ddpm, c = speed.model(8, 6), balanced_labels(30)
    with torch.inference_mode():
        ours = ddpm_chain(ddpm, fast_eps(ddpm.frozen(), c, w), speed.noise_of(30))
    torch.testing.assert_close(
        textbook.sample(ddpm, c, w, speed.noise_of(30)), ours, atol=1e-4, rtol=0
    )


def test_metrics():
    real, fake = speed.features(400, 0), speed.features(200, 1)
    assert textbook.prdc(real, fake, 5) == pytest.approx(compute_prdc_slice(real, fake))
    ours = calculate_frechet_distance(*feature_statistics(real), *feature_statistics(fake))
    assert textbook.fid(real, fake) == pytest.approx(ours, rel=1e-6)


def test_training_learns_as_fast():
    data = speed.images(256)
    rows = list(speed.batches(data, 128, torch.Generator().manual_seed(0)))
    plain, ours = (speed.model(8, 20) for _ in range(2))
    losses = textbook.train(plain, rows * 3, 1e-4), speed.trained(ours, data, n_epoch=3)
    assert np.mean(losses[0]) == pytest.approx(np.mean(losses[1]), rel=0.2)


def test_a_row_is_measured_and_checked(monkeypatch):
    """What two sides must agree on is asserted, in the benchmark too."""
    plain, ours = speed.measured("fid", 1)
    assert len(plain) == len(ours) == 1 and min(plain + ours) > 0
    wrong = speed.fid()._replace(ours=lambda: 0.0)
    monkeypatch.setattr(speed, "row_of", lambda name: wrong)
    with pytest.raises(AssertionError, match="textbook and ours disagree"):
        speed.measured("fid", 1)


def test_what_measures_a_run_takes_one(finished, tmp_path, monkeypatch, capsys):
    """A row of a table for each sampler, generation and stream."""
    folder = copied(finished, tmp_path / "run")
    for module in (sampling, streams):
        monkeypatch.setattr(module, "N", 20)
    for name, value in {"N_LOSS": 20, "N_ANCHORS": 1, "N_TANGENT": 1, "REPEATS": 1}.items():
        monkeypatch.setattr(streams, name, value)
    sampling.main(folder, [2, 4])
    assert len(re.findall(r"^\| dd.* \| [\d.]+ \|", capsys.readouterr().out, re.M)) == 13
    assert (folder / "fid_over_passes.png").exists()
    sampler_loops.main(folder, 2, 1.0, 1)
    assert re.search(r"^\| 0 \| [\d.]+ \|", capsys.readouterr().out, re.M)
    streams.main(folder, tmp_path / "costs.csv")
    assert len(storage.load_rows(tmp_path / "costs.csv")) == 7
    said = capsys.readouterr().out
    assert re.search(r"^\| FID \| 20 samples \| [\d.]+ \|", said, re.M)
    assert re.search(r"^\| spectrum of J and of C, one t \| 1 held out \| [\d.]+", said, re.M)


def test_quality_has_a_row_for_each_size_and_the_published_constants(
    finished, tmp_path, monkeypatch, capsys
):
    """With a finished run in place of each that it would train."""

    def copied_run(folder, words):
        shutil.copytree(finished, folder, dirs_exist_ok=True)

    monkeypatch.setattr(quality, "initialmain", copied_run)
    monkeypatch.setattr(quality, "N", 100)
    quality.main(tmp_path / "figure.png", ["0"])
    said = capsys.readouterr().out
    assert len(re.findall(r"^\| laptop, n_feat \d+, \d+ steps \| 0 \|", said, re.M)) == 12
    assert len(re.findall(r"^\| published, ", said, re.M)) == 2
    assert re.search(r"320 epochs, textbook code: \d+ s", said)
    assert (tmp_path / "figure.png").exists()
