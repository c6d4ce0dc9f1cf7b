"""What belongs together: every field of a provenance, changed in turn, is refused by name."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from made_up import CONSTANTS, a_loop, a_record
from tiny import FULL, ROOT, constants_of, copied, initialmain, main, run_script

from common.data import load_real
from common.detect import verdict
from common.machine.errors import Refusal
from common.run import comparable, provenance
from common.run.folder import Run
from common.spectrum import compare, measure
from common.spectrum.anchors import select

DETECT, COMPARE, SPECTRA = (
    ROOT / "jacobian" / f"{name}.py" for name in ("detect", "compare", "spectra")
)
FRESH = ROOT / "Fresh" / "MNIST-DDPM"

RECIPE = {
    "n_epoch": 5,
    "n_step": 1000,
    "batch_size": 64,
    "lrate": 2e-3,
    "loss_weight": "min_snr",
    "amp": True,
    "n_T": 100,
    "beta1": 1e-3,
    "beta2": 0.1,
    "n_feat": 16,
    "n_classes": 11,
    "sampler": "ddpm",
    "sample_steps": 10,
    "eta": 0.5,
    "clip_x0": False,
}
# Field of the provenance: the change in a run's record.
RECORDED = {
    **{name: {name: value} for name, value in RECIPE.items()},
    "dataset": {"dataset": "mnist"},
    "dataset_sha256": {"inputs": {"dataset": "c" * 64}},
    "feature_network": {"inputs": {"prmodel.pth": "c" * 64}},
    "init_from": {"init_from": "previous"},
    "N_ref": {"N_ref": 50},
    "N_train": {"N_next": 101},
    "scenario": {"scenario": "AugmentedSynthetic", "N_next": None, "N_with_w": 60, "N_real": 40},
    "control": {"control": False},
}
# Field: the change in its spectra.
MEASURED = {
    "anchors' dataset": {"dataset": np.array("mnist")},
    "anchors' images": {"images_sha256": np.array("d" * 64)},
    "anchors' seed": {"seed": np.array(1)},
    "anchors' index": {"anchor_index": np.arange(10) + 1},
    "anchors' t": {"t": np.array([10, 41])},
    "anchors' n_T": {"n_T": np.array(100)},
    "anchors' sigma": {"sigma": np.array([0.3, 0.7])},
    "anchors' n_held_out": {"n_held_out": np.array(100)},
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A loop, a second one, and three control loops that belong to them."""
    root = tmp_path_factory.mktemp("good")
    loops = [a_loop(root / f"loop{s}", s, n=4) for s in (11, 12)]
    return loops, [a_loop(root / f"control{s}", s, n=4, control=True) for s in (1, 2, 3)]


def remeasured(folder, **arrays):
    path = folder / "spectra_w0.npz"
    with np.load(path) as old:
        kept = dict(old)
    np.savez(path, **{**kept, **arrays})


def evaluated(folder, n_eval):
    run = Run(folder, 0)
    run.save_metrics([{**row, "N_eval": n_eval} for row in run.metrics()])


def detect(runs, controls, **changes):
    primary = {"primary": "posterior_variance", "primary_t": 100}
    runs = {"runs": list(runs), "controls": list(controls)}
    verdict.main(constants_of(DETECT, **{**primary, **runs, **changes}))


def refusal(capsys, work):
    """The one line with which work() ends, with exit status 2."""
    with pytest.raises(SystemExit) as ended:
        work()
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def test_a_good_set_is_accepted(good):
    loops, controls = good
    detect(loops, controls)
    assert json.loads((loops[0] / "onset_w0.json").read_text(encoding="utf-8"))["calibrated"]


