"""jacobian/spectra.py: the same anchors for every generation and run, and a file that continues."""

import hashlib
import re

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from tiny import ROOT, constants_of, copied

from common.data import LabelledImages, fingerprint, load_real
from common.machine import storage
from common.model.ddpm import DDPM
from common.model.unet import ContextUnet
from common.run.folder import Run, load_ddpm, save_images
from common.seeds import INITIAL, Seeds
from common.spectrum import checkpoint, jacobian, measure, posterior
from common.spectrum.anchors import select

SCRIPT = ROOT / "jacobian" / "spectra.py"
OPTIONS = {"dataset": "digits", "n_anchors": 10, "timesteps": [400]}
TEST = load_real("digits", train=False)


def model(seed, n_T=20):
    """An untrained DDPM with running statistics as after training."""
    ddpm = Seeds(seed, "tests").initialised(lambda: DDPM(ContextUnet(1, 8), (1e-4, 0.5), n_T))
    generator = torch.Generator().manual_seed(seed)
    for module in ddpm.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return ddpm


def a_run(folder, generations=(INITIAL, 0)):
    for generation in generations:
        storage.save(model(generation + 1).state_dict(), Run(folder, 0).model(generation))
    return folder


def spectra_of(folder, **changes):
    measure.main(constants_of(SCRIPT, **{**OPTIONS, "run_dir": folder, **changes}))
    return measure.load(folder / "spectra_w0.npz")


@pytest.fixture
def measured_anew(monkeypatch):
    """What was measured before is not remembered."""
    monkeypatch.setattr(measure, "measure_checkpoint", checkpoint.measure_checkpoint)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = a_run(tmp_path_factory.mktemp("run"))
    return folder, spectra_of(folder)


def test_the_file_holds_what_it_promises(measured):
    folder, arrays = measured
    assert arrays["eigenvalues"].shape == (2, 1, 10, 784)
    assert arrays["eigenvalues"].dtype == np.float64
    assert arrays["trace"].shape == arrays["asymmetry"].shape == (2, 1, 10)
    assert arrays["denoising_loss"].shape == (2, 1)
    assert all(arrays[name].shape == (2, 1, 10) for name in posterior.STATISTICS)
    assert all(arrays[name].shape == (2, 1, checkpoint.N_TANGENT) for name in posterior.TANGENT)
    assert arrays["generations"].tolist() == [INITIAL, 0]
    assert arrays["t"].tolist() == [16]  # 400 of 500, at n_T = 20
    assert arrays["checkpoint_names"].tolist() == ["model_initial.pth", "model_0_w0.pth"]
    for name, sha in zip(arrays["checkpoint_names"], arrays["checkpoint_sha256"], strict=True):
        assert sha == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    schedule = np.cumprod(1 - np.linspace(1e-4, 0.5, 21))
    np.testing.assert_allclose(arrays["alphabar"], schedule[[16]], rtol=1e-5)
    np.testing.assert_allclose(arrays["sigma"], np.sqrt(1 - schedule[[16]]), rtol=1e-5)


def test_anchors_are_noised_test_images_of_every_class_with_their_own_labels(measured):
    """The spectrum computed here from scratch: test image, its label, its noise, its time."""
    folder, arrays = measured
    test = load_real("digits", train=False)
    assert sorted(arrays["anchor_labels"].tolist()) == list(range(10))
    chosen = select(TEST, 0, 10)
    for a in (0, 7):
        i = int(arrays["anchor_index"][a])
        assert arrays["anchor_labels"][a] == test.labels[i]
        ddpm = load_ddpm(folder / "model_0_w0.pth").cpu().double()
        t = 16
        eps = chosen.noise(t)[a].double()
        x_0 = test.images[i].double() / 255
        x_t = arrays["alphabar"][0] ** 0.5 * x_0 + arrays["sigma"][0] * eps  # not clean: t > 0
        c, t_ = test.labels[i : i + 1], torch.tensor([t])
        J = torch.autograd.functional.jacobian(lambda x: ddpm.eps(x, t_, c), x_t[None])  # noqa: B023
        values = torch.linalg.svdvals(J.reshape(784, 784)).square().numpy()
        stored = arrays["eigenvalues"][1, 0, a]
        np.testing.assert_allclose(stored, values, rtol=1e-3, atol=1e-6 * values[0])
        assert arrays["trace"][1, 0, a] == pytest.approx(
            float(J.reshape(784, 784).trace()), rel=1e-3, abs=1e-4
        )


