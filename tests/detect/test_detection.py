"""jacobian/detect.py: streams aligned to their models, and verdicts computed from them."""

import json
import math

import numpy as np
import pytest
from drawn import check
from made_up import a_loop
from tiny import ROOT, constants_of, copied

from common.detect import figures, streams, thresholds, verdict
from common.machine.errors import UserError
from common.run.folder import Run
from common.seeds import INITIAL

SCRIPT = ROOT / "jacobian" / "detect.py"


@pytest.fixture(scope="module")
def controls(tmp_path_factory):
    root = tmp_path_factory.mktemp("controls")
    return [a_loop(root / f"control{seed}", seed, control=True) for seed in range(6)]


def detect(runs, controls=(), **changes):
    changes = {"primary": "posterior_variance", "primary_t": 100, **changes}
    verdict.main(constants_of(SCRIPT, runs=runs, controls=list(controls), **changes))
    return strict_json(runs[0] / "onset_w0.json")


def strict_json(path):
    def refused(name):
        raise AssertionError(f"{path.name} holds {name}, which is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refused)


def onset_of(judged, name):
    return judged["onsets"][name] and judged["onsets"][name]["generation"]


def test_a_lead_that_is_built_in_is_found(controls, tmp_path, capsys):
    runs = [a_loop(tmp_path / f"run{s}", 100 + s, shift_at=3, fid_at=6) for s in range(3)]
    result = detect(runs, controls)
    assert result["calibrated"] and result["primary"] == "posterior variance t=10"
    for judged in result["runs"]:
        assert onset_of(judged, "posterior variance t=10") == 3
        assert onset_of(judged, "effective rank t=40") == 3
        assert judged["onsets"]["log FID"] == {"generation": 6, "direction": "up"}
        assert judged["onsets"]["recall"] is None
        assert judged["lead"] == {"value": 3, "censored": "none"}
    assert result["leads"]["median_low"] == result["leads"]["median_high"] == 3
    assert result["leads"]["p_value"] == pytest.approx(0.25)  # three of three: 2 * (1/2)^3
    printed = capsys.readouterr().out
    assert "leads by 3 generations" in printed and "(primary)" in printed
    assert "log FID alarmed at generation 6 (up)" in result["verdict"]


def test_a_star_stands_for_all_that_it_matches(controls, tmp_path):
    run = a_loop(tmp_path / "run", 56)
    listed = detect([run], controls)
    assert detect([run], [controls[0].with_name("control*")]) == listed
    with pytest.raises(SystemExit, match="^error: no file or folder is .*nothing_.$"):
        detect([run], [controls[0].with_name("nothing_*")])


def test_no_change_has_no_lead_and_the_verdict_says_so(controls, tmp_path):
    result = detect([a_loop(tmp_path / "run", 56)], controls)
    judged = result["runs"][0]
    assert judged["onsets"]["log FID"] is judged["onsets"]["posterior variance t=10"] is None
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
    fid = result["streams"]["log FID"]
    assert fid["control_alarms"] == 0 and fid["certified_rate"] == pytest.approx(1 - 0.05**0.2)
    assert "at most 45% for the first 10 generations" in result["verdict"]


def test_a_stream_has_the_name_of_what_it_is(controls, tmp_path, capsys):
    result = detect([a_loop(tmp_path / "run", 64, fid_at=6)], controls)
    assert set(result["streams"]) == set(result["runs"][0]["onsets"])
    assert {"log FID", "log denoising loss t=10", "posterior variance t=40"} <= set(
        result["streams"]
    )
    rows = Run(controls[0], 0).metrics()
    assert result["streams"]["log FID"]["mean"] == pytest.approx(math.log(20), abs=0.05)
    assert rows[1]["fid"] == pytest.approx(20, rel=0.2)
    detect([tmp_path / "run"])
    printed = capsys.readouterr().out
    assert "log FID" in printed and "\nfid " not in printed


def test_an_improvement_is_no_alarm(controls, tmp_path):
    better = a_loop(tmp_path / "better", 65, fid_at=3, fid_factor=0.5, shift_at=3, shift=0.5)
    result = detect([better], controls)
    judged = result["runs"][0]
    z = math.log(0.5) / result["streams"]["log FID"]["sd"]
    assert z < -8  # 8 sd and more, downwards
    assert judged["onsets"]["log FID"] is None and judged["lead"]["censored"] == "both"
    assert judged["onsets"]["posterior variance t=10"] is None
    assert judged["onsets"]["effective rank t=10"] == {"generation": 3, "direction": "down"}


def test_generations_beyond_the_shortest_control_are_drawn_and_not_judged(
    controls, tmp_path, capsys
):
    short = a_loop(tmp_path / "short", 20, n=4, control=True)
    run = a_loop(tmp_path / "run", 66, shift_at=5, fid_at=2)
    result = detect([run], [*controls[:4], short])
    assert result["horizon"] == 4 and result["runs"][0]["n_judged"] == 4
    assert result["runs"][0]["onsets"]["posterior variance t=10"] is None  # it changes at 5
    assert onset_of(result["runs"][0], "log FID") == 2
    assert result["streams"]["log FID"]["threshold"] == pytest.approx(thresholds.limit(44, 4, 0.05))
    assert "first 4 of 10 generations" in result["verdict"]
    assert "at most 45% for the first 4 generations" in result["verdict"]
    assert "lags by at least 2 generations" in result["verdict"]
    assert "first alarm in generations 0 to 3" in capsys.readouterr().out
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "first 4 of 10 generations" in page


def test_controls_that_are_longer_than_the_loop_are_used(controls, tmp_path):
    run = a_loop(tmp_path / "run", 67, n=3, fid_at=1)
    result = detect([run], controls)
    assert result["horizon"] == 3 and onset_of(result["runs"][0], "log FID") == 1
    rows = [row for c in controls for row in Run(c, 0).metrics() if row["generation"] >= 0]
    fids = np.log([row["fid"] for row in rows])
    assert len(fids) == 60
    assert result["streams"]["log FID"]["mean"] == pytest.approx(fids.mean())
    assert result["streams"]["log FID"]["sd"] == pytest.approx(fids.std(ddof=1))
    assert (run / "onset_w0.png").exists() and (run / "report.html").exists()


def test_loops_without_an_alarm_are_counted_and_json_is_strict(controls, tmp_path):
    runs = [a_loop(tmp_path / "changed", 68, fid_at=3), a_loop(tmp_path / "same", 56)]
    result = detect(runs, controls)
    assert result["leads"]["n_undefined"] == 1
    assert "no alarm of either in 1;" in result["verdict"]
    assert result["leads"]["median_low"] is None  # of two loops one may have had any lead
    assert "median lead unknown, no interval below 6 loops" in result["verdict"]


def test_controls_may_have_more_streams_than_the_loop_but_not_less(controls, tmp_path):
    run, more = a_loop(tmp_path / "run", 70), [copied(c, tmp_path / c.name) for c in controls]
    for folder in more:
        of = Run(folder, 0)
        of.save_metrics(
            [{**row, "entropy": 5 + 0.1 * math.sin(i)} for i, row in enumerate(of.metrics())]
        )
    assert "entropy of samples" not in detect([run], more)["streams"]
    files = Run(run, 0)
    files.save_metrics([{**row, "entropy": 5.0} for row in files.metrics()])
    assert "entropy of samples" in detect([run], more)["streams"]
    with pytest.raises(SystemExit) as refused:
        detect([run], controls)
    assert refused.value.code == 2


def with_entropies(folder, later):
    """The loop in a folder with an entropy, from generation 3 on this one."""
    run = Run(folder, 0)
    rows = enumerate(run.metrics())
    run.save_metrics(
        [{**row, "entropy": 5.0 + 0.1 * math.sin(i) if i < 4 else later} for i, row in rows]
    )
    return folder


def test_a_metric_of_some_generations_only_is_one_line(tmp_path):
    run = with_entropies(a_loop(tmp_path / "run", 72), None)
    with pytest.raises(SystemExit, match=r"entropy of generations \[3, .* is missing; run main.py"):
        detect([run])


def test_a_stream_that_is_not_finite_is_left_out_and_named(controls, tmp_path):
    """Entropy where all samples are equal; without FID nothing could be compared."""
    run = with_entropies(a_loop(tmp_path / "run", 72, fid_at=3), -math.inf)
    more = [with_entropies(copied(c, tmp_path / c.name), 5.0) for c in controls]
    result = detect([run], more)
    assert "entropy of samples" not in result["streams"] and "log FID" in result["streams"]
    assert f"entropy of samples is not judged: it is not finite in {run}." in result["verdict"]
    files = Run(run, 0)
    files.save_metrics([{**row, "fid": math.inf} for row in files.metrics()])
    with pytest.raises(SystemExit, match="log FID is not finite in .*run: nothing can be compared"):
        detect([run], more)


def test_spectra_at_samples_that_lack_generations_name_their_constant(tmp_path):
    folder = a_loop(tmp_path / "run", 73)
    arrays = dict(np.load(folder / "spectra_w0.npz"))
    of_generation = {
        name for name, array in arrays.items() if len(array.shape) and len(array) == 11
    }
    fewer = {name: a[:-1] if name in of_generation else a for name, a in arrays.items()}
    np.savez(folder / "spectra_of_samples_w0.npz", **fewer)
    with pytest.raises(SystemExit, match=r"lacks the generations \[9\].*anchors_from = samples"):
        detect([folder])


def test_a_primary_that_was_not_measured_is_named(tmp_path):
    with pytest.raises(SystemExit, match="has no stream 'free directions t=10': measure it with"):
        detect([a_loop(tmp_path / "run", 71)], primary="free_directions")
    with pytest.raises(SystemExit, match="primary_t = 300 is not a timestep of the spectra"):
        detect([tmp_path / "run"], primary_t=300)


def test_streams_at_samples_are_of_the_same_kind_at_another_place():
    name = "posterior variance t=50" + streams.SAMPLED
    assert streams.kind_and_place(name) == ("posterior variance", "50 at samples")
    assert streams.kind_and_place("posterior variance t=50") == ("posterior variance", "50")
    assert streams.kind_and_place("log FID") == ("log FID", "")
    assert streams.direction(name) == -1


def test_a_small_alpha_is_as_good_as_any(controls, tmp_path):
    result = detect([a_loop(tmp_path / "run", 69, fid_at=3)], controls, alpha=1e-4)
    assert onset_of(result["runs"][0], "log FID") == 3
    assert result["streams"]["log FID"]["threshold"] == pytest.approx(
        thresholds.limit(60, 10, 1e-4)
    )


def test_two_controls_of_one_generation_are_too_few(tmp_path):
    controls = [a_loop(tmp_path / f"c{s}", s, n=1, control=True) for s in (1, 2)]
    with pytest.raises(SystemExit, match="2 control loops of 1 generation cannot judge"):
        detect([a_loop(tmp_path / "run", 70)], controls)


def test_a_change_of_recipe_at_generation_0_is_part_of_the_verdict(controls, tmp_path):
    run = a_loop(tmp_path / "run", 71)
    made = strict_json(run / "run_w0.json")["constants"] | {"N_with_w": 100, "N_real": 100}
    (run / "run_initial.json").write_text(json.dumps({"constants": made}), encoding="utf-8")
    assert "change of recipe" not in detect([run], controls)["verdict"]
    made |= {"n_epoch": 40, "N_real": 1000}
    (run / "run_initial.json").write_text(json.dumps({"constants": made}), encoding="utf-8")
    verdict = detect([run], controls)["verdict"]
    assert (
        "generation 0 contains a change of recipe: n_epoch (initial 40, generations 4), " in verdict
    )
    assert "training-set size (initial 1000, generations 100)" in verdict


def test_the_figure_draws_every_timestep_and_the_thresholds(tmp_path):
    times = [2, 5, 10, 20, 30, 40]
    controls = [a_loop(tmp_path / f"c{s}", s, n=4, control=True, times=times) for s in range(3)]
    loaded = [streams.load(folder, 0) for folder in controls]
    loop = streams.load(a_loop(tmp_path / "run", 72, n=6, times=times), 0)
    directions = [streams.direction(name) for name in loop.names]
    calibration = thresholds.calibrate([c.values for c in loaded], 4, 0.05, directions)
    primary = "posterior variance t=40"
    figure = figures.onsets([loop], loaded, calibration, primary)
    check(figure)
    titles = [axes.get_title().replace("\n", " ").replace("\u00a0", " ") for axes in figure.axes]
    panels = {title.split(" (")[0]: axes for title, axes in zip(titles, figure.axes, strict=True)}
    assert {"posterior variance ↓", "log FID ↑", "asymmetry ↕"} <= panels.keys()
    assert [*panels][:3] == ["posterior variance ↓", "log FID ↑", "log denoising loss ↑"]
    both_ways = [title.endswith("↕") for title in panels]
    assert both_ways == sorted(both_ways) and sum(both_ways) == 5  # exploratory ones come last
    found = dict(zip(loop.names, calibration.onsets(loop.values), strict=True))
    for name in (primary, "log FID", "log denoising loss t=40"):
        at = "never" if found[name] is None else found[name].generation
        assert f"{name}: {at}" in figure.get_suptitle().splitlines()
    panels = {title[:-2]: axes for title, axes in panels.items()}
    z = calibration.z(loop.values)
    for kind in ("posterior variance", "effective rank", "log denoising loss"):
        drawn = [line.get_ydata() for line in panels[kind].lines]
        for t in times:
            expected = z[:, loop.names.index(f"{kind} t={t}")]
            assert any(len(y) == 6 and np.allclose(y, expected) for y in drawn), (kind, t)

    def heights(kind):
        lines = [line for line in panels[kind].lines if len(line.get_xdata()) == 2]
        lines = [line for line in lines if line.get_linestyle() == "--"]
        return sorted({float(line.get_ydata()[0]) for line in lines})

    one_sided, two_sided = thresholds.limit(12, 4, 0.05), thresholds.limit(12, 4, 0.05, True)
    assert heights("log FID") == pytest.approx([one_sided])
    assert heights("recall") == pytest.approx([-one_sided])
    assert heights("asymmetry") == pytest.approx([-two_sided, two_sided])
    figure = figures.onsets([loop], [], None, primary)
    assert len([ax for ax in figure.axes if ax.get_title().startswith("posterior")][0].lines) == 7


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
    np.testing.assert_allclose(np.exp(loop.of("log FID")), [row["fid"] for row in rows[1:]])
    arrays = np.load(folder / "spectra_w0.npz")
    p = np.sqrt(arrays["eigenvalues"][4, 1]) / np.sqrt(arrays["eigenvalues"][4, 1]).sum(
        -1, keepdims=True
    )
    rank = np.exp(-(p * np.log(p)).sum(-1)).mean()  # generation 3, t = 40, written out
    assert loop.of("effective rank t=40")[3] == pytest.approx(rank)


def test_one_control_loop_is_too_few(controls, tmp_path):
    with pytest.raises(SystemExit, match="one control loop cannot be calibrated"):
        detect([a_loop(tmp_path / "run", 62)], controls[:1])


def test_generations_without_spectra_are_named(tmp_path):
    folder = a_loop(tmp_path / "run", 63)
    rows = Run(folder, 0).metrics()
    Run(folder, 0).save_metrics([*rows, {**rows[-1], "generation": 10}])
    with pytest.raises(UserError, match=r"spectra_w0.npz lacks the generations \[10\]: run jacob"):
        streams.load(folder, 0)


def test_generations_without_metrics_are_named_with_what_helps(tmp_path):
    """As after a shorter loop. Measuring spectra again would not help."""
    folder = a_loop(tmp_path / "run", 63)
    Run(folder, 0).save_metrics(Run(folder, 0).metrics()[:-2])
    said = r"metrics_w0.csv lacks the generations \[8, 9\]: run main.py with generation_number = 10"
    with pytest.raises(UserError, match=said + r", .* generations = \[0, 1, 2, 3, 4, 5, 6, 7\]$"):
        streams.load(folder, 0)