@pytest.mark.parametrize("field", [*RECORDED, *MEASURED, "N_eval"])
def test_a_control_that_differs_in_one_field_is_refused(field, good, tmp_path, capsys):
    loops, controls = good
    changed = copied(controls[2], tmp_path / "changed")
    if field in RECORDED:
        a_record(changed, 3, **{"control": True, **RECORDED[field]})
    elif field in MEASURED:
        remeasured(changed, **MEASURED[field])
    else:
        evaluated(changed, 99)
    (loops[0] / "onset_w0.json").unlink(missing_ok=True)
    message = refusal(capsys, lambda: detect(loops, [*controls[:2], changed]))
    assert f"error: {field} is " in message and str(changed) in message
    assert not (loops[0] / "onset_w0.json").exists()
    before, after = (provenance.read(Run(f, 0)).flat().get(field) for f in (controls[2], changed))
    if field not in ("control", "init_from", *MEASURED) and len(str(after)) < 20:
        assert str(before) in message and str(after) in message  # both values


@pytest.mark.parametrize("field", [*RECORDED, *MEASURED, "N_eval"])
def test_a_loop_that_differs_in_one_field_is_refused(field, good, tmp_path, capsys):
    loops, _ = good
    changed = copied(loops[1], tmp_path / "changed")
    if field in RECORDED:
        a_record(changed, 12, **{**RECORDED[field], "control": field == "control"})
    elif field in MEASURED:
        remeasured(changed, **MEASURED[field])
    else:
        evaluated(changed, 99)
    message = refusal(capsys, lambda: detect([loops[0], changed], []))
    named = {"N_train": "N_next"}.get(field, field)  # the constant that it comes from
    assert f"{named} is " in message and str(changed) in message


def test_the_table_has_every_field(good):
    fields = set(provenance.read(Run(good[0][0], 0)).flat())
    free = {"seed", "w"}  # what may differ
    only_augmented = {"N_fixed", "initial_seed"}
    assert fields - free - only_augmented - {"N_next"} == {*RECORDED, *MEASURED, "N_eval"}


def test_what_may_differ_is_accepted(good, tmp_path):
    """Controls with the loop's seed, of another scenario with as many images, of a machine with
    other kernels; and records of before there were the newer constants."""
    loops, controls = good
    same = copied(controls[0], tmp_path / "same")
    a_record(same, 11, control=True, fast=False, deterministic=True)
    fresh = copied(controls[1], tmp_path / "fresh")
    mixture = {"N_next": None, "N_with_w": 90, "N_real": 10, "N_initial": 5, "resample_real": True}
    a_record(fresh, 2, control=True, scenario="Fresh", **mixture)
    old = copied(controls[2], tmp_path / "old")
    a_record(old, 3, control=True, n_step=None, loss_weight=None, N_ref=None)
    detect(loops, [same, fresh, old])


def test_augmented_controls_share_the_fixed_real_images(good, tmp_path, capsys):
    loops, controls = good
    mixture = {"scenario": "AugmentedSynthetic", "N_next": None, "N_with_w": 60, "N_real": 40}
    loop = copied(loops[0], tmp_path / "loop")
    a_record(loop, 11, **mixture, accumulate=False, initial_seed=7)
    same = [copied(folder, tmp_path / folder.name) for folder in controls]
    for seed, folder in zip((1, 2, 3), same, strict=True):
        a_record(folder, seed, control=True, **mixture, accumulate=False, initial_seed=7)
    detect([loop], same)

    def message(seed=3, **changes):
        a_record(same[2], seed, control=True, **{**mixture, "initial_seed": 7, **changes})
        return refusal(capsys, lambda: detect([loop], same))

    assert "initial_seed is 7" in message(initial_seed=8)
    assert "N_fixed is 40" in message(N_with_w=50, N_real=50)
    a_record(same[2], 3, control=True, **mixture, initial_seed=7)
    a_record(loop, 11, **mixture, accumulate=True, initial_seed=7)
    assert "in each generation (accumulate)" in refusal(capsys, lambda: detect([loop], same))