def test_tangent_statistics_are_those_of_a_dense_jacobian_and_the_classes_directions(measured):
    """Of a held-out image, in float64: v^T C v from all of J, the residual from eps itself; v from
    scikit-learn's PCA of the real training images of its class."""
    folder, arrays = measured
    ddpm, t = load_ddpm(folder / "model_0_w0.pth").cpu().double(), 16
    held_out, h = select(TEST, 0, 200, skip=10), 7
    c, eps = held_out.labels[h : h + 1], held_out.noise(t)[h].double()
    real = load_real("digits")
    pixels = real.images[real.labels == c].double().flatten(1).numpy()
    v = torch.from_numpy(PCA(20, svd_solver="full").fit(pixels).components_)
    sigma = arrays["sigma"][0]
    x_t = arrays["alphabar"][0] ** 0.5 * held_out.x_0[h].double() + sigma * eps
    t_ = torch.tensor([t])
    J = torch.autograd.functional.jacobian(lambda x: ddpm.eps(x, t_, c), x_t[None])
    C = torch.eye(784) - sigma * J.reshape(784, 784)
    error = (ddpm.eps(x_t[None], t_, c)[0].detach() - eps).flatten()
    for k in (10, 20):
        variance = sum(float(v_k @ C @ v_k) for v_k in v[:k])
        assert arrays[f"tangent_variance_{k}"][1, 0, h] == pytest.approx(variance, rel=1e-3)
        residual = float((v[:k] @ error).square().sum())
        assert arrays[f"tangent_residual_{k}"][1, 0, h] == pytest.approx(residual, rel=1e-3)
    logs = np.log(arrays["tangent_variance_20"][1, 0])
    statistics = measure.statistics(arrays)
    np.testing.assert_allclose(statistics["tangent_variance_20"][1, 0], logs)
    ratio = arrays["tangent_residual_20"][1, 0].sum() / arrays["tangent_variance_20"][1, 0].sum()
    assert measure.overconfidence(arrays)["overconfidence_20"][1, 0] == pytest.approx(np.log(ratio))


def test_samples_of_the_initial_model_can_be_anchors_without_any_real_image(
    tmp_path, monkeypatch, capsys
):
    folder = a_run(tmp_path, [0])
    made = {"constants": {"dataset": "digits"}, "inputs": {"dataset": "of other images"}}
    storage.save_json(made, folder / "run_w0.json")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (230, 1, 28, 28), generator=generator, dtype=torch.uint8)
    samples = LabelledImages(images, torch.arange(230) % 10)
    save_images(samples, Run(folder, 0).evaluation(INITIAL))

    def no_real_images(*arguments, **options):
        raise AssertionError("real images were read")

    monkeypatch.setattr(measure, "load_real", no_real_images)
    changes = {**OPTIONS, "run_dir": folder, "anchors_from": "samples"}
    measure.main(constants_of(SCRIPT, **changes))
    assert "measured at samples of the initial model" in capsys.readouterr().out
    arrays = measure.load(folder / "spectra_of_samples_w0.npz")
    assert str(arrays["anchors_from"]) == "samples"
    expected = select(samples, 0, 10)
    assert arrays["anchor_index"].tolist() == expected.index.tolist()
    ddpm, t = load_ddpm(folder / "model_0_w0.pth").cpu(), 16
    x_t = arrays["alphabar"][0] ** 0.5 * expected.x_0[3] + arrays["sigma"][0] * expected.noise(t)[3]
    at = x_t[None].float(), torch.tensor([t]), expected.labels[3:4]
    J = jacobian.jacobian(ddpm.eps, *at)
    assert arrays["trace"][0, 0, 3] == pytest.approx(jacobian.trace(J)[0], rel=1e-3, abs=1e-3)


