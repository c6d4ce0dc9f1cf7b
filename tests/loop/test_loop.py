"""The loop: stages, continuation, and what is measured on what."""

import re
import traceback

import pytest
import torch
from tiny import FULL as FOLDER
from tiny import (
    TINY_INITIAL,
    TINY_MAIN,
    constants_of,
    copied,
    hashes,
    initialmain,
    main,
)

from common.data import load_real
from common.loop import loop, scenarios, stages
from common.machine import storage
from common.metrics import evaluation
from common.metrics.fid import calculate_frechet_distance, feature_statistics
from common.metrics.lenet import accuracy, extract_mnist_features
from common.model.sample import Sampling, generate_samples
from common.model.unet import ContextUnet
from common.run.folder import Run, guidance_weights, load_ddpm, load_images, load_lenet
from common.seeds import INITIAL, Seeds


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


@pytest.fixture(scope="module")
def guided(initial, tmp_path_factory):
    """What `finished` is, at w = 1."""
    folder = copied(initial, tmp_path_factory.mktemp("guided") / "run")
    initialmain(folder, Wall=[0, 1])
    main(folder, w=1)
    return folder


@pytest.mark.parametrize(("name", "w"), [("finished", 0), ("guided", 1)])
def test_samples_are_of_the_model_weight_and_noise_they_claim(name, w, tmp_path, request):
    """Each generation's files are samples of its checkpoint: the next one's training set and the
    strip at w, those of the metrics at 0; the strip from the noise of the initial model's."""
    files = Run(request.getfixturevalue(name), w)
    options = {"save_every": 1e9, "partial_path": tmp_path / "part", "name": "test"}
    for g in (INITIAL, 0, 1):
        ddpm = load_ddpm(files.model(g))
        for n, paths, weight, stage, source in (
            (TINY_MAIN["N_next"], files.samples(g), w, "samples", g),
            (TINY_MAIN["N_eval"], files.evaluation(g), 0, "evaluation", g),
            (stages.N_STRIP, files.strip(g), w, "strip", INITIAL),
        ):
            seeds = Seeds(0, "FullSynthetic", w, source)
            how = {"seeds": seeds, "stage": stage, **options}
            data = generate_samples(ddpm, n, weight, Sampling(max_c=30), **how)
            assert torch.equal(data.images, storage.load(paths[0])), (g, stage)


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


@pytest.mark.parametrize("stop_after", [2, 13, 27, 72, 79, 87, 93, 119])
def test_interrupted_after_any_file_it_continues_bit_for_bit(
    initial, finished, tmp_path, monkeypatch, stop_after
):
    """A run that dies after its n-th file, started again, equals an uninterrupted one: among the
    initial model's samples and metrics, and generation 0's training, samples and metrics."""
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


def test_initialmain_uses_a_model_that_is_there(initial, tmp_path, capsys):
    folder = copied(initial, tmp_path / "run", leave_out=["run_initial.json"])
    before = hashes(folder)
    initialmain(folder, Wall=[0, 0.5])
    said = capsys.readouterr().out
    assert "model_initial.pth is there" in said and "note: run_initial.json was missing" in said
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


def test_tiny_overrides_are_constants_of_the_scripts():
    for script, changes in (("initialmain.py", TINY_INITIAL), ("main.py", TINY_MAIN)):
        text = (FOLDER / script).read_text(encoding="utf-8")
        assert all(re.search(rf"^{name} = ", text, re.M) for name in changes)


def test_guided_samples_are_measured_beside_the_unguided_ones(guided):
    files = Run(guided, 1)
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
    before = files.table("metrics").read_bytes()
    files.save_metrics(files.metrics())
    assert files.table("metrics").read_bytes() == before


def test_more_reference_images_than_samples_can_be_left_out_of_prdc(initial, finished, tmp_path):
    folder = copied(initial, tmp_path / "run")
    main(folder, N_ref=100, generation_number=1)
    ours, theirs = Run(folder, 0).metrics(), Run(finished, 0).metrics()
    assert ours[0]["fid"] == theirs[0]["fid"]
    assert 0 <= ours[0]["coverage"] <= 1
    saved = storage.load(folder / "real_features.pth")
    assert saved["radii"].shape == (100,) and saved["key"]["N_ref"] == 100


def test_the_distance_to_the_training_set_is_of_what_the_generation_was_trained_on(finished):
    files = Run(finished, 0)
    lenet, rows = load_lenet(files.prmodel), {row["generation"]: row for row in files.metrics()}
    for g in (0, 1):
        samples, training = (load_images(p) for p in (files.evaluation(g), files.samples(g - 1)))
        x, y = (extract_mnist_features(part.images, lenet).double() for part in (samples, training))
        nearest = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        assert rows[g]["distance_to_training"] == pytest.approx(nearest.mean().item(), rel=1e-6)


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
