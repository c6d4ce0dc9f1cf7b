"""What a loop refuses to go on with, what it says, and when a record binds."""

import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import FULL as FOLDER
from tiny import (
    TINY_MAIN,
    constants_of,
    copied,
    hashes,
    initialmain,
    main,
    run_script,
    spectra,
)

from common import data
from common.data import load_real
from common.loop import loop
from common.machine import records, storage
from common.model import train
from common.run.folder import Run
from common.seeds import INITIAL


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lrate": 2e-3}, "lrate (was 0.001, is 0.002)"),
        ({"n_epoch": 3, "seed": 7}, "n_epoch (was 2, is 3), seed (was 0, is 7)"),
    ],
)
def test_a_changed_constant_is_named_on_continuation(finished, change, named):
    before = hashes(finished)
    with pytest.raises(SystemExit, match=re.escape(named)):
        main(finished, **change)
    assert hashes(finished) == before


def test_a_changed_input_is_named_on_continuation(finished, tmp_path):
    folder = copied(finished, tmp_path / "run")
    state = torch.load(folder / "prmodel.pth", weights_only=True)
    state["fc3.bias"] += 1
    torch.save(state, folder / "prmodel.pth")
    with pytest.raises(SystemExit, match=r"prmodel.pth is damaged or was replaced"):
        main(folder)
    (folder / "hashes" / "prmodel.pth.sha256").unlink()
    with pytest.raises(SystemExit, match=r"other inputs: prmodel.pth"):
        main(folder)


@pytest.mark.parametrize("name", ["prmodel.pth", "model_initial.pth", "gen_data_with_w_initial_w0"])
def test_missing_initial_data_is_named_with_its_folder_and_remedy(initial, tmp_path, name):
    folder = copied(initial, tmp_path / "run", leave_out=[name])
    with pytest.raises(SystemExit) as stopped:
        main(folder)
    line = str(stopped.value.code)
    assert name in line and str(folder) in line and "initialmain.py" in line and "\n" not in line


def test_labels_that_do_not_fit_the_images_are_refused(initial, tmp_path):
    folder = copied(initial, tmp_path / "run")
    labels = torch.load(folder / "gen_index_with_w_initial_w0", weights_only=True)
    storage.save(labels.repeat(2), folder / "gen_index_with_w_initial_w0")
    with pytest.raises(SystemExit, match=r"expected 70 labels from 0 to 9, one for each image"):
        main(folder)


