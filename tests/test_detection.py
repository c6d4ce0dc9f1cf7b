"""jacobian/detect.py: streams aligned to their models, and verdicts computed from them."""

import json

import numpy as np
import pytest
from tiny import ROOT, constants_of

from common import detection, streams
from common.errors import UserError
from common.run import Run
from common.seeds import INITIAL

SCRIPT = ROOT / "jacobian" / "detect.py"
D, A, TIMES = 20, 10, [10, 40]


def a_loop(folder, seed, n=10, shift_at=None, fid_at=None, shift=0.5, rows_from=0):
    """A run's files with spectra and metrics that are noise around constants, until the spectrum
    changes at generation shift_at and FID at fid_at. rows_from = 1 moves the metrics by one."""
    rng = np.random.default_rng(seed)
    generations = np.arange(-1, n)
    scale = np.ones(n + 1)
    if shift_at is not None:
        scale[generations >= shift_at] = 1 + shift
    base = np.exp(-np.arange(D) / 5 * scale[:, None, None, None])
    eigenvalues = base * np.exp(0.02 * rng.standard_normal((n + 1, 2, A, D)))
    hashes = np.array([f"{seed:04d}{g + 1:04d}".ljust(64, "0") for g in generations])
    folder.mkdir()
    noise = 1 + 0.02 * rng.standard_normal((5, n + 1))
    np.savez(
        folder / "spectra_w0.npz",
        eigenvalues=-np.sort(-eigenvalues, axis=-1),
        trace=np.sqrt(eigenvalues).sum(-1),
        asymmetry=0.1 * (1 + 0.02 * rng.standard_normal((n + 1, 2, A))),
        leading_vectors=rng.standard_normal((n + 1, 2, A, 3, 784)),
        denoising_loss=0.05 * (1 + 0.02 * rng.standard_normal((n + 1, 2))),
        generations=generations,
        checkpoint_sha256=hashes,
        t=np.array(TIMES),
        n_T=np.array(50),
        sigma=np.array([0.3, 0.8]),
        alphabar=np.array([0.9, 0.3]),
        anchor_index=np.arange(A),
        anchor_labels=np.arange(A) % 10,
    )
    fid = 20 * noise[0]
    if fid_at is not None:
        fid[generations >= fid_at] *= 2
    rows = [
        {
            "generation": int(g),
            "model": hashes[(i + rows_from) % len(hashes)][:16],
            "N_eval": 100,
            "fid": fid[i],
            "precision": 0.8 * noise[1][i],
            "recall": 0.7 * noise[2][i],
            "density": 0.6 * noise[3][i],
            "coverage": 0.5 * noise[4][i],
        }
        for i, g in enumerate(generations)
    ]
    Run(folder, 0).save_metrics(rows)
    return folder


@pytest.fixture(scope="module")
def controls(tmp_path_factory):
    root = tmp_path_factory.mktemp("controls")
    return [a_loop(root / f"control{seed}", seed) for seed in range(6)]


def detect(runs, controls=(), **changes):
    detection.main(constants_of(SCRIPT, runs=runs, controls=list(controls), **changes))
    return json.loads((runs[0] / "onset_w0.json").read_text(encoding="utf-8"))


def test_a_lead_that_is_built_in_is_found(controls, tmp_path, capsys):
    runs = [a_loop(tmp_path / f"run{s}", 100 + s, shift_at=3, fid_at=6) for s in range(3)]
    result = detect(runs, controls)
    assert result["calibrated"] and result["primary"] == "posterior_variance t=10"
    for judged in result["runs"]:
        assert judged["onsets"]["posterior_variance t=10"] == 3
        assert judged["onsets"]["effective_rank t=40"] == 3
        assert judged["onsets"]["fid"] == 6
        assert judged["onsets"]["recall"] is None
        assert judged["lead"] == {"value": 3, "censored": "none"}
    assert result["leads"]["median_low"] == result["leads"]["median_high"] == 3
    assert result["leads"]["p_value"] == pytest.approx(0.25)  # three of three: 2 * (1/2)^3
    printed = capsys.readouterr().out
    assert "leads by 3 generations" in printed and "(primary)" in printed
    assert (runs[0] / "onset_w0.png").stat().st_size > 10_000


def test_no_change_has_no_onset_and_the_verdict_says_so(controls, tmp_path):
    result = detect([a_loop(tmp_path / "run", 55)], controls)
    assert not any(onset is not None for onset in result["runs"][0]["onsets"].values())
    assert "no alarm in either" in result["verdict"]


def test_censored_leads_are_bounds(controls, tmp_path):
    result = detect([a_loop(tmp_path / "run", 56, shift_at=4)], controls)
    assert result["runs"][0]["lead"]["censored"] == "right"
    assert "leads by at least 6 generations" in result["verdict"]
    result = detect([a_loop(tmp_path / "other", 57, fid_at=2)], controls)
    assert result["runs"][0]["lead"]["censored"] == "left"
    assert "lags by at least 8 generations" in result["verdict"]


def test_few_controls_certify_little_and_the_verdict_says_how_little(controls, tmp_path):
    result = detect([a_loop(tmp_path / "run", 58)], controls[:5])
    assert result["certified_rate"] == pytest.approx(1 - 0.05 ** (1 / 5))
    assert "at most 45%" in result["verdict"]


def test_without_controls_nothing_is_claimed(tmp_path):
    result = detect([a_loop(tmp_path / "run", 59, shift_at=3, fid_at=6)])
    assert not result["calibrated"] and "onsets" not in result["runs"][0]
    assert result["verdict"].startswith("uncalibrated")


def test_streams_shifted_by_one_generation_are_caught(controls, tmp_path):
    shifted = a_loop(tmp_path / "run", 60, rows_from=1)
    with pytest.raises(UserError, match="generation 0 .*measured on different models"):
        streams.load(shifted, 0)
    with pytest.raises(SystemExit, match="measured on different models"):
        detect([shifted], controls)


def test_streams_are_those_of_their_generation(tmp_path):
    folder = a_loop(tmp_path / "run", 61, shift_at=3, fid_at=6)
    loop = streams.load(folder, 0)
    rows = Run(folder, 0).metrics()
    assert rows[0]["generation"] == INITIAL and loop.generations.tolist() == list(range(10))
    np.testing.assert_allclose(np.exp(loop.of("fid")), [row["fid"] for row in rows[1:]])
    arrays = np.load(folder / "spectra_w0.npz")
    p = np.sqrt(arrays["eigenvalues"][4, 1]) / np.sqrt(arrays["eigenvalues"][4, 1]).sum(
        -1, keepdims=True
    )
    rank = np.exp(-(p * np.log(p)).sum(-1)).mean()  # generation 3, t = 40, written out
    assert loop.of("effective_rank t=40")[3] == pytest.approx(rank)


def test_one_control_loop_is_too_few(controls, tmp_path):
    with pytest.raises(SystemExit, match="one control loop cannot be calibrated"):
        detect([a_loop(tmp_path / "run", 62)], controls[:1])


def test_missing_generations_are_named(tmp_path):
    folder = a_loop(tmp_path / "run", 63)
    Run(folder, 0).save_metrics(Run(folder, 0).metrics()[:-2])
    with pytest.raises(UserError, match="run jacobian/spectra.py with generations"):
        streams.load(folder, 0)
