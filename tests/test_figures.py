"""Figures: what they draw, against the numbers; and that each can be read."""

import numpy as np
import pytest
import torch
from drawn import check
from made_up import a_loop
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from common.data import LabelledImages, load_real
from common.machine import storage
from common.run import comparable, embedding, plots, style
from common.run.folder import Run
from common.seeds import INITIAL
from common.spectrum import checkpoint, compare, figures, measure

FLOOR = {"real": "training images against 750 others", "N": "750", "fid": "2", "density": "1"}
FLOOR |= dict.fromkeys(("precision", "recall", "coverage"), "0.9")
LONG = "AugmentedSynthetic control, w = 0.25"


def made_rows(n, **changes):
    """The rows of the initial model and n generations; changes: {metric: values by generation}."""
    rows = []
    for g in range(-1, n):
        row = {"generation": g, "fid": 20 + 5.0 * g, "density": 1.1 - 0.01 * g}
        row |= {name: 0.9 - 0.02 * g for name in ("precision", "recall", "coverage")}
        rows.append(row | {name: values[g + 1] for name, values in changes.items()})
    return rows


@pytest.fixture(scope="module")
def digits():
    return load_real("digits")


# t-SNE


def test_real_points_keep_their_places_whatever_is_embedded_with_them(digits):
    order = np.random.default_rng(0).permutation(len(digits.images))
    real, *others = (digits.images[order[i : i + 200]].numpy() for i in (0, 200, 400))
    others[1] = others[1][:150]
    (one, first, alone), (two, _, again) = (embedding.embed(real, other, 3) for other in others)
    np.testing.assert_array_equal(alone, again)
    spread = np.square(alone - alone.mean(0)).sum(1).mean() ** 0.5
    for here, there in ((one, alone), (two, alone), (one, two)):
        assert np.median(np.linalg.norm(here - there, axis=1)) < 0.2 * spread
    pixels = np.concatenate([real, others[0]]).reshape(400, -1) / 255
    fitted_anew = TSNE(random_state=3).fit_transform(pixels)[:200]
    assert embedding.moved(fitted_anew, alone) > 3 * embedding.moved(one, alone)
    assert len(first) == 200 and np.isfinite(first).all()
    embedding._alone.cache_clear()  # as in another process
    np.testing.assert_array_equal(embedding.embed(real, others[0], 3)[0], one)


def test_a_copy_of_a_real_image_lies_beside_it(digits):
    real = digits.images[:200].numpy()
    behind, front, alone = embedding.embed(real, real[::2], 0)
    spread = np.square(alone - alone.mean(0)).sum(1).mean() ** 0.5
    assert np.median(np.linalg.norm(front - behind[::2], axis=1)) < 0.05 * spread


def test_the_move_of_real_points_is_in_units_of_their_spread():
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=float)  # spread: sqrt 2
    assert embedding.moved(corners + [3, 4], corners) == pytest.approx(5 / 2**0.5)
    far = corners + [[0, 0], [0, 0], [0, 0], [99, 0]]
    assert embedding.moved(far, corners) == 0  # a median


@pytest.mark.parametrize("n", [6, 40])
def test_a_frame_says_how_far_real_points_moved_and_names_the_classes(digits, n):
    figure = plots.tsne(digits.images[50 : 50 + n], digits.subset(slice(n)), 0, f"{LONG}, initial")
    texts = check(figure)
    assert any(text.startswith("real points are") for text in texts)
    assert {str(c) for c in digits.labels[:n].tolist()} <= set(texts)


# Axes


@pytest.mark.parametrize("n", [1, 4, 12, 20, 150])
@pytest.mark.parametrize("width", [1.2, style.ONE, style.TWO])
def test_ticks_are_generations_that_have_room_and_begin_with_the_initial_model(n, width):
    figure = Figure(figsize=(width, 1.5), layout="constrained")
    style.generation_axis(figure.subplots(), range(INITIAL, n))
    texts = [text for text in check(figure) if text != "generation"]
    names = [text for text in texts if "." not in text]
    assert names[0] == "initial" and all(0 <= int(name) < n for name in names[1:])
    assert len(names) > 1 and "-1" not in texts and "−1" not in texts


def test_fid_starts_at_zero_or_says_that_its_axis_is_logarithmic():
    (axes,) = plots.fid(made_rows(4), LONG, FLOOR).axes
    assert axes.get_ylim()[0] == 0 and axes.get_yscale() == "linear"
    rows = made_rows(4, fid=[1, 10, 20, 99, 101])
    (axes,) = plots.fid(rows, LONG, FLOOR).axes
    assert axes.get_yscale() == "log" and "log axis" in axes.get_ylabel()


def test_floor_and_controls_are_drawn_where_they_are():
    controls = [{"fid": value, "recall": 0.8} for value in (12.0, 30.0, np.nan)]
    (axes,) = plots.fid(made_rows(4), LONG, FLOOR, controls).axes
    (band,) = axes.patches
    assert (band.get_y(), band.get_height()) == (12, 18)
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["750 real images (best possible)"].get_ydata() == [2, 2]
    np.testing.assert_array_equal(lines["samples"].get_ydata(), [15, 20, 25, 30, 35])
    assert not plots.fid(made_rows(4), LONG, FLOOR).axes[0].patches


