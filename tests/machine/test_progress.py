"""Signs of life where there is no terminal, and the forecast of the work ahead."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import FULL, TINY_INITIAL, TINY_MAIN, constants_of

from common.data import LabelledImages
from common.loop import forecast, loop
from common.machine import progress
from common.metrics import lenet
from common.seeds import Seeds


def test_the_feature_network_gives_signs_of_life(capsys, monkeypatch):
    clock = iter(range(0, 10_000, 2))  # two seconds from look to look
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    data = LabelledImages(torch.zeros(16, 1, 28, 28, dtype=torch.uint8), torch.arange(16) % 10)
    lenet.train_lenet(data, Seeds(0, "test"), n_step=20, batch_size=8)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"feature network: {percent} %" for percent in range(10, 101, 10)
    ]


@pytest.mark.parametrize(
    ("script", "constants", "n_generations", "n_more", "words", "seconds"),
    [
        ("initialmain.py", TINY_INITIAL, 1, 0, "", 3 * 94 + 70 * 8),
        ("initialmain.py", {**TINY_INITIAL, "Wall": [0, 1.5]}, 1, 0, "", 3 * 94 + 3 * 70 * 8),
        ("main.py", TINY_MAIN, 3, 0, "3 generations, each ", 3 * (3 * 94 + 115 * 8)),
        ("main.py", {**TINY_MAIN, "w": 1}, 1, 0, "", 3 * 94 + (2 * 70 + 45) * 8),
        ("main.py", TINY_MAIN, 3, 45, "3 generations, each ", 3 * (3 * 94 + 115 * 8) + 45 * 8),
        ("main.py", {**TINY_MAIN, "control": True}, 1, 0, "", 3 * 94 + 45 * 8),
    ],
)
def test_the_forecast_counts_what_lies_ahead(
    capsys, monkeypatch, script, constants, n_generations, n_more, words, seconds
):
    """Where a training step takes 3 s and the pass of an image 1 s."""
    monkeypatch.setattr(forecast, "_step", lambda *_: 3)
    monkeypatch.setattr(forecast, "_pass", lambda *_: 1)
    monkeypatch.setattr(forecast, "duration", str)
    given = constants_of(FULL / script, **{**constants, "n_step": 94})
    forecast.announce_work("it", given, [1500] * n_generations, n_more)
    counted, estimate = capsys.readouterr().out.splitlines()
    assert counted.startswith(f"it: {words}94 training steps of 32 on 1,500 images and ")
    assert estimate == f"it: about {seconds} of training and sampling"


def test_the_forecast_of_a_training_set_that_grows(capsys, monkeypatch):
    monkeypatch.setattr(forecast, "_step", lambda *_: 3)
    monkeypatch.setattr(forecast, "_pass", lambda *_: 0)
    monkeypatch.setattr(forecast, "duration", str)
    given = {**TINY_MAIN, "n_epoch": 2, "batch_size": 10, "accumulate": True, "N_with_w": 50}
    given = SimpleNamespace(**vars(constants_of(FULL / "main.py")) | given)
    data = LabelledImages(torch.zeros(80, 1, 28, 28, dtype=torch.uint8), torch.arange(80) % 10)
    run = SimpleNamespace(model=lambda g: Path("none"), evaluation=lambda g: [Path("none")])
    state = SimpleNamespace(title="it", constants=given, run=run, data=lambda g: data)
    loop._announce(state, 3)
    said = capsys.readouterr().out
    assert "3 generations, each 16 to 36 training steps of 10 on 80 to 180 images" in said
    assert f"about {3 * (16 + 26 + 36)} of training" in said


def test_a_trial_is_scaled_to_the_batch_and_to_an_image(monkeypatch):
    """Each of the calls that are timed takes a second; on a CPU they are of 32 images."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(forecast, "_seconds", lambda work, repeats=3: (work(), 1.0)[1])
    given = constants_of(FULL / "main.py", **{**TINY_MAIN, "batch_size": 64, "max_c": 20})
    ddpm = forecast._untrained(given)
    assert forecast._step(ddpm, given) == 64 / 32 and forecast._pass(ddpm, given) == 1 / 20
    seconds = forecast.generation_seconds(given, 640)
    assert seconds == given.n_epoch * 10 * 2 + (70 + 45) * given.n_T / 20