def test_a_loop_is_not_its_own_control(good, tmp_path, capsys):
    loops, controls = good
    copy = copied(controls[0], tmp_path / "copy")
    a_record(copy, 9, control=True)
    for runs, null in (
        ([controls[0]], controls),
        ([copy], controls),
        (loops[:1], [*controls, copy]),
    ):
        message = refusal(capsys, lambda runs=runs, null=null: detect(runs, null))
        assert "hold the same models" in message or "control is True" in message
    message = refusal(capsys, lambda: detect(loops[:1], [*controls, loops[0]]))
    assert f"control is False in {loops[0]}, but True in a control loop" in message


def test_a_loop_is_counted_once(good, tmp_path, capsys):
    loops, controls = good
    copy = copied(loops[0], tmp_path / "copy")
    message = refusal(capsys, lambda: detect([*loops, copy], controls))
    assert f"{loops[0]} and {copy} hold the same models or have the same seed" in message
    one, two = (provenance.read(Run(folder, 0)) for folder in (loops[0], copy))
    with pytest.raises(Refusal, match="have the same seed"):  # of another processor
        comparable.check_loops([one, dataclasses.replace(two, models=frozenset("a"))])


def test_controls_have_seeds_of_their_own_and_a_record(good, tmp_path, capsys):
    loops, controls = good
    twin = a_loop(tmp_path / "twin", 14, n=4, control=True)
    a_record(twin, 2, control=True)
    message = refusal(capsys, lambda: detect(loops, [*controls, twin]))
    assert f"seed is 2 in {controls[1]} and also 2 in {twin}" in message
    (twin / "run_w0.json").unlink()
    assert "has no run_w0.json" in refusal(capsys, lambda: detect(loops, [*controls, twin]))


def test_a_chain_of_controls_is_refused_for_a_fine_tuned_loop_too(good, tmp_path, capsys):
    chain = [copied(folder, tmp_path / folder.name) for folder in (good[0][0], *good[1])]
    for seed, folder in zip((11, 1, 2, 3), chain, strict=True):
        a_record(folder, seed, control=seed < 11, init_from="previous")
    message = refusal(capsys, lambda: detect(chain[:1], chain[1:]))
    assert 'init_from is "previous"' in message and "a chain" in message


def test_controls_serve_every_weight(good, tmp_path):
    """They were made once, as w = 0, and are read so whatever the loop's w is."""
    loop = copied(good[0][0], tmp_path / "loop")
    for name in ("spectra_w{}.npz", "metrics_w{}.csv", "run_w{}.json"):
        shutil.move(loop / name.format(0), loop / name.format(0.5))
    shutil.rmtree(loop / "hashes")
    detect([loop], good[1], w=0.5)
    assert (loop / "onset_w0.5.json").exists()


def test_what_is_unknown_of_a_loop_is_said(good, tmp_path):
    loop = copied(good[0][0], tmp_path / "loop")
    (loop / "run_w0.json").unlink()
    detect([loop], good[1])
    verdict = json.loads((loop / "onset_w0.json").read_text(encoding="utf-8"))["verdict"]
    assert f"{loop}: unknown, so not compared: scenario" in verdict and "recipe" in verdict


def test_only_control_loops_of_the_loop_stand_beside_it(good, tmp_path):
    """One of four: another has more passes, one is a copy, one's metrics were edited."""
    loop = copied(good[0][0], tmp_path / "loop")
    for seed, control in zip((1, 2, 3), good[1], strict=True):
        copied(control, loop / f"control_seed{seed}")
    copied(good[1][0], loop / "control_seed1 - Copy")
    a_record(loop / "control_seed2", 2, control=True, n_epoch=5)
    edited = loop / "control_seed3" / "metrics_w0.csv"
    edited.write_bytes(edited.read_bytes() + b"\n")
    found, left_out = comparable.controls_beside(Run(loop, 0))
    assert [of.folder.name for of in found] == ["control_seed1"]
    (loop / "control_seed2" / "run_w0.json").write_bytes(b"{")
    assert "run_w0.json" in comparable.controls_beside(Run(loop, 0))[1][1]
    for text, reason in zip(
        left_out, ("seed is 1 in", "n_epoch is 4 in", "metrics_w0"), strict=True
    ):
        assert reason in text and text.startswith("control_seed") and "\n" not in text
    assert len(comparable.control_rows(Run(loop, 0))) == 4


