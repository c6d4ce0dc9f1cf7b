"""common/study/claims.py: what loops show of the MAD paper's claims, computed by hand."""

import numpy as np
import pytest
from made_up_study import PRIMARY, STREAMS, a_study, a_unit, record

from common.machine import storage
from common.machine.errors import Refusal
from common.study import arms, claims, files, report

G = 2
T_2, T_4 = 4.302653, 2.776445  # the 97.5 % points of Student's t with 2 and 4 degrees of freedom


def a_loop(folder, arm, seed, recall, precision=0.8, fid=1.0, middle=0.5, guided=False):
    """A unit whose recall is 0.8, then middle and `recall`, precision 0.8 and then `precision`, log
    FID 0 and then `fid`; guided: of the guided samples, the others stay as they were."""
    streams = {name: STREAMS[name] for name in ("log FID", "precision", "recall")}
    first, last = np.array([0, 0.8, 0.8]), np.array([fid, precision, recall])
    values = np.stack([first, np.array([0.5, 0.8, middle]), last])
    w = {"provenance": {**record(arm, seed)["provenance"], "w": arms.ARMS[arm].w}}
    if guided:
        w["guided"] = dict(zip(streams, values.T, strict=True))
        values = np.stack([first] * 3)
    a_unit(folder, arm, seed, values[1:], streams, initial=first, **w)


def found(folder, horizon=G):
    loops, _ = files.load(folder, "test")
    return {row["claim"]: row for row in claims.rows(loops, horizon)}


@pytest.fixture
def folder(tmp_path):
    """Three loops at w = 0, of which recall loses 0.5, 0.6 and 0.7, and three at w = 1."""
    for i, seed in enumerate((5, 6, 7)):
        a_loop(tmp_path, "full", seed, 0.4 - 0.08 * i, precision=0.72 + 0.08 * i, fid=-1 - 0.1 * i)
        a_loop(tmp_path, "full_w1", seed, 0.16 - 0.08 * i, precision=0.9, guided=True)
    return tmp_path


def test_a_claim_holds_does_not_or_cannot_be_told(folder):
    rows, half = found(folder), 0.1 * T_2 / 3**0.5
    recall = rows["w = 0: recall falls"]
    assert [recall[key] for key in ("change", "low", "high")] == pytest.approx(
        [-0.6, -0.6 - half, -0.6 + half]
    )
    assert (recall["verdict"], recall["loops"], recall["since"]) == ("holds", 3, "initial")
    precision = rows["w = 0: precision falls"]  # by -0.1, 0 and 0.1
    assert precision["low"] == pytest.approx(-half) and precision["high"] == pytest.approx(half)
    assert precision["verdict"] == "not at this scale"
    fid = rows["w = 0: FID rises"]  # the logarithm, not a fraction of it, falls
    assert fid["change"] == pytest.approx(-1.1) and fid["verdict"] == "does not"


def test_two_arms_are_compared_by_welch_and_guided_samples_are_used(folder):
    row, error = found(folder)["w = 1: recall falls faster than at w = 0"], (2 * 0.01 / 3) ** 0.5
    assert [row[key] for key in ("change", "low", "high")] == pytest.approx(
        [-0.3, -0.3 - T_4 * error, -0.3 + T_4 * error]
    )
    assert (row["loops"], row["loops_against"], row["verdict"]) == (3, 3, "holds")


def test_a_claim_about_later_generations_begins_there(tmp_path):
    for seed, middle in enumerate((0.4, 0.5, 0.625)):  # log FID rises from 0.5 to 0.6
        a_loop(tmp_path, "dose50", seed, 0.5, fid=0.6 + 0.01 * seed, middle=middle)
        a_loop(tmp_path, "augmented", seed, 0.25, fid=0.9 + 0.01 * seed, middle=middle)
    rows = found(tmp_path)
    stop = rows["w = 0: fresh real data stop the rise of FID"]
    assert stop["change"] == pytest.approx(0.11) and stop["verdict"] == "does not"
    less = rows["w = 0: recall falls less with fresh data"]  # 0.25, 0, -0.2, less half of the last
    assert less["change"] == pytest.approx(np.mean([1.25, 1, 0.8]) / 2) and less["since"] == 0
    assert rows["w = 0: FID rises less with fresh data"]["verdict"] == "holds"


