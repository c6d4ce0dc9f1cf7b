"""What each generation trains on, for each scenario and variant; and that the scripts run."""

from types import SimpleNamespace

import pytest
import torch
from tiny import (
    FULL,
    ROOT,
    TINY_INITIAL,
    TINY_MAIN,
    constants_of,
    copied,
    hashes,
    initialmain,
    main,
    run_script,
)

from common.data import LabelledImages, load_real
from common.loop import loop, scenarios
from common.loop.state import Loop
from common.machine import storage
from common.machine.errors import UserError
from common.run.folder import Run
from common.seeds import INITIAL, Seeds

FRESH = ROOT / "Fresh" / "MNIST-DDPM"
AUGMENTED = ROOT / "AugmentedSynthetic" / "DDPM-MNIST"


def numbered(n=400):
    """Real data in which image i carries its own number in its first two pixels; 10 classes."""
    images = torch.zeros(n, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.arange(n) // 256, torch.arange(n) % 256
    return LabelledImages(images, (torch.arange(n) * 7 + 3) % 10)


def numbers(data):
    """The numbers of `numbered` images."""
    return (data.images[:, 0, 0, 0].int() * 256 + data.images[:, 0, 0, 1]).tolist()


def synthetic(generation):
    """Samples of which every pixel is 200 + generation."""
    images = torch.full((60, 1, 28, 28), 200 + generation, dtype=torch.uint8)
    return LabelledImages(images, torch.arange(60) % 10)


def training_set(folder, generation, real, seed=0, w=0, **constants):
    seeds = Seeds(seed, folder.parent.name, w, generation)
    constants = SimpleNamespace(**{"control": False, "initial_seed": 0, **constants})
    return scenarios.training_set_of(folder)(generation, real, synthetic, constants, seeds)


def split(data):
    """(real part, generations the synthetic part comes from)."""
    is_synthetic = data.images[:, 0, 5, 5] >= 199
    origins = (data.images[is_synthetic][:, 0, 5, 5].int() - 200).tolist()
    return data.subset(~is_synthetic), origins


def balanced(labels):
    return torch.bincount(labels, minlength=10).unique().numel() == 1


def test_fresh_images_are_new_balanced_and_aligned_in_every_generation():
    real, constants = numbered(), {"N_with_w": 50, "N_real": 20, "N_initial": 100}
    initial = training_set(FRESH, INITIAL, real, N_real=100)
    assert len(initial.labels) == 100 and balanced(initial.labels)
    used = set(numbers(initial))
    assert len(used) == 100
    for generation in range(15):
        data = training_set(FRESH, generation, real, resample_real=True, **constants)
        fresh, origins = split(data)
        assert origins == [generation - 1] * 50
        assert torch.equal(data.labels[:50], torch.arange(50) % 10)
        assert len(fresh.labels) == 20 and balanced(fresh.labels)
        assert fresh.labels.tolist() == [int(real.labels[i]) for i in numbers(fresh)]
        assert not used & set(numbers(fresh))  # never used before, by the initial model either
        used |= set(numbers(fresh))
    assert len(used) == 400


def test_fresh_images_do_not_depend_on_the_weight_but_on_the_seed():
    real, constants = numbered(), {"N_with_w": 50, "N_real": 20, "N_initial": 100}
    chosen = [
        numbers(split(training_set(FRESH, 2, real, seed, w, resample_real=True, **constants))[0])
        for seed, w in ((0, 0), (0, 1.5), (1, 0))
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_the_fixed_real_control_keeps_the_same_images():
    real, constants = numbered(), {"N_with_w": 50, "N_real": 20, "N_initial": 100}
    chosen = [
        numbers(split(training_set(FRESH, g, real, resample_real=False, **constants))[0])
        for g in (0, 1, 9)
    ]
    assert chosen[0] == chosen[1] == chosen[2]
    assert not set(chosen[0]) & set(numbers(training_set(FRESH, INITIAL, real, N_real=100)))


def test_fresh_data_that_cannot_last_is_an_error_with_both_numbers():
    with pytest.raises(UserError, match="420 images are needed, but there are 400"):
        training_set(
            FRESH, 15, numbered(), N_with_w=50, N_real=20, N_initial=100, resample_real=True
        )


@pytest.mark.parametrize(("accumulate", "origins"), [(False, [2]), (True, [-1, 0, 1, 2])])
def test_augmented_sets_are_all_real_data_and_samples(accumulate, origins):
    real = numbered()
    data = training_set(AUGMENTED, 3, real, N_real=60000, N_with_w=50, accumulate=accumulate)
    kept, found = split(data)
    assert numbers(kept) == list(range(400)) and torch.equal(kept.labels, real.labels)
    assert found == [g for g in origins for _ in range(50)]
    assert torch.equal(data.labels[400:450], torch.arange(50) % 10)
    assert training_set(AUGMENTED, INITIAL, real, N_real=60000) is real


def test_augmented_real_images_are_the_same_in_every_generation():
    real, constants = numbered(), {"N_real": 100, "N_with_w": 50, "accumulate": False}
    sets = [split(training_set(AUGMENTED, g, real, **constants))[0] for g in (0, 4)]
    assert numbers(sets[0]) == numbers(sets[1]) and balanced(sets[0].labels)
    assert numbers(sets[0]) == numbers(training_set(AUGMENTED, INITIAL, real, N_real=100))


def test_a_loop_of_another_seed_keeps_the_real_images_of_the_initial_model(tmp_path, monkeypatch):
    initialmain(tmp_path, AUGMENTED, N_real=100)
    seen, whole = {}, scenarios.training_set_of(AUGMENTED)

    def training_set_(generation, *rest):
        seen[generation] = whole(generation, *rest)
        return seen[generation]

    changes = {**MAIN, "N_with_w": 50, "N_real": 100, "generation_number": 1}
    constants = constants_of(AUGMENTED / "main.py", **changes, save_dir=tmp_path, seed=5)
    monkeypatch.setattr(scenarios, "training_set_of", lambda folder: training_set_)
    loop.main(constants)
    of_initial = training_set(AUGMENTED, INITIAL, load_real("digits"), N_real=100)
    assert torch.equal(seen[0].images[:100], of_initial.images)


def test_redrawn_images_are_new_in_every_generation_and_may_come_back():
    real, constants = numbered(), {"N_with_w": 50, "N_real": 100, "N_initial": 100}
    sets = []
    for generation in range(6):  # 600 images of 400
        data = training_set(FRESH, generation, real, resample_real="redraw", **constants)
        fresh, origins = split(data)
        assert origins == [generation - 1] * 50 and balanced(fresh.labels)
        assert len(set(numbers(fresh))) == 100
        sets.append(set(numbers(fresh)))
    assert all(a != b for a, b in zip(sets, sets[1:], strict=False))
    assert len(set.union(*sets)) < 600


CONTROLLED = {
    FULL: {"N_next": 80},
    FRESH: {"N_with_w": 60, "N_real": 20, "N_initial": 100, "resample_real": True},
    AUGMENTED: {"N_with_w": 60, "N_real": 20, "accumulate": False},
}


@pytest.mark.parametrize("folder", CONTROLLED, ids=["Full", "Fresh", "Augmented"])
def test_a_control_is_the_loop_with_new_real_images_for_every_synthetic_one(folder):
    real, constants = numbered(), CONTROLLED[folder]
    loop = training_set(folder, 1, real, **constants)
    drawn = [
        training_set(folder, g, real, seed, control=True, **constants)
        for g, seed in ((0, 0), (1, 0), (1, 7))
    ]
    for data in drawn:
        kept, origins = split(data)
        assert origins == [] and balanced(kept.labels) and len(set(numbers(kept))) == 80
        if folder is not FULL:  # synthetic gives 60, whatever is asked for
            assert len(data.labels) == len(loop.labels)
    common = 20 if folder is AUGMENTED else 0
    if folder is AUGMENTED:  # the fixed part is that of the loop, whatever the control's seed
        fixed = numbers(split(loop)[0])
        assert all(numbers(data)[:20] == fixed for data in drawn)
    new = [set(numbers(data)[common:]) for data in drawn]
    assert new[0] != new[1] != new[2]


def test_a_control_without_enough_real_images_names_the_largest_number():
    for folder, size, most in ((FRESH, 400, "400"), (AUGMENTED, 380, "380")):
        sizes = {**CONTROLLED[folder], "N_with_w": size + 1}
        with pytest.raises(UserError, match=f"no more than {most} to draw from"):
            training_set(folder, 0, numbered(), control=True, **sizes)


MAIN = {name: value for name, value in TINY_MAIN.items() if name != "N_next"}
SCALE = {
    FRESH: ({"N_real": 100}, {"N_with_w": 50, "N_real": 20, "N_initial": 100}),
    AUGMENTED: ({"N_real": 100}, {"N_with_w": 50, "N_real": 100}),
}


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(FRESH, id="Fresh"),
        pytest.param(AUGMENTED, id="AugmentedSynthetic", marks=pytest.mark.slow),
    ],
)
def test_the_scripts_run_as_users_run_them(folder, tmp_path):
    first, then = SCALE[folder]
    run = tmp_path / "run"
    run.mkdir()
    initialmain(run, folder, **first, Wall=[0])  # leaves prmodel.pth, quicker than the script's
    done = run_script(
        folder / "initialmain.py", **{**TINY_INITIAL, **first}, Wall=[0, 0.5], save_dirs=run
    )
    assert done.returncode == 0, done.stderr
    done = run_script(folder / "main.py", **{**MAIN, **then}, save_dir=run)
    assert done.returncode == 0, done.stderr
    done = run_script(
        folder / "mainall.py", **{**MAIN, **then, "generation_number": 1}, Wall=0.5, save_dir=run
    )
    assert done.returncode == 0, done.stderr
    names = hashes(run).keys()
    assert {"model_1_w0.pth", "fid_w0.png", "model_0_w0.5.pth", "metrics_w0.5.csv"} <= names


