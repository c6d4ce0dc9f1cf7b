"""Faults put in on purpose: damaged files, full disks, odd folders. For kills see test_kills."""

import errno
import functools
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import (
    DAMAGES,
    FULL,
    TINY_INITIAL,
    TINY_MAIN,
    command_line,
    constants_of,
    copied,
    hashes,
    initialmain,
    main,
    run_script,
    spectra,
)

from common.data import fingerprint, load_real
from common.loop import stages
from common.machine import disk, storage
from common.machine.errors import UserError
from common.metrics import evaluation
from common.model import train
from common.run.folder import Run, load_ddpm
from common.spectrum.jacobian import eigenvalues, jacobian

# Stopped


def test_ctrl_c_says_what_is_safe_and_how_to_go_on(tmp_path, monkeypatch, capsys):
    """In the second batch of the second epoch, when the first epoch is saved."""
    whole, drawn = train.batches, []

    def interrupted(*arguments):
        for batch in whole(*arguments):
            drawn.append(batch)
            if len(drawn) == 12:  # an epoch has 10
                signal.raise_signal(signal.SIGINT)
            yield batch

    monkeypatch.setattr(train, "batches", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    try:
        with pytest.raises(SystemExit) as stopped:
            initialmain(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.code == 130
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said == (
        "stopped: finished stages and 1 of 2 epochs of “initial model: training on "
        "320 images” are safe; run the same command again to continue"
    )


# Damaged


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder whose feature network is, as long as tests use it, what initialmain.py trains."""
    folder = tmp_path_factory.mktemp("finished")
    constants = constants_of(FULL / "initialmain.py", **TINY_INITIAL)
    with pytest.MonkeyPatch.context() as patched:
        short = functools.partial(stages.train_lenet, n_step=200)
        patched.setattr(stages, "train_lenet", short)
        real = load_real("digits")
        stages.train_feature_network(Run(folder, 0), constants, real, fingerprint(real))
        initialmain(folder)
        main(folder, generation_number=1)
        spectra(folder)
        yield folder


def again(folder):
    """The run's three commands; those that stop for a damaged record are given once more."""
    for command in (initialmain, lambda f: main(f, generation_number=1), spectra):
        try:
            command(folder)
        except SystemExit as stopped:
            assert "make sure that the constants are still the same" in str(stopped.code)
            command(folder)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [*list(DAMAGES)[:3], "replaced"])
def test_every_damaged_file_is_noticed_kept_aside_and_made_again(
    finished, tmp_path, capsys, damage
):
    reference = hashes(finished)
    names = sorted(path.name for path in finished.iterdir() if path.is_file())
    names = [name for name in names if not name.endswith((".lock", ".html"))]  # pages: always anew
    names = [name for name in names if not name.endswith(".pdf") or name == "fid_w0.pdf"]  # alike
    assert len(names) >= 28 and {"run_w0.json", "timings_w0.csv", "prmodel.pth"} <= set(names)
    for position, name in enumerate(names):
        folder = copied(finished, tmp_path / f"run{position}")
        whole = (folder / name).read_bytes()
        damaged = DAMAGES[damage](whole)
        if damage == "replaced":  # by a whole file of another kind or generation
            others = ((finished / other).read_bytes() for other in names[position + 1 :] + names)
            damaged = next(other for other in others if other != whole)
        (folder / name).write_bytes(damaged)
        before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        capsys.readouterr()
        again(folder)
        assert f"note: {name} is damaged or was replaced; kept as {name}.damaged" in (
            capsys.readouterr().out
        )
        assert (folder / f"{name}.damaged").read_bytes() == damaged

        found = hashes(folder)
        assert found.pop(f"{name}.damaged", True)
        lost = {name} if name.startswith("losses") else set()  # its model is not trained again
        figure = {"loss_w0.png", "loss_w0.pdf"} if name.startswith("losses") else set()
        assert found.keys() == reference.keys() - lost
        changed = {key for key in found if found[key] != reference[key]}
        assert changed <= figure, name
        costly = [path for path in before if path.name.startswith(("model", "gen_data", "prm"))]
        redone = {path.name for path in costly if path.stat().st_mtime_ns != before[path]}
        pair = {name, name.replace("gen_index", "gen_data")}
        assert redone <= pair, (name, redone)  # only what is needed


def test_main_does_not_use_a_damaged_input(finished, tmp_path):
    folder = copied(finished, tmp_path / "run")
    (folder / "model_initial.pth").write_bytes((folder / "model_0_w0.pth").read_bytes())
    with pytest.raises(SystemExit, match=r"model_initial.pth is damaged .* run initialmain"):
        main(folder, generation_number=1)
    with pytest.raises(SystemExit, match=r"model_initial.pth is damaged"):
        (folder / "spectra_w0.npz").unlink()
        spectra(folder)


def test_a_damaged_hash_costs_the_file_but_is_never_believed(finished, tmp_path, capsys):
    folder = copied(finished, tmp_path / "run")
    (folder / "hashes" / "grid_0_w0.png.sha256").write_bytes(b"\xff\x00")
    again(folder)
    assert "note: grid_0_w0.png is damaged or was replaced" in capsys.readouterr().out
    assert (folder / "grid_0_w0.png").read_bytes() == (finished / "grid_0_w0.png").read_bytes()


# Disks and folders


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX limit on file sizes")
def test_a_disk_that_takes_no_more_ends_in_one_line_with_earlier_results_intact(finished, tmp_path):
    """No file may grow beyond 60 kB: the new generation's tables and figures fit, its model not."""
    folder = copied(finished, tmp_path / "run")
    limited = (
        "import resource, signal, sys, runpy; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        f"sys.argv = sys.argv[1:]; sys.path.insert(0, {str(FULL)!r});"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    constants = {**TINY_MAIN, "save_every": 1000, "save_dir": folder}
    words = command_line(FULL / "main.py", constants)
    done = subprocess.run([sys.executable, "-c", limited, *words], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"error: cannot write {folder / 'model_1_w0.pth'}: File too large"
    assert "Traceback" not in done.stderr and not list(folder.rglob("*.tmp"))
    assert {name: value for name, value in hashes(folder).items() if name in hashes(finished)} == (
        hashes(finished)
    )
    main(folder)  # with room again it goes on
    assert "model_1_w0.pth" in hashes(folder)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_every_write_that_the_disk_refuses_is_one_line(finished, tmp_path, monkeypatch, number):
    """A full, a read-only and a forbidden folder, at each kind of file in turn."""
    for suffix in ("model_1_w0.pth", "metrics_w0.csv", "grid_1_w0.png", "gen_data_with_w1_w0"):
        folder = copied(finished, tmp_path / suffix)
        whole = disk.replace

        def refused(path, content, suffix=suffix, whole=whole):
            if path.name == suffix:
                raise OSError(number, os.strerror(number))
            whole(path, content)

        with monkeypatch.context() as patch:
            patch.setattr(disk, "replace", refused)
            with pytest.raises(SystemExit) as stopped:
                main(folder)
        line = str(stopped.value.code)
        assert line.startswith(f"error: cannot write {folder / suffix}: {os.strerror(number)}")
        assert "\n" not in line
        ours, theirs = hashes(folder), hashes(finished)
        same = [name for name in theirs if "_0_" in name or "w0_w0" in name or "initial" in name]
        assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}


def test_a_disk_that_takes_nothing_from_then_on_ends_in_the_first_error(
    finished, tmp_path, monkeypatch
):
    """Why the loop stopped cannot be noted then either."""
    folder, whole, full = copied(finished, tmp_path / "run"), disk.replace, []

    def refused(path, content):
        if full or path.name == "model_1_w0.pth":
            full.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(path, content)

    monkeypatch.setattr(disk, "replace", refused)
    with pytest.raises(SystemExit, match="cannot write .*model_1_w0.pth: No space left"):
        main(folder)
    assert len(full) > 1


def test_folders_with_spaces_quotes_and_other_alphabets(finished, tmp_path):
    lost = ["model_0_w0.pth", "gen_*0_w0", "metrics*", "spectra*"]
    folder = copied(finished, tmp_path / "wütend 'und' 100 % – 模型", lost)
    done = run_script(FULL / "main.py", **{**TINY_MAIN, "generation_number": 1}, save_dir=folder)
    assert done.returncode == 0, done.stderr
    spectra(folder)
    ours, theirs = hashes(folder), hashes(finished)
    made = {name for name in theirs if name.endswith(("0_w0", ".pth", ".csv", ".npz"))}
    assert len(made) > 9 and {name: ours[name] for name in made} == {n: theirs[n] for n in made}


def test_a_folder_that_another_process_works_in_is_left_alone(finished, tmp_path):
    folder = copied(finished, tmp_path / "run")
    for second, name in (
        (main, "run_w0.lock"),
        (initialmain, "run_initial.lock"),
        (spectra, "spectra_w0.lock"),
    ):
        with storage.lock(folder / name), pytest.raises(SystemExit) as stopped:
            second(folder)
        assert stopped.value.code == (
            f"error: another process is at work in {folder} (it holds {name}): "
            "wait for it, stop it, or take another folder"
        )
    assert hashes(folder) == hashes(finished)


# Numbers that went wrong, and files that are not what they should be


def test_a_model_that_is_not_finite_is_not_sampled_measured_or_used(finished, tmp_path):
    folder = copied(finished, tmp_path / "run")
    path = Run(folder, 0).model(0)
    state = storage.load(path)
    state["nn_model.out.3.bias"] *= np.nan
    storage.save(state, path)
    message = r"key nn_model.out.3.bias: .*not finite"
    with pytest.raises(UserError, match=message):
        load_ddpm(path)
    Run(folder, 0).evaluation(0)[0].unlink()
    for command in (lambda: main(folder, generation_number=1), lambda: spectra(folder)):
        with pytest.raises(SystemExit, match=message):
            command()
    assert not Run(folder, 0).evaluation(0)[0].exists()


def test_features_that_are_not_finite_are_never_written(finished, tmp_path, monkeypatch):
    folder = copied(finished, tmp_path / "run", leave_out=["metrics_w0.csv"])
    whole = evaluation.extract_mnist_features
    monkeypatch.setattr(evaluation, "extract_mnist_features", lambda *a: whole(*a) * np.nan)
    with pytest.raises(SystemExit, match="features .* are not finite"):
        main(folder, generation_number=1)
    assert not (folder / "metrics_w0.csv").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("alpha_t"), "key alpha_t is missing"),
        (lambda state: state.update(extra=torch.ones(2)), "key extra: expected None, found (2,)"),
        (
            lambda state: state.update(sqrtab=state["sqrtab"][:-1]),
            "key sqrtab: expected (9,), found (8,)",
        ),
        (
            lambda state: state.update(alphabar_t=state["alphabar_t"].int()),
            "key alphabar_t: expected torch.float32, found torch.int32",
        ),
        (
            lambda state: state.update(alphabar_t=state["alphabar_t"] + 1),
            "key alphabar_t: expected values between 0 and 1",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_key(finished, tmp_path, change, said):
    state = storage.load(finished / "model_0_w0.pth")
    change(state)
    storage.save(state, tmp_path / "model.pth")
    with pytest.raises(UserError) as stopped:
        load_ddpm(tmp_path / "model.pth")
    assert said in str(stopped.value) and "\n" not in str(stopped.value)


def test_what_is_no_dict_of_tensors_is_no_checkpoint(tmp_path):
    for value in (torch.ones(3), [torch.ones(3)], {"nn_model": 3}, {}):
        storage.save(value, tmp_path / "model.pth")
        with pytest.raises(UserError, match="does not fit"):
            load_ddpm(tmp_path / "model.pth")


# Threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    yield lambda: torch.set_num_threads(2)
    torch.set_num_threads(before)


@pytest.mark.slow
def test_the_number_of_threads_changes_results_by_rounding_only(finished, tmp_path, two_threads):
    """Tolerances: losses 1e-4, at most one grey level in 0.1 % of the pixels, eigenvalues 1e-4
    (all relative). Sums are split differently; nothing else may depend on it."""
    ddpm = load_ddpm(Run(finished, 0).model(0)).cpu().frozen()
    anchor, one = torch.randn(1, 1, 28, 28), torch.ones(1, dtype=torch.int64)
    torch.set_num_threads(1)
    once, twice = (copied(finished, tmp_path / name, ["model_0_*"]) for name in "ab")
    main(once, generation_number=1)
    a = eigenvalues(jacobian(ddpm.eps, anchor, one, one))[0]
    two_threads()
    for name in ("gen_data_without_w0_w0", "metrics_w0.csv", "model_0_w0.pth"):
        (twice / name).unlink(missing_ok=True)
    main(twice, generation_number=1)
    b = eigenvalues(jacobian(ddpm.eps, anchor, one, one))[0]
    ours, theirs = (
        [float(r["loss"]) for r in storage.load_rows(Run(f, 0).losses(0))] for f in (once, twice)
    )
    assert ours == pytest.approx(theirs, rel=1e-4)
    np.testing.assert_allclose(a[:300], b[:300], rtol=1e-4)
    same = storage.load(finished / "model_0_w0.pth")
    storage.save(same, twice / "model_0_w0.pth")  # the other sampling: of one same model too
    (twice / "gen_data_without_w0_w0").unlink()
    main(twice, generation_number=1)
    a, b = (storage.load(f / "gen_data_without_w0_w0").int() for f in (finished, twice))
    assert (a - b).abs().max() <= 1 and (a != b).float().mean() <= 1e-3