@pytest.mark.parametrize("last", [0, 0.1])
def test_a_fall_from_nothing_is_not_defined(tmp_path, last):
    for seed in range(3):
        for arm in ("dose50", "augmented"):
            a_loop(tmp_path, arm, seed, last, middle=0)
    assert found(tmp_path)["w = 0: recall falls less with fresh data"]["verdict"] == "not defined"


def test_two_loops_or_none_are_too_few(folder):
    (folder / "full_seed7.npz").unlink()
    rows = found(folder)
    assert rows["w = 0: recall falls"]["change"] == pytest.approx(-0.55)
    for claim in ("w = 0: recall falls", "w = 1: recall falls faster than at w = 0"):
        assert rows[claim]["verdict"] == "not at this scale" and np.isnan(rows[claim]["low"])
    none = rows["w = 1: fresh real data stop the rise of FID"]
    assert none["loops"] == 0 and none["change"] is None and none["verdict"] == "not run"


def test_arms_with_other_numbers_of_guided_samples_are_not_compared(tmp_path):
    for seed, (arm, n) in enumerate([("full_w1", 1000), ("augmented_w1", 500)] * 3):
        a_loop(tmp_path, arm, seed, 0.1 * seed, guided=True)
        path = tmp_path / f"{arm}_seed{seed}.npz"
        arrays = {**storage.load_arrays(path, "study.py"), "N_guided": np.full(G + 1, n)}
        storage.save_arrays(arrays, path)
    for seed in (1, 3, 5):  # at w = 0, of 500 unguided samples
        made = {**record("full", seed)["provenance"], "w": 0, "N_eval": 500}
        values = np.random.default_rng(seed).random((G, len(STREAMS)))
        a_unit(tmp_path, "full", seed, values, initial=0.5, provenance=made)
    rows = found(tmp_path)
    assert rows["w = 1: fixed real data slow the rise of FID"]["verdict"] == "not comparable"
    assert rows["w = 1: recall falls faster than at w = 0"]["verdict"] == "not comparable"
    assert rows["w = 0: recall falls"]["verdict"] != "not comparable"
    assert rows["w = 1: recall falls"]["verdict"] == "holds"


def test_a_loop_that_lacks_generations_is_refused_by_name(folder):
    with pytest.raises(Refusal, match="full_seed5.npz lacks generations"):
        found(folder, G + 1)


@pytest.mark.parametrize(
    ("changed", "named"), [({"recipe": {"lrate": 1}}, "lrate"), ({"N_eval": 500}, "N_eval")]
)
def test_a_loop_of_another_recipe_or_measurement_serves_no_claim(tmp_path, changed, named):
    for arm, seed, other in (("full", 1, {}), ("full_w1", 2, {}), ("full_w1", 3, changed)):
        made = {**record(arm, seed)["provenance"], "w": arms.ARMS[arm].w, "N_eval": 1000, **other}
        a_unit(tmp_path, arm, seed, np.ones((G, len(STREAMS))), provenance=made)
    with pytest.raises(Refusal, match=f"{named} is .*full_w1_seed3.npz: claims compare"):
        found(tmp_path)


def test_loops_that_serve_claims_alone_change_nothing_of_the_comparison(tmp_path):
    before, after = (a_study(tmp_path / name, 3, 3, 3) for name in ("before", "after"))
    rng = np.random.default_rng(0)
    fewer = dict(list(STREAMS.items())[:-1])  # they may be measured at fewer t
    for arm in ("full_w1", "augmented"):
        made = {**record(arm, 1)["provenance"], "w": arms.ARMS[arm].w}
        made |= {"N_fixed": 500 * (arm == "augmented")}
        noise = rng.standard_normal((5, len(fewer)))
        a_unit(after, arm, 1, noise, fewer, dose=arms.ARMS[arm].dose, provenance=made)
    for folder in (before, after):
        report.write(folder, PRIMARY, 0.05, 5)
    for name in ("study.csv", "verdict.json"):
        assert (before / name).read_bytes() == (after / name).read_bytes()
    assert (before / "claims.csv").read_bytes() != (after / "claims.csv").read_bytes()