# compare.py


@pytest.mark.parametrize("field", ["dataset", "feature_network", "N_ref", "N_eval", *MEASURED])
def test_runs_that_were_not_measured_alike_are_not_compared(field, good, tmp_path, capsys):
    runs = [copied(folder, tmp_path / folder.name) for folder in good[0]]
    if field in RECORDED:
        a_record(runs[1], 12, **RECORDED[field])
    elif field in MEASURED:
        remeasured(runs[1], **MEASURED[field])
    else:
        evaluated(runs[1], 99)
    message = refusal(capsys, lambda: compare.main(constants_of(COMPARE, runs=runs)))
    assert f"not measured alike: {field} is " in message
    assert not list(tmp_path.glob("*/compare_w0.csv"))  # nothing was written


def test_runs_of_one_name_are_refused_before_anything_is_written(good, tmp_path):
    runs = [copied(good[0][0], tmp_path / part / "run") for part in ("a", "b")]
    with pytest.raises(SystemExit, match="runs must have different names"):
        compare.main(constants_of(COMPARE, runs=runs))
    assert not list(tmp_path.glob("*/run/compare_w0.csv"))


# main.py against run_initial.json

MADE = {**CONSTANTS, "seed": 0, "N_with_w": 100, "N_real": 100}
LOOP = {**CONSTANTS, "seed": 0, "control": False}
FRESH_LOOP = {**LOOP, "N_with_w": 60, "N_real": 40, "N_initial": 100, "resample_real": True}
del FRESH_LOOP["N_next"]


@pytest.fixture(scope="module")
def initial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("initial")
    initialmain(folder, N_real=100)
    return folder


@pytest.mark.parametrize(
    ("name", "value"), [("n_T", 9), ("beta1", 2e-4), ("beta2", 0.4), ("n_feat", 16)]
)
def test_another_model_than_the_initial_one_is_refused_before_any_work(
    name, value, initial, tmp_path, capsys
):
    folder = copied(initial, tmp_path / "run")
    made = json.loads((folder / "run_initial.json").read_text(encoding="utf-8"))["constants"]
    message = refusal(capsys, lambda: main(folder, **{name: value}))
    assert f"{name} = {made[name]}, not {value}" in message
    assert not (folder / "run_w0.json").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_T", 9),
        ("beta1", 1e-3),
        ("beta2", 0.3),
        ("n_feat", 16),
        ("n_classes", 11),
        ("dataset", "mnist"),
    ],
)
def test_what_makes_the_work_useless_is_refused(name, value):
    provenance.check_initial(LOOP, MADE)
    with pytest.raises(Refusal, match=f"{name} = .*, not {value!r}"):
        provenance.check_initial({**LOOP, name: value}, MADE)


@pytest.mark.parametrize(("name", "value"), [("seed", 1), ("N_initial", 90)])
def test_real_images_of_the_initial_model_may_not_come_back_as_fresh_ones(
    name, value, initial, tmp_path, capsys
):
    folder = copied(initial, tmp_path / "run")
    changes = {"N_with_w": 60, "N_real": 40, "N_initial": 100, name: value}
    message = refusal(capsys, lambda: main(folder, FRESH, **changes))
    assert f"{name} = {value}" in message and "seed = 0 and N_real = 100" in message
    provenance.check_initial({**FRESH_LOOP, name: value, "resample_real": "redraw"}, MADE)
    provenance.check_initial({**FRESH_LOOP, name: value, "control": True}, MADE)