def test_a_file_of_an_earlier_version_that_measured_less_is_kept_and_made_again(
    measured, tmp_path, capsys
):
    folder = copied(measured[0], tmp_path / "run")
    arrays = measure.load(folder / "spectra_w0.npz")
    del arrays["free_directions"]
    storage.save_arrays(arrays, folder / "spectra_w0.npz")
    after = spectra_of(folder)
    assert "kept as spectra_w0_earlier.npz, all checkpoints" in capsys.readouterr().out
    np.testing.assert_array_equal(after["free_directions"], measured[1]["free_directions"])
    assert "free_directions" not in measure.load(folder / "spectra_w0_earlier.npz")


def test_noise_depends_on_image_and_time_and_on_nothing_else():
    few, many = select(TEST, 0, 10), select(TEST, 0, 20)
    assert torch.equal(few.index, many.index[:10])
    assert torch.equal(few.noise(5), many.noise(5)[:10])
    assert not torch.equal(few.noise(5), few.noise(6))
    assert not torch.equal(few.noise(5)[0], few.noise(5)[1])
    other = select(TEST, 1, 10)
    assert not torch.equal(few.index, other.index)
    held_out = select(TEST, 0, 200, skip=10)
    assert not set(held_out.index.tolist()) & set(few.index.tolist())


def test_stopping_and_continuing_gives_the_same_file(
    measured, measured_anew, tmp_path, monkeypatch
):
    folder, _ = measured
    stopped = a_run(tmp_path)
    original, calls = jacobian.jacobian, []

    def stops_in_the_second_generation(*arguments):
        calls.append(1)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(jacobian, "jacobian", stops_in_the_second_generation)
    with pytest.raises(SystemExit):
        spectra_of(stopped)
    assert measure.load(stopped / "spectra_w0.npz")["generations"].tolist() == [INITIAL]
    spectra_of(stopped)
    assert len(calls) == 15 + 10  # the first generation's 10 Jacobians were not repeated
    assert storage.sha256(stopped / "spectra_w0.npz") == storage.sha256(folder / "spectra_w0.npz")


def test_results_do_not_depend_on_other_generations(measured, measured_anew, tmp_path):
    _, arrays = measured
    alone = spectra_of(a_run(tmp_path, [0]))
    for name in checkpoint.PER_GENERATION:
        np.testing.assert_array_equal(alone[name][0], arrays[name][1])


def test_a_changed_checkpoint_is_measured_again_and_the_others_are_not(measured, tmp_path, capsys):
    folder = copied(measured[0], tmp_path / "run")
    storage.save(model(9).state_dict(), folder / "model_0_w0.pth")
    after = spectra_of(folder)
    assert "1 of 2 checkpoints measured" in capsys.readouterr().out
    np.testing.assert_array_equal(measured[1]["eigenvalues"][0], after["eigenvalues"][0])
    assert not np.allclose(measured[1]["eigenvalues"][1], after["eigenvalues"][1])


def test_nothing_left_to_measure_is_said(measured, capsys):
    spectra_of(measured[0])
    assert "nothing to measure: all 2 checkpoints were measured before" in capsys.readouterr().out


def test_the_dataset_is_that_of_the_runs_record(tmp_path, capsys):
    """And is kept in the file, with the seed and the number of images of the denoising loss."""
    folder = a_run(tmp_path, [0])
    made = {
        "constants": {"dataset": "digits"},
        "inputs": {"dataset": fingerprint(load_real("digits"))},
    }
    storage.save_json(made, folder / "run_w0.json")
    arrays = spectra_of(folder, dataset="mnist")
    expected = select(TEST, 0, 10).index.tolist()
    assert arrays["anchor_index"].tolist() == expected
    assert (str(arrays["dataset"]), int(arrays["seed"]), int(arrays["n_held_out"])) == (
        "digits",
        0,
        200,
    )
    printed = capsys.readouterr().out
    assert "all 1 checkpoints measured at test images of digits" in printed


