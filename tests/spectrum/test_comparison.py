"""jacobian/compare.py: its table, recomputed, and its figures."""

import csv

import numpy as np
import pytest
from made_up import a_loop
from scipy.stats import wasserstein_distance
from tiny import ROOT, constants_of

from common.run import comparable
from common.run.folder import Run
from common.spectrum import compare
from common.spectrum.checkpoint import PER_GENERATION
from common.spectrum.posterior import N_DIRECTIONS, STATISTICS

SCRIPT = ROOT / "jacobian" / "compare.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    folders = [a_loop(root / f"run{seed}", seed, n=3, shift_at=1) for seed in (1, 2)]
    compare.main(constants_of(SCRIPT, runs=folders))
    return folders


def test_the_table_holds_means_spreads_and_distances(runs):
    arrays = np.load(runs[0] / "spectra_w0.npz")
    with open(runs[0] / "compare_w0.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["generation"] for row in rows] == ["initial"] * 2 + ["0"] * 2 + ["1"] * 2 + [
        "2"
    ] * 2
    row = next(row for row in rows if row["generation"] == "2" and row["t"] == "40")
    trace = arrays["trace"][3, 1]
    assert float(row["trace"]) == pytest.approx(trace.mean())
    assert float(row["trace_sd"]) == pytest.approx(np.sqrt(((trace - trace.mean()) ** 2).sum() / 9))
    distances = [
        wasserstein_distance(*(np.log(arrays["eigenvalues"][g, 1, a]) for g in (3, 1)))
        for a in range(10)
    ]
    assert float(row["W1_to_generation_0"]) == pytest.approx(np.mean(distances))
    assert float(rows[2]["W1_to_generation_0"]) == 0


def test_every_promised_figure_is_written(runs):
    for folder in runs:
        for kind in ("eigenvalues", "densities", "sigmaJ", "statistics"):
            assert (folder / f"{kind}_w0.png").stat().st_size > 10_000
    assert (
        (runs[0] / "together_w0.png").exists()
        and (runs[0] / "overlay_w0.png").exists()
        and not (runs[1] / "overlay_w0.png").exists()
    )


def test_a_run_without_spectra_is_named_with_the_remedy(tmp_path):
    with pytest.raises(SystemExit, match=r"spectra_w0.npz is missing in .*run jacobian/spectra.py"):
        compare.main(constants_of(SCRIPT, runs=[tmp_path]))


def test_spectra_without_metrics_of_an_earlier_version_or_of_a_control_that_began_are_no_trouble(
    tmp_path, capsys
):
    """Of the two runs neither has metrics; one control has its initial model only, another lacks a
    statistic."""
    runs = [a_loop(tmp_path / f"run{seed}", seed, n=2) for seed in (1, 2)]
    for run in runs:
        (run / "metrics_w0.csv").unlink()
    for seed in (3, 4):
        path = a_loop(runs[0] / f"control_seed{seed}", seed, n=2, control=True) / "spectra_w0.npz"
        arrays = dict(np.load(path))
        if seed == 3:
            arrays = {k: v[:1] if k in PER_GENERATION else v for k, v in arrays.items()}
            np.savez(path, **{**arrays, "generations": arrays["generations"][:1]})
    path = runs[0] / "spectra_w0.npz"
    with np.load(path) as old:
        ones = {name: np.ones((3, 2, 10)) for name in STATISTICS}
        ones |= {f"tangent_variance_{k}": np.ones((3, 2, 100)) for k in N_DIRECTIONS}
        np.savez(path, **old, **ones)
    compare.main(constants_of(SCRIPT, runs=runs))
    assert (runs[0] / "overlay_w0.png").exists() and not (runs[0] / "together_w0.png").exists()


def test_several_runs_lie_over_the_controls_of_all_of_them_in_any_order(tmp_path, capsys):
    """Two of one recipe have three controls between them, one of which both have; a third run has
    controls of its own, which are nobody else's."""
    one, other, apart = (
        a_loop(tmp_path / name, seed, n=2, n_epoch=n_epoch)
        for name, seed, n_epoch in (("one", 1, 4), ("other", 2, 4), ("apart", 3, 5))
    )
    for folder, seed, n_epoch in ((one, 5, 4), (one, 6, 4), (other, 6, 4), (other, 7, 4)):
        a_loop(folder / f"control_seed{seed}", 10 + seed, n=2, control=True, n_epoch=n_epoch)
    a_loop(apart / "control_seed8", 18, n=2, control=True, n_epoch=5)
    for folders in ([one, other], [other, one]):
        runs = [Run(folder, 0) for folder in folders]
        found, left_out = comparable.controls_of_all(runs)
        assert [of.folder.name[-1] for of in found] == ["5", "6", "7"] and not left_out
        assert len(comparable.control_rows(*runs)) == 6
    for folders in ([one, apart], [apart, one]):
        compare.main(constants_of(SCRIPT, runs=folders))
        said = capsys.readouterr().out
        for seed, n_epoch in ((5, 5), (6, 5), (8, 4)):
            assert f"control_seed{seed} is not a control of all: n_epoch is {n_epoch} in" in said
        assert comparable.controls_of_all([Run(folder, 0) for folder in folders])[0] == []
