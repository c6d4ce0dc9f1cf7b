"""Compiled sampling: the same samples, and the plain network wherever it does not work."""

import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from small import sample, small_ddpm, stopped_and_continued

from common.model import compiled

HEADERS = Path(sysconfig.get_path("include"), "Python.h")
compiles = pytest.mark.skipif(
    shutil.which("g++") is None or not HEADERS.exists(), reason="needs a C++ compiler and Python.h"
)


@pytest.fixture
def from_the_first_pass(monkeypatch):
    monkeypatch.setattr(compiled, "ENOUGH_PASSES", 1)
    compiled._say_once.cache_clear()


def compile_with(monkeypatch, function):
    monkeypatch.setattr(torch, "compile", lambda network, **options: function(network))


def inputs(network, rows):
    x = torch.randn(rows, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    classes = torch.arange(rows) % 10
    return x, network.context(classes, torch.zeros(rows)), network.time(torch.tensor([0.4]))


@pytest.mark.slow
@compiles
@torch.inference_mode()
def test_every_generations_network_is_compiled_for_its_number_of_images(from_the_first_pass):
    for generation in range(10):  # more networks than torch.compile keeps
        network = small_ddpm().frozen().nn_model
        network.out[3].bias.fill_(generation)
        predicted = compiled.compiled_predicted(network, 25, n_passes=1)
        assert predicted != network.predicted
        with torch._dynamo.config.patch(error_on_recompile=True):
            for rows in (25, 10, 25):
                given = inputs(network, rows)
                torch.testing.assert_close(
                    predicted(*given), network.predicted(*given), atol=1e-5, rtol=1e-5
                )


@pytest.mark.slow
@compiles
@pytest.mark.parametrize("w", [0, 1])
def test_a_stopped_compiled_sampling_goes_on_with_the_same_images(tmp_path, monkeypatch, capsys, w):
    """Although what remains of it is too short a job to be compiled."""
    compiled._say_once.cache_clear()
    ddpm = small_ddpm()
    n_passes = 130 * (1 + w) // 25 * ddpm.n_T
    monkeypatch.setattr(compiled, "ENOUGH_PASSES", n_passes)
    whole = sample(ddpm, 130, tmp_path, w=w, max_c=30)
    assert "sampling without it" not in capsys.readouterr().out
    continued = stopped_and_continued(ddpm, tmp_path, monkeypatch, w)
    assert torch.equal(continued.images, whole.images)
    plain = sample(ddpm, 130, tmp_path, w=w, max_c=30, fast=False)
    assert (whole.images.int() - plain.images.int()).abs().max() <= 1


def test_short_jobs_are_not_compiled(monkeypatch):
    compile_with(monkeypatch, lambda network: pytest.fail("compiled"))
    network, enough = small_ddpm().nn_model, compiled.ENOUGH_PASSES
    assert compiled.compiled_predicted(network, 25, enough - 1) == network.predicted
    with pytest.raises(pytest.fail.Exception, match="compiled"):
        compiled.compiled_predicted(network, 25, enough)


@pytest.mark.parametrize(
    ("how", "n_passes"),
    [
        ({}, 24),  # 50 images, 25 at a time, 12 steps
        ({"w": 1}, 48),
        ({"sampler": "ddim", "sample_steps": 5}, 10),
        ({"sample_steps": 5}, 24),  # which the sampler "ddpm" ignores
    ],
)
def test_a_job_has_as_many_passes_as_it_will_make(tmp_path, monkeypatch, how, n_passes):
    seen = []

    def counted(network, rows, n_passes):
        seen.append(n_passes)
        return lambda *given: seen.append(rows) or network.predicted(*given)

    monkeypatch.setattr("common.model.sample.compiled_predicted", counted)
    sample(small_ddpm(), 50, tmp_path, **how)
    assert seen == [n_passes] + [25] * n_passes


@torch.inference_mode()
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda network: lambda *given: 1 / 0, "ZeroDivisionError"),
        (lambda network: lambda *given: network(*given) + 0.1, "ValueError"),
        (lambda network: lambda *given: network(*given) * float("nan"), "ValueError"),
    ],
)
def test_a_machine_that_cannot_compile_samples_without(
    from_the_first_pass, monkeypatch, capsys, wrong, reason
):
    compile_with(monkeypatch, wrong)
    network = small_ddpm().nn_model
    for _ in range(2):
        assert compiled.compiled_predicted(network, 25, n_passes=1) == network.predicted
    said = f"torch.compile does not work here ({reason}): sampling without it\n"
    assert capsys.readouterr().out == said
