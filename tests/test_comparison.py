"""jacobian/compare.py: its table, recomputed, and its figures; jacobian/demo.py's commands."""

import ast
import csv
import re

import numpy as np
import pytest
from made_up import a_loop
from scipy.stats import wasserstein_distance
from tiny import ROOT, constants_of

from common import comparison

SCRIPT = ROOT / "jacobian" / "compare.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    folders = [a_loop(root / f"run{seed}", seed, n=3, shift_at=1) for seed in (1, 2)]
    comparison.main(constants_of(SCRIPT, runs=folders))
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
        for kind in ("eigenvalues", "densities", "sigmaJ", "vectors", "statistics"):
            assert (folder / f"{kind}_w0.png").stat().st_size > 10_000
    assert (
        (runs[0] / "together_w0.png").exists()
        and (runs[0] / "overlay_w0.png").exists()
        and not (runs[1] / "overlay_w0.png").exists()
    )


def test_a_run_without_spectra_is_named_with_the_remedy(tmp_path):
    with pytest.raises(SystemExit, match=r"spectra_w0.npz is missing in .*run jacobian/spectra.py"):
        comparison.main(constants_of(SCRIPT, runs=[tmp_path]))


def test_the_demo_runs_scripts_with_constants_they_have():
    text = (ROOT / "jacobian" / "demo.py").read_text(encoding="utf-8")
    assigned = {
        node.targets[0].id: node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
    }
    names = {"MODEL": ast.literal_eval(assigned["MODEL"])}
    steps = eval(ast.unparse(assigned["STEPS"]), names)
    folders = ast.literal_eval(assigned["FOLDER_CONSTANT"])
    assert len(steps) == len(folders) == 5
    for step, folder in zip(steps, folders, strict=True):
        script, *words = step.split()
        source = (ROOT / script).read_text(encoding="utf-8")
        for word in [*words, folder]:
            if word.startswith("--"):
                assert re.search(rf"^{word[2:]} = ", source, re.M), (script, word)
