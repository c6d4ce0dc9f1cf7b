"""Control loops: new real images in place of synthetic ones, in a folder of their own."""

import functools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import FULL as FOLDER
from tiny import (
    TINY_MAIN,
    constants_of,
    copied,
    hashes,
    main,
    run_script,
)

from common.data import load_real
from common.loop import loop, scenarios
from common.machine import storage
from common.machine.errors import UserError
from common.seeds import Seeds


def test_a_control_loop_trains_on_real_images_in_a_folder_of_its_own(initial, tmp_path):
    folder = copied(initial, tmp_path / "run")
    before = hashes(folder)
    main(folder, control=True, generation_number=2, seed=3)
    assert hashes(folder) == before
    control = folder / "control_seed3"
    assert (control / "model_1_w0.pth").exists() and not (control / "gen_data_with_w0_w0").exists()

    real, constants = load_real("digits"), type("Constants", (), {"control": True, "N_next": 70})
    keys = {image.numpy().tobytes() for image in real.images}
    chosen = []
    for generation in (0, 1):
        seeds = Seeds(3, "FullSynthetic control", 0, generation)
        data = scenarios.training_set_of(FOLDER)(generation, real, None, constants, seeds)
        assert torch.bincount(data.labels).tolist() == [7] * 10
        assert all(image.numpy().tobytes() in keys for image in data.images)
        chosen.append(data.images)
    assert not torch.equal(*chosen)
    constants.N_next = 1495  # more than ten times the smallest class
    data = scenarios.training_set_of(FOLDER)(0, real, None, constants, Seeds(0, "x"))
    assert len({image.numpy().tobytes() for image in data.images}) == 1495
    constants.N_next = 1501
    with pytest.raises(UserError, match=r"needs 1,501 real images .* no more than 1,500"):
        scenarios.training_set_of(FOLDER)(0, real, None, constants, Seeds(0, "x"))


def test_a_control_is_made_once_and_is_the_same_whatever_the_weights(initial, tmp_path):
    """Also in a folder that has initial samples of other weights only, and next to another one."""
    folder = copied(initial, tmp_path / "run", leave_out=["gen_*_initial_w0"])
    control = {"generation_number": 1, "control": True}
    changes = {**TINY_MAIN, **control, "Wall": [1.5, 2], "seed": 4}
    constants = constants_of(FOLDER / "mainall.py", **changes, save_dir=folder)
    loop.mainall(constants)
    found = hashes(folder / "control_seed4")
    assert "model_0_w0.pth" in found and not [name for name in found if "w1.5" in name]
    main(folder, **control, w=1.5, seed=4)  # is there already
    other = copied(initial, tmp_path / "other")
    main(other, **control, seed=4)
    ours, theirs = found, hashes(other / "control_seed4")
    assert {k: v for k, v in ours.items() if not k.startswith("weights.")} == theirs


def test_controls_that_start_together_do_not_collide(initial, tmp_path):
    """Of one seed, whatever their weights, it is the same control: one works, the other is told."""
    folder = copied(initial, tmp_path / "run")
    words = {**TINY_MAIN, "generation_number": 1, "control": True, "save_dir": folder}
    with ThreadPoolExecutor() as pool:
        start = functools.partial(pool.submit, run_script, FOLDER / "main.py", **words, seed=1)
        runs = [start(w=w) for w in (0, 1)]
        main(folder, generation_number=1, control=True, seed=2)
        same = [one.result() for one in runs]
    assert min(one.returncode for one in same) == 0
    for one in same:
        told = "another process is at work in" in one.stderr and one.stderr.count("\n") == 1
        assert one.stderr == "" or told
    for seed in (1, 2):
        models = (folder / f"control_seed{seed}").glob("model_*.pth")
        assert sorted(path.name for path in models) == ["model_0_w0.pth", "model_initial.pth"]


def test_a_control_that_another_process_works_at_is_left_alone(initial, tmp_path):
    folder = copied(initial, tmp_path / "run")
    control = folder / "control_seed1"
    with (
        storage.lock(control / "run_w0.lock"),
        pytest.raises(SystemExit, match="another process is at work in .*control_seed1"),
    ):
        main(folder, control=True, seed=1, generation_number=1)
    assert [path.name for path in control.iterdir()] == ["run_w0.lock"]


def test_a_control_of_earlier_versions_goes_on(initial, tmp_path, capsys):
    """They noted samples among its inputs, which it does not need."""
    folder = copied(initial, tmp_path / "run")
    main(folder, control=True, seed=1, generation_number=1)
    path = folder / "control_seed1" / "run_w0.json"
    record = storage.load_json(path)
    record["inputs"]["gen_data_with_w_initial_w0"] = "0" * 64
    storage.save_json(record, path)
    main(folder, control=True, seed=1, generation_number=1)
    assert "nothing to do" in capsys.readouterr().out