def test_a_change_of_recipe_is_one_line():
    assert provenance.initial_differences(LOOP, MADE) is None
    for name, value in {**RECIPE, "n_step": 7, "sampler": "ddpm"}.items():
        text = provenance.initial_differences({**LOOP, name: value}, MADE)
        assert text.startswith("generation 0 contains a change of recipe: ") and "\n" not in text
        assert f"{name} (initial " in text and f"generations {value})" in text
    text = provenance.initial_differences({**LOOP, "N_next": 120}, MADE)
    assert "training-set size (initial 100, generations 120)" in text
    assert "synthetic images (generation 0 100, later 120)" in text
    assert provenance.initial_differences(FRESH_LOOP, MADE) is None
    less = provenance.initial_differences(FRESH_LOOP, {**MADE, "N_with_w": 50})
    assert less.endswith("recipe: synthetic images (generation 0 50, later 60)")
    augmented = {**LOOP, "N_with_w": 60, "N_real": 40, "accumulate": False}
    del augmented["N_next"]
    assert provenance.initial_differences(augmented, MADE) is None
    growing = provenance.initial_differences({**augmented, "accumulate": True}, MADE)
    assert "40 and 60 more in each generation" in growing


def test_idle_constants_are_no_change_of_recipe():
    counted = {"n_step": 1000}
    assert (
        provenance.initial_differences({**LOOP, **counted, "n_epoch": 1}, {**MADE, **counted})
        is None
    )
    chain = {"sampler": "ddpm"}
    loop = {**LOOP, **chain, "eta": 0.0, "sample_steps": 3, "fast": False}
    assert provenance.initial_differences(loop, {**MADE, **chain}) is None
    everything = {**LOOP, "N_next": 1500}
    assert (
        provenance.initial_differences(everything, {**MADE, "N_real": 60000, "N_with_w": 1500})
        is None
    )


# The scripts


def test_detect_ends_with_status_2_and_one_line(good):
    loops, controls = good
    done = run_script(DETECT, runs=loops[:1], controls=[*controls[:2], loops[1]])
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "control is False" in done.stderr and "onset" not in done.stdout


@pytest.mark.slow
def test_real_runs_belong_together_and_are_measured_on_their_own_dataset(initial, tmp_path):
    """Controls and loops of the scripts, spectra.py without a word about the dataset."""
    folder = copied(initial, tmp_path / "run")
    loop = {"N_next": 70, "N_eval": 45, "generation_number": 2}
    model = json.loads((folder / "run_initial.json").read_text(encoding="utf-8"))["constants"]
    words = {
        name: model[name] for name in ("dataset", "n_feat", "n_T", "beta2", "batch_size", "lrate")
    }
    started = run_script(FULL / "main.py", save_dir=folder, **words, **loop, n_epoch=1)
    assert started.returncode == 0, started.stderr
    note = "note: generation 0 contains a change of recipe: n_epoch (initial 2, generations 1)"
    assert note in started.stdout.splitlines()[1] + started.stdout.splitlines()[2]
    controls = [folder / f"control_seed{seed}" for seed in (1, 2)]
    for seed in (1, 2):
        main(folder, n_epoch=1, control=True, seed=seed, **loop)
    for each in (folder, *controls):
        measured = {"run_dir": each, "n_anchors": 10, "timesteps": [400]}
        measure.main(constants_of(SPECTRA, **measured))
        arrays = measure.load(each / "spectra_w0.npz")
        digits = select(load_real("digits", train=False), 0, 10)
        assert arrays["anchor_index"].tolist() == digits.index.tolist()
        assert (str(arrays["dataset"]), int(arrays["n_held_out"])) == ("digits", 200)
    done = run_script(DETECT, runs=[folder], controls=controls, primary_t=400)
    assert done.returncode == 0, done.stderr
    assert "log FID" in done.stdout and "n_epoch (initial 2, generations 1)" in done.stdout
    refused = run_script(DETECT, runs=[folder], controls=[controls[0], folder], primary_t=400)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "control is False" in refused.stderr
