"""Several processes, started by torchrun: the same samples and spectra, and the same training."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import (
    FULL,
    PATIENCE,
    ROOT,
    SPECTRA,
    TINY_INITIAL,
    TINY_MAIN,
    TINY_SPECTRA,
    command_line,
    copied,
    hashes,
    initialmain,
    main,
    spectra,
)

from common.machine import processes, storage
from common.run.folder import Run
from common.seeds import INITIAL
from common.spectrum import measure


def torchrun(n, script, *words, **constants):
    """A script run by n processes. On CUDA each needs a GPU of its own."""
    if 0 < torch.cuda.device_count() < n:
        pytest.skip(f"needs {n} GPUs, or none")
    start = ["torch.distributed.run", "--standalone", f"--nproc_per_node={n}"]
    command = [sys.executable, "-m", *start, *command_line(script, constants), *words]
    return subprocess.run(
        command, cwd=script.parent, capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.fixture(scope="module")
def finished(initial, tmp_path_factory):
    """A run of one process with one generation."""
    folder = copied(initial, tmp_path_factory.mktemp("alone") / "run")
    main(folder, generation_number=1)
    return folder


@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_processes_samples_the_same_images(finished, tmp_path, n):
    """From the same models: 70 images in batches of 30 do not divide among the processes."""
    folder = copied(finished, tmp_path / "run", leave_out=["gen_*0_w0", "metrics*", "*.html"])
    done = torchrun(n, FULL / "main.py", **{**TINY_MAIN, "generation_number": 1}, save_dir=folder)
    assert done.returncode == 0, done.stderr
    alone, shared = hashes(finished), hashes(folder)
    made = {name for name in alone if name.startswith("gen_") and name.endswith("0_w0")}
    assert len(made) == 6
    assert {name: shared[name] for name in alone} == alone
    assert (done.stdout + done.stderr).count(
        "generation 0: FID"
    ) == 1  # only the first process speaks


@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_processes_measures_the_same_spectra(finished, tmp_path, n):
    alone, shared = (copied(finished, tmp_path / name) for name in ("alone", "shared"))
    spectra(alone)
    done = torchrun(n, SPECTRA, **TINY_SPECTRA, run_dir=shared)
    assert done.returncode == 0, done.stderr
    files = [folder / "spectra_w0.npz" for folder in (alone, shared)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert measure.load(files[0])["generations"].tolist() == [-1, 0]


@pytest.mark.slow
def test_a_run_of_two_processes_goes_from_the_start_to_the_end(tmp_path):
    """Training too: to a loss near that of one process, whose BatchNorm sees whole batches."""
    folder, alone = tmp_path / "run", tmp_path / "alone"
    initialmain(alone)
    storage.save_bytes((alone / "prmodel.pth").read_bytes(), folder / "prmodel.pth")
    for script, constants in (
        (FULL / "initialmain.py", {**TINY_INITIAL, "save_dirs": folder}),
        (FULL / "main.py", {**TINY_MAIN, "save_dir": folder}),
    ):
        done = torchrun(2, script, **constants)
        assert done.returncode == 0, done.stderr
    losses = [
        [float(row["loss"]) for row in storage.load_rows(Run(each, 0).losses(INITIAL))]
        for each in (folder, alone)
    ]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(*losses, rtol=0.1)
    assert len(Run(folder, 0).metrics()) == 3 and (folder / "report.html").exists()


SWITCHES = f"""
import sys
from pathlib import Path

sys.path.insert(0, {str(ROOT)!r})
import torch

from common.machine import device, processes


@processes.shared
def switches():
    mine = processes.rank(), torch.are_deterministic_algorithms_enabled()
    return processes.gathered(mine)


@processes.led
def main(path):
    device.use(deterministic=True)
    path.write_text(repr(switches()))