def test_too_small_a_training_set_is_pointed_out_with_the_published_setting(
    initial, tmp_path, capsys
):
    folder = copied(initial, tmp_path / "run")
    main(folder, N_next=10, generation_number=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert lines == [
        "note: 10 images for the next generation are less than one batch (32); "
        "the published setting is N_next = 60000, n_epoch = 40",
        "note: generation 0 contains a change of recipe: training-set size (initial 320, "
        "generations 10)",
    ]


def test_another_dataset_than_that_of_the_initial_model_is_refused(initial, tmp_path, capsys):
    folder = copied(initial, tmp_path / "run")
    text = (folder / "run_initial.json").read_text(encoding="utf-8")
    storage.save_text(text.replace("digits", "mnist"), folder / "run_initial.json")
    with pytest.raises(SystemExit) as stopped:
        main(folder)
    assert stopped.value.code == 2
    assert "initialmain.py ran with dataset = 'mnist', not 'digits'" in capsys.readouterr().err


def test_going_on_from_a_model_of_another_size_is_refused(initial, tmp_path):
    folder = copied(initial, tmp_path / "run", leave_out=["run_initial.json"])
    with pytest.raises(SystemExit, match="model_initial.pth has n_feat = 8 and n_T = 8"):
        main(folder, init_from="previous", n_feat=16)


def test_going_on_from_a_model_of_other_betas_is_refused(initial, tmp_path):
    folder = copied(initial, tmp_path / "run", leave_out=["run_initial.json"])
    with pytest.raises(SystemExit, match="was trained with other betas than beta1 = 0.1"):
        main(folder, init_from="previous", beta1=0.1)


@pytest.mark.parametrize("version", ["this", "an earlier"])
def test_constants_bind_from_the_first_finished_stage_on(tmp_path, monkeypatch, version):
    """A wrong constant, Ctrl-C, the right one; what the stopped training left is not continued."""
    initialmain(tmp_path / "whole", n_epoch=3)
    whole, batches = hashes(tmp_path / "whole"), []

    def stops(*arguments):
        for batch in data.batches(*arguments):
            batches.append(batch)
            if len(batches) == 15:  # in the second epoch: the first one is saved
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(train, "batches", stops)
        initialmain(tmp_path / "run", n_epoch=4, lrate=5e-3)
    assert Run(tmp_path / "run", 0).training_state(INITIAL).exists()
    if version != "this":  # it noted no source of the saved state
        (tmp_path / "run" / "hashes" / "training_initial_w0.pth.from").unlink()
    initialmain(tmp_path / "run", n_epoch=3)
    ours = hashes(tmp_path / "run")
    assert ours["model_initial.pth"] == whole["model_initial.pth"]
    with pytest.raises(SystemExit, match=r"n_epoch \(was 3, is 4\)"):
        initialmain(tmp_path / "run", n_epoch=4)


def test_constants_stay_bound_when_the_first_files_are_lost(finished, tmp_path):
    folder = copied(finished, tmp_path / "run", leave_out=["model_0_w0.pth", "*initial_w0"])
    initialmain(folder)
    with pytest.raises(SystemExit, match=r"lrate \(was 0.001, is 0.002\)"):
        main(folder, lrate=2e-3)


def test_a_run_on_a_file_of_ones_own_goes_on_where_that_lies_now(tmp_path, capsys):
    """But not with another content, and not with a dataset that has a name."""
    there, here, folder = tmp_path / "there.npz", tmp_path / "here.npz", tmp_path / "run"
    parts = {part: load_real("digits", part == "train") for part in ("train", "test")}
    arrays = {f"{part}_images": of.images[:, 0].numpy() for part, of in parts.items()}
    arrays |= {f"{part}_labels": of.labels.numpy() for part, of in parts.items()}
    np.savez(there, **arrays)
    initialmain(folder, dataset=str(there))
    main(folder, dataset=str(there), generation_number=1)
    there.rename(here)
    main(folder, dataset=str(here), generation_number=1)
    assert "nothing to do" in capsys.readouterr().out
    for name in ("run_w0.json", "run_initial.json"):
        assert storage.load_json(folder / name)["constants"]["dataset"] == str(here)
    with pytest.raises(SystemExit, match="2"):
        main(folder, dataset="digits", generation_number=1)
    assert f"initialmain.py ran with dataset = '{here}', not" in capsys.readouterr().err
    np.savez(here, **{**arrays, "train_images": 255 - arrays["train_images"]})
    with pytest.raises(SystemExit, match="are not those that initialmain.py trained on"):
        main(folder, dataset=str(here), generation_number=1)
    with pytest.raises(SystemExit, match="are not those that the run was made with"):
        spectra(folder)


def test_a_new_folder_beside_one_that_binds_gets_no_record_of_other_constants(initial, tmp_path):
    new, old = tmp_path / "new", copied(initial, tmp_path / "old")
    with pytest.raises(SystemExit, match=r"n_epoch \(was 2, is 3\)"):
        initialmain(new, save_dirs=[new, old], n_epoch=3)
    assert not (new / "model_initial.pth").exists()  # it would pass for one of these constants
    (new / "prmodel.pth").unlink()
    initialmain(old, save_dirs=[new, old])
    for name in ("model_initial.pth", "gen_data_with_w_initial_w0"):  # it knows their sources too
        assert records.source_of(new / name) == records.source_of(old / name) is not None


def test_a_folder_in_which_nothing_is_finished_binds_nothing(initial, tmp_path):
    """Also beside one that binds."""
    old, new = copied(initial, tmp_path / "old"), tmp_path / "new"
    new.mkdir()
    record = storage.load_json(old / "run_initial.json")
    record["constants"]["n_epoch"] = 3
    storage.save_json(record, new / "run_initial.json")
    initialmain(new, save_dirs=[new, old])
    assert (new / "model_initial.pth").read_bytes() == (old / "model_initial.pth").read_bytes()
    assert storage.load_json(new / "run_initial.json")["constants"]["n_epoch"] == 2


def test_all_that_is_missing_is_named_with_a_command_that_makes_it(initial, tmp_path):
    folder = tmp_path / "a run"
    tiny = {**TINY_MAIN, "N_next": 70, "generation_number": 1, "save_dir": folder}
    done = run_script(FOLDER / "mainall.py", **tiny, Wall=[0, 0.5])
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    for name in ("prmodel.pth", "model_initial.pth", "gen_index_with_w_initial_w0.5"):
        assert name in done.stderr
    command = done.stderr.strip().split("first run python ")[1]
    assert f'--save_dirs "{folder}"' in command and command.endswith("--Wall 0 0.5")
    words = shlex.split(command)
    folder.mkdir()
    shutil.copy(initial / "prmodel.pth", folder)
    done = subprocess.run(
        [sys.executable, *words], cwd=FOLDER, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    loop.mainall(constants_of(FOLDER / "mainall.py", **tiny, Wall=[0, 0.5]))
    assert Run(folder, 0).model(0).exists() and Run(folder, 0.5).model(0).exists()
