"""The loop: stages, continuation, what is measured on what, and what it refuses to do."""

import dataclasses
import functools
import re
import shlex
import shutil
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny import FULL as FOLDER
from tiny import (
    ROOT,
    TINY_INITIAL,
    TINY_MAIN,
    consistent,
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
from common.detect import streams
from common.loop import loop, scenarios, sources, stages
from common.machine import records, storage
from common.machine.errors import UserError
from common.metrics import evaluation
from common.metrics.fid import calculate_frechet_distance, feature_statistics
from common.metrics.lenet import accuracy, extract_mnist_features
from common.model import sample, train
from common.model.sample import Sampling, generate_samples
from common.model.unet import ContextUnet
from common.run.folder import Run, guidance_weights, load_ddpm, load_images, load_lenet
from common.seeds import INITIAL, Seeds
from common.spectrum import measure


def test_every_promised_file_is_there(finished):
    names = {path.name for path in finished.iterdir()}
    for g in ("_initial", 0, 1):
        assert {f"gen_data_with_w{g}_w0", f"gen_index_with_w{g}_w0"} <= names
        assert {f"gen_data_without_w{g}_w0", f"gen_index_without_w{g}_w0"} <= names
    for g in ("initial", 0, 1):
        assert {f"tsne_{g}_w0.png", f"grid_{g}_w0.png", f"losses_{g}_w0.csv"} <= names
    assert {"model_initial.pth", "model_0_w0.pth", "model_1_w0.pth", "prmodel.pth"} <= names
    assert {"metrics_w0.csv", "timings_w0.csv", "run_w0.json", "run_initial.json"} <= names
    assert {"fid_w0.png", "prdc_w0.png", "strip_w0.png", "loss_w0.png"} <= names
    assert not [name for name in names if name.endswith((".tmp", ".part")) or "training" in name]


def test_samples_are_uint8_images_with_as_many_balanced_labels(finished):
    for generation in (INITIAL, 0, 1):
        for files, n in (
            (Run(finished, 0).samples(generation), TINY_MAIN["N_next"]),
            (Run(finished, 0).evaluation(generation), TINY_MAIN["N_eval"]),
        ):
            images, labels = (torch.load(path, weights_only=True) for path in files)
            assert images.dtype == torch.uint8 and images.shape == (n, 1, 28, 28)
            assert labels.dtype == torch.int64 and labels.shape == (n,)
            counts = torch.bincount(labels, minlength=10)
            assert counts.max() - counts.min() <= 1  # though max_c = 30 does not divide 70 or 45


def test_running_again_does_nothing_and_says_so(finished, capsys):
    def times():  # of all files but the page, which is always written, and locks
        paths = [path for path in finished.glob("**/*.*") if "report.html" not in path.name]
        paths = [path for path in paths if path.suffix != ".lock"]
        return {path: path.stat().st_mtime_ns for path in paths}

    before = times()
    main(finished)
    said = capsys.readouterr().out
    assert "nothing to do, all 2 generations are complete" in said
    change = "change of recipe: training-set size (initial 320, generations 70)\n"
    assert f"note: generation 0 contains a {change}" in said
    assert times() == before and len(before) > 40


def test_the_saved_models_are_the_ones_that_were_sampled(finished, tmp_path):
    """Each generation's files are samples of that generation's checkpoint: none of another."""
    options = {"save_every": 1e9, "partial_path": tmp_path / "part", "name": "test"}
    for generation in (INITIAL, 0, 1):
        files = Run(finished, 0)
        ddpm = load_ddpm(files.model(generation))
        scenario = "FullSynthetic"
        seeds = Seeds(0, scenario, 0, generation)
        for n, paths, stage in (
            (TINY_MAIN["N_eval"], files.evaluation(generation), "evaluation"),
            (TINY_MAIN["N_next"], files.samples(generation), "samples"),
        ):
            how = Sampling(max_c=30)
            data = generate_samples(ddpm, n, 0, how, seeds=seeds, stage=stage, **options)
            assert torch.equal(data.images, torch.load(paths[0], weights_only=True))


def test_from_a_generation_to_the_network_are_few_frames(finished, tmp_path, monkeypatch):
    """Who follows the sampling in a debugger sees what each of them is for."""
    folder = copied(finished, tmp_path / "run", leave_out=["gen_data_without_w0_w0"])

    def stops(*arguments):
        names = [frame.name for frame in traceback.extract_stack()]
        frames.extend(names[names.index("_generation") :])
        raise KeyboardInterrupt

    frames = []
    monkeypatch.setattr(ContextUnet, "predicted", stops)
    with pytest.raises(SystemExit):
        main(folder)
    assert "generate_samples" in frames and len(frames) - 1 <= 8, frames


def test_the_constants_choose_the_sampler(initial, tmp_path):
    folder = copied(initial, tmp_path / "run")
    chosen = {"sampler": "ddim", "sample_steps": 3, "fast": False}
    main(folder, generation_number=1, **chosen)
    files = Run(folder, 0)
    data = generate_samples(
        load_ddpm(files.model(0)),
        TINY_MAIN["N_eval"],
        0,
        Sampling(max_c=30, **chosen),
        seeds=Seeds(0, "FullSynthetic", 0, 0),
        stage="evaluation",
        partial_path=tmp_path / "part",
        save_every=1e9,
        name="test",
    )
    assert torch.equal(data.images, load_images(files.evaluation(0)).images)


def test_metrics_belong_to_their_own_generation(finished):
    """FID of row g, computed again from model g's evaluation samples, N_eval of them for each g."""
    files = Run(finished, 0)
    lenet = load_lenet(files.prmodel)
    real = feature_statistics(extract_mnist_features(load_real("digits").images, lenet))
    rows = files.metrics()
    assert [row["generation"] for row in rows] == [INITIAL, 0, 1]
    for row in rows:
        images, _ = load_images(files.evaluation(row["generation"]))
        assert row["N_eval"] == len(images) == TINY_MAIN["N_eval"]
        fid = calculate_frechet_distance(
            *feature_statistics(extract_mnist_features(images, lenet)), *real
        )
        assert row["fid"] == pytest.approx(fid, rel=1e-9)
        assert storage.sha256(files.model(row["generation"])).startswith(row["model"])
    assert len({row["fid"] for row in rows}) == 3


@pytest.mark.parametrize("stop_after", [2, 9, 13, 16, 20, 27])
def test_interrupted_after_any_file_it_continues_bit_for_bit(
    initial, finished, tmp_path, monkeypatch, stop_after
):
    """A run that dies after its n-th file, started again, equals an uninterrupted one."""
    folder = copied(initial, tmp_path / "run")
    whole, written = storage.os.replace, []

    def dies_after(source, target):
        whole(source, target)
        written.append(target)
        if len(written) == stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(storage.os, "replace", dies_after)
    with pytest.raises(SystemExit) as stopped:
        main(folder)
    assert stopped.value.code == 130
    torch.rand(3)
    main(folder)
    assert hashes(folder) == hashes(finished)


def test_the_seed_decides_everything(initial, finished, tmp_path):
    again = copied(initial, tmp_path / "again")
    torch.manual_seed(99)
    main(again)
    assert hashes(again) == hashes(finished)
    other = copied(initial, tmp_path / "other")
    main(other, seed=1, generation_number=1)
    same = hashes(finished).keys() & hashes(other).keys()
    changed = {name for name in same if hashes(finished)[name] != hashes(other)[name]}
    assert {"model_0_w0.pth", "gen_data_with_w0_w0", "gen_data_without_w0_w0"} <= changed


def test_evaluating_never_changes_training(initial, finished, tmp_path):
    folder = copied(initial, tmp_path / "run")
    main(folder, N_eval=20)
    ours, theirs = hashes(folder), hashes(finished)
    for name in ("model_0_w0.pth", "model_1_w0.pth", "gen_data_with_w1_w0"):
        assert ours[name] == theirs[name]
    assert ours["metrics_w0.csv"] != theirs["metrics_w0.csv"]


def test_the_last_epoch_is_kept_whatever_the_metrics_say(initial, finished, tmp_path, monkeypatch):
    """No checkpoint is chosen by its FID: with nonsense for metrics the models are the same."""
    folder = copied(initial, tmp_path / "run")
    values = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(
        evaluation, "calculate_frechet_distance", lambda *arguments: next(values, 1.0)
    )
    main(folder)
    assert all(
        hashes(folder)[m] == hashes(finished)[m] for m in ("model_0_w0.pth", "model_1_w0.pth")
    )
    epochs = storage.load_rows(Run(folder, 0).losses(1))
    assert len(epochs) == TINY_MAIN["n_epoch"]


def test_extending_a_run_keeps_what_is_there(initial, finished, tmp_path):
    folder = copied(initial, tmp_path / "run")
    main(folder, generation_number=1, max_c=70)
    main(folder, generation_number=2, max_c=30)
    ours, theirs = hashes(folder), hashes(finished)
    assert ours.keys() == theirs.keys()
    assert ours["model_0_w0.pth"] == theirs["model_0_w0.pth"]


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


def test_initialmain_uses_a_model_that_is_there(initial, tmp_path, capsys):
    folder = copied(initial, tmp_path / "run", leave_out=["run_initial.json"])
    before = hashes(folder)
    initialmain(folder, Wall=[0, 0.5])
    assert "model_initial.pth is there" in capsys.readouterr().out
    after = hashes(folder)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {
        "gen_data_with_w_initial_w0.5",
        "gen_index_with_w_initial_w0.5",
    }


def test_initialmain_fills_every_folder_alike(initial, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    copied(initial, folders[1])
    constants = {"save_dirs": folders}
    initialmain(folders[1], **constants)
    shared = {"prmodel.pth", "model_initial.pth", "gen_data_with_w_initial_w0"}
    for name in shared:
        assert hashes(folders[0])[name] == hashes(folders[1])[name] == hashes(initial)[name]
    storage.save({}, folders[0] / "model_initial.pth")
    with pytest.raises(SystemExit, match=r"model_initial.pth differs between"):
        initialmain(folders[1], **constants)


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


def test_init_from_previous_continues_the_weights(initial, finished, tmp_path):
    folder = copied(initial, tmp_path / "run")
    main(folder, init_from="previous", lrate=1e-12, generation_number=1)
    start, end = (
        torch.load(folder / name, weights_only=True)["nn_model.out.3.weight"]
        for name in ("model_initial.pth", "model_0_w0.pth")
    )
    torch.testing.assert_close(start, end)
    scratch = torch.load(finished / "model_0_w0.pth", weights_only=True)["nn_model.out.3.weight"]
    assert not torch.allclose(start, scratch, atol=1e-3)


def test_every_generation_trains_on_the_samples_of_the_one_before(finished):
    real, files = load_real("digits"), Run(finished, 0)
    training_set = scenarios.training_set_of(FOLDER)
    constants = type("Constants", (), {"control": False, "N_real": 60000, "N_next": 70})

    def synthetic(generation):
        return load_images(files.samples(generation))

    assert training_set(INITIAL, real, None, constants, Seeds(0, "tests")) is real
    for generation in (0, 1):
        chosen = training_set(generation, real, synthetic, constants, None)
        assert torch.equal(chosen.images, synthetic(generation - 1).images)
        assert torch.equal(chosen.labels, synthetic(generation - 1).labels)
    constants.N_next = 30  # generation 0 takes no more than the later ones, whatever there is
    chosen = training_set(0, real, synthetic, constants, None)
    assert torch.equal(chosen.images, synthetic(INITIAL).images[:30])


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


def test_tiny_overrides_are_constants_of_the_scripts():
    for script, changes in (("initialmain.py", TINY_INITIAL), ("main.py", TINY_MAIN)):
        text = (FOLDER / script).read_text(encoding="utf-8")
        assert all(re.search(rf"^{name} = ", text, re.M) for name in changes)


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


def test_what_grows_has_no_control(tmp_path):
    folder = ROOT / "AugmentedSynthetic" / "DDPM-MNIST"
    changes = {k: v for k, v in TINY_MAIN.items() if k != "N_next"}
    constants = constants_of(
        folder / "main.py", **changes, control=True, accumulate=True, save_dir=tmp_path
    )
    with pytest.raises(SystemExit, match="accumulate = True has no control"):
        loop.main(constants)


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


def test_guided_samples_are_measured_beside_the_unguided_ones(initial, tmp_path):
    folder = copied(initial, tmp_path / "run")
    initialmain(folder, Wall=[0, 1])
    main(folder, w=1, generation_number=1)
    files = Run(folder, 1)
    lenet = load_lenet(files.prmodel)
    real = feature_statistics(extract_mnist_features(load_real("digits").images, lenet))
    for row in files.metrics():
        guided = load_images(files.samples(row["generation"])).subset(slice(45))
        assert row["N_guided"] == row["N_eval"] == 45
        fid = calculate_frechet_distance(
            *feature_statistics(extract_mnist_features(guided.images, lenet)), *real
        )
        assert row["fid_guided"] == pytest.approx(fid, rel=1e-9) != row["fid"]
        assert row["accuracy_guided"] == accuracy(lenet, guided)


def test_more_reference_images_than_samples_can_be_left_out_of_prdc(initial, finished, tmp_path):
    folder = copied(initial, tmp_path / "run")
    main(folder, N_ref=100, generation_number=1)
    ours, theirs = Run(folder, 0).metrics(), Run(finished, 0).metrics()
    assert ours[0]["fid"] == theirs[0]["fid"]
    assert 0 <= ours[0]["coverage"] <= 1
    saved = storage.load(folder / "real_features.pth")
    assert saved["radii"].shape == (100,) and saved["key"]["N_ref"] == 100


# What was made from what


def test_what_was_made_from_a_model_that_is_there_no_more_is_made_again(finished, tmp_path, capsys):
    """As after a damaged model was trained again, with other bits: another number of threads."""
    folder = copied(finished, tmp_path / "run")
    files = Run(folder, 0)
    before, model = hashes(folder), storage.load(files.model(0))
    model["nn_model.out.3.bias"] += 0.01
    storage.save(model, files.model(0))
    main(folder)
    said = capsys.readouterr().out
    for name in ("gen_data_with_w0_w0", "gen_data_without_w0_w0", "model_1_w0.pth"):
        assert f"note: {name} was made from what is there no more" in said
    assert not re.search(r"note: \S*initial\S* was made from", said)
    after = hashes(folder)
    same = {name for name in before if before[name] == after[name]}
    assert {"model_initial.pth", "gen_data_without_w_initial_w0", "tsne_initial_w0.png"} <= same
    assert not same & {"gen_data_with_w0_w0", "model_1_w0.pth", "gen_data_without_w1_w0"}
    consistent(folder, (INITIAL, 0, 1), tmp_path)
    main(folder)
    assert "nothing to do" in capsys.readouterr().out and hashes(folder) == after


def test_partial_samples_of_another_model_are_not_continued(initial, finished, tmp_path):
    folder = copied(finished, tmp_path / "run", leave_out=["*_data_without_w0_w0", "metrics*"])
    files = Run(folder, 0)
    part = sources.partial(files.evaluation(0)[0])
    records.save_source(part, "another model")
    storage.save(torch.zeros(30, 1, 28, 28, dtype=torch.uint8), part)
    main(folder)
    assert hashes(folder)["gen_data_without_w0_w0"] == hashes(finished)["gen_data_without_w0_w0"]


def test_folders_of_earlier_versions_without_sources_are_taken_as_they_are(
    finished, tmp_path, capsys
):
    folder = copied(finished, tmp_path / "run", leave_out=["*.from"])
    record = storage.load_json(folder / "run_w0.json")
    for name in ("n_step", "loss_weight", "eta", "clip_x0", "N_ref", "control"):
        del record["constants"][name]
    storage.save_json(record, folder / "run_w0.json")
    main(folder)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"eta \(was 0.0, is 0.5\)"):
        main(folder, eta=0.5)


@pytest.fixture
def other_bits(monkeypatch):
    """Trainings from now on end in weights that differ a little, as with other threads."""

    def start():
        whole = stages.train_ddpm

        def faster(ddpm, images, training, **rest):
            faster_ = dataclasses.replace(training, lrate=1.01 * training.lrate)
            return whole(ddpm, images, faster_, **rest)

        monkeypatch.setattr(stages, "train_ddpm", faster)

    return start


def test_in_folders_of_earlier_versions_too_what_is_gone_is_made_again(
    finished, tmp_path, capsys, other_bits
):
    """They noted no sources, but hashes, by which the first run knows what was made from what."""
    for name in ("same", "other"):
        folder = copied(finished, tmp_path / name, leave_out=["*.from"])
        model = Run(folder, 0).model(0)
        model.write_bytes(model.read_bytes()[:-100])
    main(tmp_path / "same")
    assert "no more" not in capsys.readouterr().out
    ours = hashes(tmp_path / "same")
    assert {name: ours[name] for name in hashes(finished)} == hashes(finished)
    other_bits()
    main(tmp_path / "other")
    assert "note: model_1_w0.pth was made from what is there no more" in capsys.readouterr().out
    assert hashes(tmp_path / "other")["model_0_w0.pth"] != ours["model_0_w0.pth"]
    consistent(tmp_path / "other", (INITIAL, 0, 1), tmp_path, trained=())


def test_a_model_that_an_earlier_version_had_made_again_gets_its_own_samples(finished, tmp_path):
    """Its hash is recorded, the row of metrics is the old model's: the samples are too."""
    folder = copied(finished, tmp_path / "run", leave_out=["*.from"])
    state = storage.load(Run(folder, 0).model(0))
    state["nn_model.out.3.bias"] += 0.01
    storage.save(state, Run(folder, 0).model(0))
    main(folder)
    consistent(folder, (INITIAL, 0), tmp_path, trained=())


def test_samples_that_are_made_again_are_measured_again(finished, tmp_path, monkeypatch):
    """Of the same model, but with other bits, as with another max_c or other threads."""
    folder = copied(finished, tmp_path / "run")
    Run(folder, 0).evaluation(0)[0].unlink()
    whole = sample.quantised
    monkeypatch.setattr(sample, "quantised", lambda x: whole(x) ^ 1)  # the last bit of each pixel
    main(folder)
    before, after = (Run(each, 0).metrics()[1] for each in (finished, folder))
    assert before["model"] == after["model"] and before["fid"] != after["fid"]
    consistent(folder, (INITIAL, 0, 1), tmp_path)


def test_rows_of_an_earlier_version_that_measured_less_are_made_again(finished, tmp_path):
    folder = copied(finished, tmp_path / "run")
    files = Run(folder, 0)
    later = {"entropy", "distance_to_training"}
    files.save_metrics(
        [{name: row[name] for name in row if name not in later} for row in files.metrics()]
    )
    main(folder)
    for ours, theirs in zip(files.metrics(), Run(finished, 0).metrics(), strict=True):
        assert ours == theirs and "entropy" in ours
        assert ("distance_to_training" in ours) == (ours["generation"] != INITIAL)


def test_the_distance_to_the_training_set_is_of_what_the_generation_was_trained_on(finished):
    files = Run(finished, 0)
    lenet, rows = load_lenet(files.prmodel), {row["generation"]: row for row in files.metrics()}
    for g in (0, 1):
        samples, training = (load_images(p) for p in (files.evaluation(g), files.samples(g - 1)))
        x, y = (extract_mnist_features(part.images, lenet).double() for part in (samples, training))
        nearest = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        assert rows[g]["distance_to_training"] == pytest.approx(nearest.mean().item(), rel=1e-6)


def test_later_generations_of_a_chain_that_is_gone_leave_the_metrics(
    finished, tmp_path, capsys, monkeypatch
):
    """The loop that goes on is shorter than the one that made them; their spectra stay, and the
    line that says so leads on, both ways."""
    whole, found = measure.measure_checkpoint, []

    def of_any_model(*given):  # which generations are there is asked, not what their spectra are
        found.extend(() if found else [whole(*given)])
        return found[0]

    monkeypatch.setattr(measure, "measure_checkpoint", of_any_model)
    folder = copied(finished, tmp_path / "run")
    spectra(folder)
    main(folder, generation_number=1)
    assert len(Run(folder, 0).metrics()) == 3  # still of one chain
    state = storage.load(Run(folder, 0).model(0))
    state["nn_model.out.3.bias"] += 0.01
    storage.save(state, Run(folder, 0).model(0))
    main(folder, generation_number=1)
    said = "generations 1 to 1 were made from what is there no more; generation_number = 2 makes"
    assert said in capsys.readouterr().out
    assert [row["generation"] for row in Run(folder, 0).metrics()] == [INITIAL, 0]
    spectra(folder)
    message = r"lacks the generations \[1\]: run main.py with generation_number = 2.* = \[0\]"
    with pytest.raises(UserError, match=message):
        streams.load(folder, 0)
    (folder / "spectra_w0.npz").rename(folder / "away.npz")
    spectra(folder, generations=[0])
    assert streams.load(folder, 0).generations.tolist() == [0]
    (folder / "away.npz").rename(folder / "spectra_w0.npz")
    main(folder)
    spectra(folder)
    assert streams.load(folder, 0).generations.tolist() == [0, 1]
    consistent(folder, (INITIAL, 0, 1), tmp_path, trained=(1,))


def test_a_shorter_loop_does_not_stumble_over_later_files(finished, tmp_path):
    folder = copied(finished, tmp_path / "run", leave_out=["strip_w0.png"])
    Run(folder, 0).strip(1)[0].write_bytes(b"damaged")
    main(folder, generation_number=1)
    main(folder)
    assert {name: hashes(folder)[name] for name in hashes(finished)} == hashes(finished)


# When a record binds


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


def test_two_folders_continue_with_another_batch_size_and_more_weights(initial, tmp_path):
    folders = [copied(initial, tmp_path / name) for name in "ab"]
    initialmain(folders[0], save_dirs=folders)
    initialmain(folders[0], save_dirs=folders, max_c=35, save_every=5, Wall=[0, 1])
    initialmain(folders[0], save_dirs=folders, max_c=30)
    for folder in folders:
        assert (
            hashes(folder)["gen_data_with_w_initial_w0"]
            == (hashes(initial)["gen_data_with_w_initial_w0"])
        )
        assert (folder / "gen_data_with_w_initial_w1").exists()


def test_going_on_from_a_model_of_other_betas_is_refused(initial, tmp_path):
    folder = copied(initial, tmp_path / "run", leave_out=["run_initial.json"])
    with pytest.raises(SystemExit, match="was trained with other betas than beta1 = 0.1"):
        main(folder, init_from="previous", beta1=0.1)


# What is missing


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


def test_other_files_in_the_folder_do_not_end_mainall(finished, tmp_path):
    folder = copied(finished, tmp_path / "run")
    (folder / "metrics_w0_old.csv").write_text("generation\n", encoding="utf-8")
    (folder / "run_w0_old.json").write_text("{}", encoding="utf-8")
    constants = constants_of(FOLDER / "mainall.py", **TINY_MAIN, Wall=[0], save_dir=folder)
    loop.mainall(constants)
    assert (folder / "weights.png").exists()


def test_every_weight_of_a_folder_is_found_by_its_record(tmp_path):
    for w in (0, 0.25, 2, 1e-9, 1e22):
        storage.save_json({}, Run(tmp_path, w).table("run", "json"))
    assert guidance_weights(tmp_path) == [0, 1e-9, 0.25, 2, 1e22]