def test_a_loop_on_other_real_images_than_its_initial_model_is_refused(initial, tmp_path):
    folder = copied(initial, tmp_path / "run")
    record = storage.load_json(folder / "run_initial.json")
    record["inputs"]["dataset"] = "0" * 64
    storage.save_json(record, folder / "run_initial.json")
    with pytest.raises(SystemExit, match="digits are not those that initialmain.py trained on"):
        main(folder)


def test_fresh_refuses_to_start_when_the_real_data_cannot_last(tmp_path):
    initialmain(tmp_path, FRESH, N_real=100)
    before = hashes(tmp_path)
    constants = {**SCALE[FRESH][1], "generation_number": 100}
    with pytest.raises(SystemExit, match=r"2100 images are needed, but there are 14\d0"):
        main(tmp_path, FRESH, **constants)
    assert hashes(tmp_path) == before


def test_what_accumulates_is_made_from_the_samples_of_all_before(tmp_path):
    run = Run(tmp_path, 0)
    given = SimpleNamespace(control=False, init_from="scratch", accumulate=True)
    made = Loop(run, "AugmentedSynthetic", given, None, None, None, None).made_from(2)
    assert made == [run.samples(g)[0] for g in (INITIAL, 0, 1)]
    given.accumulate = False
    made = Loop(run, "AugmentedSynthetic", given, None, None, None, None).made_from(2)
    assert made == [run.samples(1)[0]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "changes"),
    [(FRESH, {}), (AUGMENTED, {}), (AUGMENTED, {"accumulate": True})],
    ids=["Fresh", "AugmentedSynthetic", "accumulate"],
)
def test_a_stopped_loop_continues_bit_for_bit(folder, changes, tmp_path):
    first, then = SCALE[folder]
    then = then | changes
    initialmain(tmp_path / "whole", folder, **first)
    stopped = copied(tmp_path / "whole", tmp_path / "stopped")
    main(tmp_path / "whole", folder, **then)
    main(stopped, folder, **{**then, "generation_number": 1})
    torch.rand(3)
    main(stopped, folder, **then)
    assert hashes(stopped) == hashes(tmp_path / "whole")