def test_what_is_not_finite_is_marked():
    rows = made_rows(3, fid=[20, np.nan, np.inf, 40])
    (axes,) = plots.fid(rows, LONG, FLOOR).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["no number"].get_xdata().tolist() == [0, 1]
    np.testing.assert_array_equal(lines["samples"].get_ydata(), [20, np.nan, np.nan, 40])
    assert axes.get_ylim()[1] < 50


STATES = {
    "only the initial model": made_rows(0),
    "one": made_rows(1),
    "twenty": made_rows(20),
    "huge": made_rows(20, fid=10.0 ** np.arange(21), density=10.0 ** np.arange(21)),
    "tiny": made_rows(4, fid=[1e-12] * 5, density=[0] * 5, recall=[1e-9] * 5),
    "no number": made_rows(2, fid=[np.nan] * 3, recall=[np.nan, 0.1, np.inf]),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("controls", [(), ({"fid": 1e-3, "recall": 0.5}, {"fid": 40})])
def test_figures_of_metrics_can_be_read_in_every_state(state, controls):
    rows = STATES[state]
    texts = check(plots.fid(rows, LONG, FLOOR, controls))
    assert any("AugmentedSynthetic" in text for text in texts) and "initial" in texts
    check(plots.prdc(rows, LONG, FLOOR, controls))
    check(plots.together({f"w = {w}": rows for w in range(8)}, LONG, controls, FLOOR))
    losses = {row["generation"]: [0.2 / (e + 1) for e in range(len(rows))] for row in rows}
    texts = check(plots.losses(losses, LONG))
    assert "initial" in texts and "training loss (log axis)" in texts


@pytest.mark.parametrize(("n", "columns"), [(1, 30), (21, 30), (3, 10)])
def test_strips_have_a_row_per_generation_and_its_name(digits, n, columns):
    data = digits.subset(slice(columns))
    figure = plots.strips({g: data for g in range(-1, n)}, LONG)
    assert {"initial", *map(str, range(n)), *map(str, range(10))} <= set(check(figure))
    (picture,) = figure.axes[0].images
    assert picture.get_array().shape == (28 * (n + 1), 28 * columns)


def test_the_grid_has_a_column_per_class():
    images = torch.arange(20, dtype=torch.uint8).reshape(20, 1, 1, 1).expand(-1, 1, 28, 28)
    figure = plots.sample_grid(*LabelledImages(images, torch.arange(20) % 10), LONG)
    picture = figure.axes[0].images[0].get_array()
    assert picture[0, ::28].tolist() == list(range(10)) and picture[28, 28] == 11
    assert picture[56:].max() == 0 and "class asked for" in check(figure)


# Spectra


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A loop with two controls beside it, a third without spectra and one at another anchor."""
    folder = a_loop(tmp_path_factory.mktemp("runs") / "run", 1, n=3, shift_at=1)
    for seed in range(4):
        beside = a_loop(folder / f"control_seed{seed}", 10 + seed, n=2, control=True)
    (folder / "control_seed2" / "spectra_w0.npz").unlink()
    other = dict(np.load(beside / "spectra_w0.npz"))
    np.savez(beside / "spectra_w0.npz", **other | {"anchor_index": other["anchor_index"] + 1})
    return folder


@pytest.fixture(scope="module")
def spectra(run):
    """Arrays and statistics of the run, and those of its controls."""
    arrays = measure.load(run / "spectra_w0.npz")
    return (
        arrays,
        measure.statistics(arrays),
        compare._spectra_of(comparable.controls_beside(Run(run, 0))[0], arrays),
    )


def test_controls_are_those_with_spectra_at_the_same_anchors_without_their_initial_model(spectra):
    arrays, _, controls = spectra
    assert [of["generations"].tolist() for of, _ in controls] == [[0, 1]] * 2
    assert all(of["eigenvalues"].shape[0] == 2 for of, _ in controls)
    assert all(found["effective_rank"].shape == (2, 2, 10) for _, found in controls)


def test_all_eigenvalues_are_drawn_with_the_ideal_and_what_controls_span(spectra):
    arrays, _, controls = spectra
    beside = [of for of, _ in controls]
    figure = figures.eigenvalue_curves(arrays, LONG, beside)
    axes = figure.axes[1]
    ideal, *curves = axes.lines
    assert ideal.get_ydata() == pytest.approx([arrays["sigma"][1] ** -2] * 2)
    expected = np.exp(np.log(arrays["eigenvalues"][3, 1]).mean(axis=0))
    drawn = dict(zip(*curves[3].get_data(), strict=True))
    assert [drawn[rank] for rank in range(20, 0, -1)] == pytest.approx(expected)
    logs = [np.log(of["eigenvalues"][:, 1]).mean(axis=1) for of in beside]
    smallest = np.exp(np.concatenate(logs)[:, -1])
    (band,) = axes.collections
    at_first = band.get_paths()[0].vertices
    at_first = at_first[at_first[:, 0] == 1][:, 1]
    assert (min(at_first), max(at_first)) == pytest.approx((min(smallest), max(smallest)))
    assert "4 control models" in check(figure)


def test_singular_values_are_drawn_from_zero_with_the_ideal_1(spectra):
    arrays, _, _ = spectra
    axes = figures.sigma_J(arrays, LONG).axes[0]
    ideal, *curves = axes.lines
    assert ideal.get_ydata() == [1, 1] and axes.get_ylim()[0] == 0
    expected = (np.sqrt(arrays["eigenvalues"][2, 0]) * arrays["sigma"][0]).mean(axis=0)
    assert curves[2].get_ydata() == pytest.approx(expected[::-1])


def test_one_timestep_and_controls_fit_into_one_column(spectra):
    arrays, _, controls = spectra
    alone, beside = {**arrays, "t": arrays["t"][:1]}, [of for of, _ in controls]
    for draw in (figures.eigenvalue_curves, figures.sigma_J):
        check(draw(alone, LONG, beside))


def test_a_change_of_1_per_cent_is_drawn_as_1_per_cent(spectra):
    arrays, found, _ = spectra
    flat = {name: np.ones_like(values) for name, values in found.items()}
    for values in flat.values():
        values[2:] = 1.01
    figure = figures.statistics({"run": (arrays, flat)}, LONG)
    panels = {axes.get_title(): axes for axes in figure.axes}
    rank, energy = panels["effective rank exp H(s/Σs)"], panels["log energy log(σ²‖J‖²/D)"]
    assert rank.lines[0].get_ydata() == pytest.approx([0, 0, 1, 1])
    assert energy.lines[0].get_ydata() == pytest.approx([0, 0, *[100 * np.expm1(0.01)] * 2])
    assert rank.get_ylim() == pytest.approx((-5.5, 5.5))


def test_statistics_are_drawn_once_each_against_what_controls_span(spectra):
    arrays, found, controls = spectra
    figure = figures.statistics({"run": (arrays, found)}, LONG, controls)
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == len(set(titles)) == 6  # of those that a made-up run has
    axes = figure.axes[1]
    null = np.concatenate([of["effective_rank"][:, 1].mean(axis=1) for _, of in controls])
    span = 100 * (null / null.mean() - 1)
    band = axes.patches[1]
    ends = band.get_y(), band.get_y() + band.get_height()
    assert ends == pytest.approx((span.min(), span.max()))


def of_generations(arrays, n):
    """The same arrays with n generations after the initial one."""
    index = np.minimum(np.arange(n + 1), len(arrays["generations"]) - 1)
    made = {k: v[index] if k in checkpoint.PER_GENERATION else v for k, v in arrays.items()}
    return {**made, "generations": np.arange(-1, n)}


@pytest.mark.parametrize("n", [1, 20])
@pytest.mark.parametrize("scale", [1e-12, 1, 1e12])
def test_figures_of_spectra_can_be_read_in_every_state(spectra, n, scale):
    arrays = of_generations(spectra[0], n)
    arrays["eigenvalues"] = arrays["eigenvalues"].copy()
    arrays["eigenvalues"][-1] *= scale
    beside = [of for of, _ in spectra[2]]
    check(figures.eigenvalue_curves(arrays, LONG, beside))
    check(figures.sigma_J(arrays, LONG, beside))
    check(figures.densities(arrays, LONG))
    found = measure.statistics(arrays)
    for controls in ((), spectra[2]):
        check(figures.statistics({"run": (arrays, found)}, LONG, controls))
    found["effective_rank"] = np.full_like(found["effective_rank"], np.nan)
    runs = {name: (arrays, found) for name in ("FullSynthetic/t500", "control_seed1", "Fresh/w0")}
    check(figures.statistics(runs, ""))


# Files


def test_a_figure_is_the_same_bytes_again_as_png_and_pdf_without_dates(tmp_path):
    for name in ("a.png", "b.png"):
        storage.save_figure(plots.fid(made_rows(3), LONG, FLOOR), tmp_path / name)
    for suffix in (".png", ".pdf"):
        one, other = ((tmp_path / name).with_suffix(suffix).read_bytes() for name in "ab")
        assert one == other and b"Date" not in one and b"atplotlib" not in one[-600:]
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_a_removed_figure_leaves_no_pdf(tmp_path):
    path = Run(tmp_path, 0.25).figure("tsne", 1)
    storage.save_figure(plots.fid(made_rows(1), LONG, FLOOR), path)
    assert path.with_suffix(".pdf").exists()
    storage.delete(path)
    assert not any(file.is_file() for file in tmp_path.rglob("*"))


def test_control_rows_are_those_beside_the_run_without_initial_models(run):
    assert [row["generation"] for row in comparable.control_rows(Run(run, 0))] == [0, 1] * 4