main(Path(sys.argv[1]))
"""


def test_every_process_has_the_switches_of_the_first(tmp_path):
    script, found = tmp_path / "switches.py", tmp_path / "found"
    script.write_text(SWITCHES, encoding="utf-8")
    done = torchrun(2, script, str(found))
    assert done.returncode == 0, done.stderr
    assert found.read_text(encoding="utf-8") == "[(0, True), (1, True)]"


WITHOUT_BATCH_NORM = f"""
import sys
from pathlib import Path

sys.path.insert(0, {str(ROOT)!r})
import torch
from torch import nn

from common.machine import processes, storage
from common.data import load_real
from common.model.ddpm import DDPM
from common.seeds import Seeds
from common.model.train import Training, train_ddpm
from common.model.unet import ContextUnet, ResidualConvBlock


@processes.shared
def trained(folder):
    seeds = Seeds(5, "tests")
    ddpm = seeds.initialised(lambda: DDPM(ContextUnet(1, 8), (1e-4, 0.5), 8)).double()
    for block in ddpm.modules():
        if isinstance(block, ResidualConvBlock):
            block.conv1[1] = block.conv2[1] = nn.Identity()
    # The plain loss takes no float32 noise beside a float64 network, in some versions of torch.
    training = Training(2, 33, 1e-3, loss_weight="min_snr")
    losses = train_ddpm(
        ddpm, load_real("digits").subset(slice(67)), training, seeds=seeds,
        state_path=folder / "state", losses_path=folder / "losses", save_every=0, name="test",
    )
    return {{"model": ddpm.state_dict(), "losses": losses}}


@processes.led
def main(folder):
    storage.save(trained(folder), folder / "trained")


main(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_share_a_batch_without_changing_its_gradient(tmp_path, n):
    """Batches of 33, 33 and 1 images: parts of unequal size, and fewer images than processes."""
    script, ends = tmp_path / "train.py", []
    script.write_text(WITHOUT_BATCH_NORM, encoding="utf-8")
    for count in (1, n):
        folder = tmp_path / str(count)
        folder.mkdir()
        done = torchrun(count, script, str(folder))
        assert done.returncode == 0, done.stderr
        ends.append(storage.load(folder / "trained"))
    assert ends[0]["losses"] == pytest.approx(ends[1]["losses"], rel=1e-6)
    for key, value in ends[0]["model"].items():
        torch.testing.assert_close(value, ends[1]["model"][key], rtol=0, atol=1e-5)


def remove_the_feature_network(folder):
    (folder / "prmodel.pth").unlink()
    return "prmodel.pth is missing in"


def spoil_a_model(folder):
    """Which is noticed when all processes are to sample from it."""
    path = Run(folder, 0).model(0)
    state = storage.load(path)
    state["nn_model.out.3.bias"] *= np.nan
    storage.save(state, path)
    return f"{path} does not fit"


@pytest.mark.parametrize("fault", [remove_the_feature_network, spoil_a_model])
def test_an_error_in_one_line_ends_all_processes(finished, tmp_path, fault):
    folder = copied(finished, tmp_path / "run")
    said = fault(folder)
    done = torchrun(2, FULL / "main.py", **TINY_MAIN, save_dir=folder)
    assert done.returncode != 0
    assert done.stderr.count(f"error: {said}") == 1


def test_more_processes_than_gpus_are_refused_in_one_line(monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SystemExit) as stopped:
        processes.led(lambda: None)()
    assert stopped.value.code == (
        "error: more processes than this machine has GPUs: at most --nproc_per_node=2"
    )


def test_parts_cover_the_rows_and_weights_make_the_mean(monkeypatch):
    rows = np.arange(10.0) ** 2
    for count in (1, 2, 3, 4, 10):
        monkeypatch.setattr(processes, "count", lambda count=count: count)
        seen, means = [], []
        for rank in range(count):
            monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
            part, weight = processes.share(10)
            seen += range(10)[part]
            means.append(weight * rows[part].mean())
        assert seen == list(range(10))
        assert np.mean(means) == pytest.approx(rows.mean())
    assert processes.share(7) == (slice(0, 7), 1.0)  # fewer than 10 processes
