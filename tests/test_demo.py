"""jacobian/demo.py: its commands, its figure and what it says."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from drawn import check
from tiny import ROOT, constants_of, copied, main, spectra

from common import settings
from common.detect import summary
from common.run.folder import Run
from common.spectrum import measure


@pytest.fixture
def demo():
    spec = importlib.util.spec_from_file_location("demo", ROOT / "jacobian" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_gives_its_scripts_constants_that_they_take(demo, monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(demo, "run", lambda command, label=None: commands.append(command))
    monkeypatch.setattr(demo.summary, "save", lambda *arguments: ("summary.png", "said"))
    demo.main()
    assert "said" in capsys.readouterr().out and len(commands) == 10
    folders = set()
    for command in commands:
        script, *words = command.split()
        values = vars(constants_of(ROOT / script))
        namespace = {**values, "__file__": str(ROOT / script)}
        del namespace["script"]
        found = vars(settings.from_script(namespace, words))
        written = [found.get(name) for name in ("save_dir", "run_dir")]
        folders |= {*filter(None, written), *found.get("save_dirs", []), *found.get("runs", [])}
    home = ROOT / "jacobian" / "demo"
    assert folders == {home, home / "control_seed1", home / "control_seed2"}


def test_help_does_not_start_it():
    done = subprocess.run(
        [sys.executable, str(ROOT / "jacobian" / "demo.py"), "--help"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0 and "jacobian/demo/summary.png" in done.stdout
    assert "$ python" not in done.stdout


def test_a_command_that_fails_ends_it(demo, capfd):
    with pytest.raises(SystemExit, match="detect.py --w x ended with status 2: see above"):
        demo.run("jacobian/detect.py --w x", "[loop] ")
    assert "[loop] " in capfd.readouterr().out


def test_its_figure_and_sentences_are_of_what_the_files_hold(finished, tmp_path, monkeypatch):
    folder, drawn = copied(finished, tmp_path / "run"), []
    controls = [folder / f"control_seed{seed}" for seed in (1, 2)]
    for seed in (1, 2):
        main(folder, control=True, seed=seed, generation_number=1)
    for each in (folder, *controls):
        spectra(each)
    monkeypatch.setattr(summary.storage, "save_figure", lambda *given: drawn.append(given))
    path, said = summary.save(folder, controls)
    ((figure, to),) = drawn
    check(figure)
    assert to == path == folder / "summary.png"
    rows, real = Run(folder, 0).metrics(), [Run(of, 0).metrics()[1] for of in controls]
    for key, digits in (("fid", 0), ("recall", 2)):
        first, last = (f"{row[key]:.{digits}f}" for row in (rows[0], rows[-1]))
        assert f"from {first} to {last}" in said
        low, high = sorted(row[key] for row in real)
        assert f"{low:.{digits}f} to {high:.{digits}f}" in said
    assert "In 2 generations" in said and "; 2 models that were trained on real images" in said

    def smallest(of, g):  # of sigma J, rank by rank, mean over anchors
        arrays = measure.load(of / "spectra_w0.npz")
        values = np.sqrt(arrays["eigenvalues"][g + 1, 0]).mean(0) * arrays["sigma"][0]
        return np.sort(values)[: summary.FREE_END]

    usual = np.sqrt(smallest(controls[0], 0) * smallest(controls[1], 0))
    axes = next(axes for axes in figure.axes if axes.get_ylabel() == "ratio to control models")
    for g, line in zip((-1, 0, 1), axes.lines, strict=True):
        np.testing.assert_allclose(line.get_ydata(), smallest(folder, g) / usual, rtol=1e-6)
