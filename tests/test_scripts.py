"""The scripts as users run them: a process of its own, from their folder, on the CPU."""

import os
import shutil

import pytest
from tiny import FULL, TINY_INITIAL, TINY_MAIN, copied, hashes, initialmain, main, run_script

MAINALL = {name: value for name, value in TINY_MAIN.items() if name != "generation_number"}


@pytest.fixture(scope="module")
def initial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("initial")
    initialmain(folder, Wall=[0, 0.5])
    return folder


def test_initialmain_and_main_from_clone_to_figures(initial, tmp_path):
    """With a relative save_dir, which is the script's wherever the script is called from."""
    project = tmp_path / "a project"
    for part in ("common", "FullSynthetic"):
        shutil.copytree(
            FULL.parents[1] / part, project / part, ignore=shutil.ignore_patterns("data", "__py*")
        )
    folder = project / "FullSynthetic" / "DDPM-MNIST"
    (folder / "data" / "here").mkdir(parents=True)
    shutil.copy(initial / "prmodel.pth", folder / "data" / "here")
    first = run_script(
        folder / "initialmain.py", cwd=tmp_path, **TINY_INITIAL, save_dirs="./data/here/"
    )
    assert first.returncode == 0, first.stderr
    shown = "a project/FullSynthetic/DDPM-MNIST/data/here".replace("/", os.sep)
    assert f"initial data for w = 0 in:\n  {shown}\n" in first.stdout
    second = run_script(
        folder / "main.py", **{**TINY_MAIN, "generation_number": 1}, save_dir="data/here"
    )
    assert second.returncode == 0, second.stderr
    assert "generation 0: FID" in second.stderr + second.stdout
    assert (folder / "data" / "here" / "fid_w0.png").stat().st_size > 10_000
    assert not (tmp_path / "data").exists()


def test_mainall_runs_every_weight_as_if_it_were_alone(initial, tmp_path):
    together = copied(initial, tmp_path / "together")
    done = run_script(
        FULL / "mainall.py", **MAINALL, generation_number=1, Wall=[0, 0.5], save_dir=together
    )
    assert done.returncode == 0, done.stderr
    alone = copied(initial, tmp_path / "alone")
    main(alone, w=0.5, generation_number=1)
    ours, theirs = hashes(together), hashes(alone)
    pictures = (".png", ".pdf")  # sketches in this process
    of_this_weight = [n for n in theirs if "w0.5" in n and not n.endswith(pictures)]
    assert len(of_this_weight) > 10
    assert {name: ours[name] for name in of_this_weight} == {
        name: theirs[name] for name in of_this_weight
    }
    assert "model_0_w0.pth" in ours and "weights.png" in ours


def test_mainall_reports_missing_initial_data_before_any_training(initial, tmp_path):
    folder = copied(initial, tmp_path / "run")
    done = run_script(FULL / "mainall.py", **MAINALL, Wall=[0, 0.75], save_dir=folder)
    assert done.returncode == 1
    names = "gen_data_with_w_initial_w0.75, gen_index_with_w_initial_w0.75"
    assert done.stderr.startswith(f"error: {names} are missing in {folder}: first run python initi")
    assert done.stderr.endswith("--Wall 0.75\n") and done.stderr.count("\n") == 1
    assert hashes(folder) == hashes(initial)


def test_main_without_initial_data_says_what_to_do(tmp_path):
    done = run_script(FULL / "main.py", save_dir=tmp_path)
    assert done.returncode == 1
    names = (
        "prmodel.pth, model_initial.pth, gen_data_with_w_initial_w0, gen_index_with_w_initial_w0"
    )
    assert done.stderr.strip() == (
        f"error: {names} are missing in {tmp_path}: first run python initialmain.py "
        f"--save_dirs {tmp_path} --Wall 0"
    )


@pytest.mark.parametrize("name", ["initialmain.py", "main.py", "mainall.py"])
def test_help_and_misspelt_constants(name):
    shown = run_script(FULL / name, help=[])
    assert shown.returncode == 0
    assert "--n_epoch VALUE" in shown.stdout and "passes over the training set" in shown.stdout
    wrong = run_script(FULL / name, n_epochs=3)
    assert wrong.returncode == 2
    assert (
        wrong.stderr == f"{name}: error: there is no constant --n_epochs; did you mean --n_epoch?\n"
    )