def test_too_many_anchors_are_named_as_given(tmp_path):
    message = r"n_anchors = 100 and 200 images for the denoising loss: 300 images are needed"
    with pytest.raises(SystemExit, match=message):
        spectra_of(a_run(tmp_path, [0]), n_anchors=100)


def test_a_file_of_before_the_dataset_was_kept_continues(measured, tmp_path):
    folder = copied(measured[0], tmp_path / "run")
    arrays = measure.load(folder / "spectra_w0.npz")
    for name in ("dataset", "n_held_out"):
        del arrays[name]
    storage.save_arrays(arrays, folder / "spectra_w0.npz")
    storage.save(model(9).state_dict(), folder / "model_1_w0.pth")
    after = spectra_of(folder)
    assert after["generations"].tolist() == [INITIAL, 0, 1] and str(after["dataset"]) == "digits"
    np.testing.assert_array_equal(after["eigenvalues"][:2], arrays["eigenvalues"])


def test_other_anchors_in_the_same_file_are_refused(measured):
    folder, _ = measured
    with pytest.raises(SystemExit, match=r"spectra_w0.npz has other anchor_index"):
        spectra_of(folder, seed=1)


def test_other_images_in_the_same_places_are_refused(tmp_path, monkeypatch):
    """A dataset of one's own whose test part is another file now."""
    a_run(tmp_path, [0])
    spectra_of(tmp_path)
    real = measure.load_real

    def inverted(dataset, train=True):
        found = real(dataset, train)
        return found if train else LabelledImages(255 - found.images, found.labels)

    monkeypatch.setattr(measure, "load_real", inverted)
    with pytest.raises(SystemExit, match=r"spectra_w0.npz has other images_sha256"):
        spectra_of(tmp_path)


def test_a_folder_made_by_other_code_is_enough(tmp_path):
    """Checkpoints alone, of another n_feat and n_T, without records; read from their shapes."""
    ddpm = DDPM(ContextUnet(1, 16), (1e-4, 0.02), 500)
    torch.save(ddpm.state_dict(), tmp_path / "model_0_w0.25.pth")
    assert measure.checkpoints(tmp_path, 0.25) == {0: tmp_path / "model_0_w0.25.pth"}
    measure.main(
        constants_of(SCRIPT, **{**OPTIONS, "timesteps": [250], "w": 0.25}, run_dir=tmp_path)
    )
    assert measure.load(tmp_path / "spectra_w0.25.npz")["t"].tolist() == [250]


def test_a_checkpoint_of_another_schedule_is_refused(tmp_path):
    a_run(tmp_path, [0])
    storage.save(DDPM(ContextUnet(1, 8), (1e-4, 0.2), 20).state_dict(), Run(tmp_path, 0).model(1))
    with pytest.raises(SystemExit, match=r"model_1_w0.pth has another schedule"):
        spectra_of(tmp_path)


def test_timesteps_are_scaled_and_may_not_fall_together():
    assert measure.scaled([50, 100, 250, 400], 500) == [50, 100, 250, 400]
    assert measure.scaled([50, 100, 250, 400], 50) == [5, 10, 25, 40]
    with pytest.raises(measure.UserError, match="fall together"):
        measure.scaled([50, 51], 100)
    with pytest.raises(measure.UserError, match=r"timesteps = \[100, 800\] are of n_T = 500"):
        measure.scaled([100, 800], 1000)


def test_missing_checkpoints_are_named(tmp_path):
    with pytest.raises(SystemExit, match=re.escape(f"no model_0_w0.pth in {tmp_path}")):
        spectra_of(tmp_path)
