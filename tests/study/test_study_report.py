"""common/study/report.py on the committed and on made-up unit files: the same bytes twice, numbers
by other code, known leads, studies without change, refusals."""

import csv
import html
import json
import math
import re
import shutil
from types import MappingProxyType

import numpy as np
import pytest
from drawn import check
from made_up_study import DOSES, PRIMARY, STREAMS, a_study, a_unit, record
from scipy import stats
from tiny import FULL, ROOT, constants_of

from common import recipes
from common.detect import verdict as judgement
from common.detect.verdict import plain
from common.machine import storage
from common.machine.errors import Refusal, UserError
from common.study import claims, figures, files, power, report, units
from common.study.files import Study
from common.study.report import Question

SCRIPT = ROOT / "jacobian" / "study.py"
COMMITTED = ROOT / "jacobian" / "study"
ALPHA, G = 0.05, 5
FID, LOSS = "log FID", "log denoising loss t=50"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study and its report."""
    folder = a_study(tmp_path_factory.mktemp("study") / "digits")
    storage.save_rows([{"stream": "FID", "images": "1,000", "seconds": 17.5}], folder / "costs.csv")
    storage.save_json({"control": 20, "full": 30}, folder / "plan.json")
    report.write(folder, PRIMARY, ALPHA, G)
    return folder


def verdict(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (folder / "verdict.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=refuse)


def table(folder):
    with open(folder / "study.csv", encoding="utf-8", newline="") as file:
        return {(r["arm"], r["stream"], int(r["generation"])): r for r in csv.DictReader(file)}


def paths(folder, arm, role="test", **_):
    """The files of the loops of an arm and role."""
    found = []
    for path in sorted(folder.glob(f"{arm}_seed*.npz")):
        with np.load(path) as unit:
            found += [path] * (json.loads(str(unit["record"]))["role"] == role)
    return found


def values(folder, arm, stream, horizon=G, role="test", first=0):
    """The values (n, G) of a stream in all loops of an arm, without code of the report; first: the
    generation to begin with."""
    found = []
    for path in paths(folder, arm, role):
        with np.load(path) as unit:
            column = unit["streams"].tolist().index(stream)
            found.append(unit["values"][first + 1 : horizon + 1, column])
    return np.array(found)


def times(folder, arm, stream, sign=None, **of):
    """Alarm times (n,), with a threshold that is found by simulating 400,000 studies, or by
    counting orders where Shapiro and Wilk's test rejects the controls."""
    controls, sign = values(folder, "control", stream, **of), sign or STREAMS[stream]
    (_, horizon), n = controls.shape, controls.size
    rng = np.random.default_rng(0)
    sd = np.sqrt(rng.chisquare(n - 1, 400_000) / (n - 1))
    highest = rng.standard_normal((400_000, horizon)) - rng.normal(0, n**-0.5, (400_000, 1))
    limit = np.quantile(highest.max(1) / sd, 1 - ALPHA) * controls.std(ddof=1)
    k = max(k for k in range(n) if math.comb(n, k) >= (1 - ALPHA) * math.comb(n + horizon, k))
    if k and stats.shapiro(controls.ravel()).pvalue < 0.01:
        limit = np.sort(sign * (controls - controls.mean()), None)[-k]
    alarms = sign * (values(folder, arm, stream, **of) - controls.mean()) > limit
    return np.where(alarms.any(1), alarms.argmax(1), horizon)


# {folder: what `study.py --report` is given}
STUDIES = {
    **{name: {"role": "test", "horizon": 5} for name in ("digits", "digits2")},
    "mnist": {"role": "test", "horizon": 3},
    "plain": {"role": "pilot", "horizon": 2},
}


@pytest.fixture(scope="module", params=STUDIES)
def committed(tmp_path_factory, request):
    """A folder of committed units, reported as by study.py --report, and {"role", "horizon"}."""
    folder = tmp_path_factory.mktemp("committed") / request.param
    left_out = shutil.ignore_patterns("prmodel.*", "runs")
    shutil.copytree(COMMITTED / request.param, folder, ignore=left_out)
    of = STUDIES[request.param]
    return folder, made_again(folder, **of), of


def made_again(folder, role, horizon):
    """{name: bytes} of what `study.py --report` writes to a folder of units without results."""
    for path in results_in(folder):
        path.unlink()
    choice = {"name": folder.name, "report": True, "role": role, "generation_number": horizon}
    units.main(constants_of(SCRIPT, output_dir=folder.parent, **choice))
    return {path.name: path.read_bytes() for path in results_in(folder)}


def results_in(folder):
    measured = (".npz", report.COSTS, files.PLAN)
    return [
        path for path in folder.iterdir() if path.is_file() and not path.name.endswith(measured)
    ]


def test_the_committed_files_give_the_same_bytes_again(committed):
    folder, before, of = committed
    assert {"study.csv", "verdict.json", "claims.csv", "power.png", "report.html"} <= before.keys()
    assert made_again(folder, **of) == before
    for name in ("study.csv", "verdict.json", "claims.csv"):
        assert (COMMITTED / folder.name / name).read_bytes() == before[name]


def test_too_few_loops_for_any_difference_leave_it_undecided(committed):
    result = verdict(committed[0])
    n = min(of["n"] for arm, of in result["loops"].items() if arm != "control")
    n_claims = 2 * len({*result["planned"], *result["loops"]} - {"control"})
    least = 2 * 0.5**n * n_claims  # what Holm's correction makes of the smallest p
    claimed = any(claim["first_holm"] for claim in result["first"])
    assert ("Undecided: too few loops (" in result["verdict"]) == (least >= ALPHA and not claimed)
    loops = {arm: result["loops"].get(arm, {"n": 0})["n"] for arm in result["planned"]}
    whole = all(n >= result["planned"][arm] for arm, n in loops.items())
    assert result["verdict"].startswith("Interim, with ") != whole


def test_numbers_of_the_committed_files_by_other_code(committed):
    folder, _, of = committed
    rows, g = table(folder), of["horizon"] - 1
    for stream, sign in (("log posterior variance, 20 largest t=50", -1), (FID, 1), (LOSS, 1)):
        controls, loops = (values(folder, arm, stream, **of) for arm in ("control", "full"))
        effect = (loops[:, g].mean() - controls.mean()) / controls.std(ddof=1)
        assert float(rows["full", stream, g]["effect"]) == pytest.approx(effect, rel=1e-5)
        detected = (times(folder, "full", stream, sign, **of) <= 0).sum()
        assert int(rows["full", stream, 0]["detected"]) == detected
    claim = next(
        row for row in storage.load_rows(folder / "claims.csv") if "recall" in row["claim"]
    )
    recall = values(folder, "full", "recall", first=-1, **of)
    changes, n = recall[:, -1] / recall[:, 0] - 1, len(recall)
    assert (claim["claim"], claim["loops"]) == ("w = 0: recall falls", str(n))
    offsets = {"change": 0}
    if n >= claims.LEAST_LOOPS:
        half = stats.t.ppf(0.975, n - 1) * changes.std(ddof=1) / n**0.5
        offsets |= {"low": -half, "high": half}
    for name, expected in offsets.items():
        assert float(claim[name]) == pytest.approx(changes.mean() + expected, rel=1e-5)


def test_detect_judges_the_committed_loops_by_the_committed_controls(committed):
    folder, _, of = committed
    loops, controls = (paths(folder, arm, **of) for arm in ("full", "control"))
    script = ROOT / "jacobian" / "detect.py"
    judgement.main(constants_of(script, runs=loops[:2], controls=controls))
    found, study = storage.load_json(folder / "onset_w0.json"), verdict(folder)
    for stream in (found["primary"], FID):
        ours, theirs = found["streams"][stream], study["false_alarms"][stream]
        assert (ours["control_alarms"], len(controls)) == (theirs["alarms"], theirs["controls"])
        assert ours["certified_rate"] == pytest.approx(theirs["certified_rate"], rel=1e-5)
    assert (folder / "onset_w0.png").exists()


def test_deleted_results_are_made_again_byte_for_byte(folder):
    before = {path.name: path.read_bytes() for path in results_in(folder)}
    for path in results_in(folder):
        path.unlink()
    paths = report.write(folder, PRIMARY, ALPHA, G)
    assert {path.name: path.read_bytes() for path in results_in(folder)} == before
    assert {path.name for path in paths} <= before.keys()


def test_numbers_by_other_code(folder):
    rows, result = table(folder), verdict(folder)
    for arm, stream, g in [("full", PRIMARY, 0), ("dose50", FID, 2), ("dose25", "recall", 4)]:
        controls, row = values(folder, "control", stream), rows[arm, stream, g]
        effect = (values(folder, arm, stream)[:, g].mean() - controls.mean()) / controls.std(ddof=1)
        assert float(row["effect"]) == pytest.approx(effect, rel=1e-5)
        assert int(row["detected"]) == (times(folder, arm, stream) <= g).sum()
    lead = times(folder, "full", FID) - times(folder, "full", PRIMARY)
    assert result["leads"]["full"][FID]["median_low"] == np.median(lead)
    assert result["leads"]["full"][FID]["n_candidate_first"] == (lead > 0).sum() > 5
    early = times(folder, "full", PRIMARY) == 0, times(folder, "full", FID) == 0
    only, other = (early[0] & ~early[1]).sum(), (early[1] & ~early[0]).sum()
    pair = next(p for p in result["comparisons"] if (p["arm"], p["against"]) == ("full", FID))
    assert pair["by_generation"] == 0 and (only, other) == (11, 0)
    expected = 2 * sum(math.comb(only + other, k) for k in range(other + 1)) / 2 ** (only + other)
    assert pair["p_value"] == pytest.approx(expected, rel=1e-5)
    alarms = result["false_alarms"][LOSS]
    assert alarms["alarms"] == 0 and alarms["certified_rate"] == 0.139108  # 1 - 0.05^(1/20)
    assert len(rows) == 5 * len(STREAMS) * G


def test_a_dose_between_two_arms_is_interpolated(folder):
    """FID by the last generation: below 1/2 at 25 %, above at 50 %."""
    of = verdict(folder)["half_doses"]["by generation 4"][FID]
    before, after = ((times(folder, arm, FID) < G).mean() for arm in ("dose25", "dose50"))
    assert before < 0.5 < after
    assert of["dose"] == pytest.approx(0.25 * 2 ** ((0.5 - before) / (after - before)), rel=1e-5)
    assert 0.1 <= of["low"] < of["dose"] < of["high"] < 1 and of["text"].startswith("31%")


def test_the_page_is_whole_and_says_the_verdict(folder):
    page, result = (folder / "report.html").read_text(encoding="utf-8"), verdict(folder)
    assert all(re.match("data:", source) for source in re.findall(r'src="([^"]*)"', page))
    assert page.count("<img") == len(figures.CAPTIONS)
    assert "http:" not in page and str(folder) not in page
    for line in result["verdict"].split("\n"):
        assert line in html.unescape(page)
    assert result["costs"][0]["seconds"] == "17.5" and "17.5" in page
    begun = f"Interim, with 20 of 30 full loops. The spectrum ({PRIMARY}) was not first"
    assert result["verdict"].startswith(begun)


# Known truths


def results(
    rng,
    shift,
    n=20,
    names=("primary", FID, LOSS),
    controls=20,
    horizon=G,
    planned=MappingProxyType({}),
):
    """The results of a study with one arm, whose loops are noise and shift (G, S)."""
    S = len(names)
    study = Study(
        list(names),
        np.ones(S, dtype=int),
        rng.standard_normal((controls, horizon, S)),
        {"full": rng.standard_normal((n, horizon, S)) + shift},
        {"full": 1.0},
        {"control": list(range(controls)), "full": list(range(n))},
        {"study": "made up", "role": "test", "n_of_other_roles": 0, "left_out": {}},
    )
    question = Question(*names[:3], ALPHA, horizon, planned)
    seed = int(rng.integers(2**31))
    args = (study.controls, study.arms, ALPHA, study.direction, seed)
    null, judged = power.judge(*args, resamples=400)
    return report.results(study, question, null, judged), judged


def test_a_copy_of_fid_has_no_lead_and_no_difference(tmp_path):
    rng, streams = np.random.default_rng(0), {FID: 1, "copy": 1, LOSS: 1}
    for arm, growth in (("control", 0), ("full", 1)):
        for seed in range(8):
            grown = rng.standard_normal((G, 3)) + growth * np.arange(1, G + 1)[:, None]
            a_unit(tmp_path, arm, seed, grown[:, [0, 0, 1]], streams)
    report.write(tmp_path, "copy", ALPHA, G)
    result = verdict(tmp_path)
    lead = result["leads"]["full"][FID]
    assert (lead["median_low"], lead["median_high"], lead["n_ties"]) == (0, 0, 8)
    assert (lead["interval_low"], lead["interval_high"], lead["p_value"]) == (0, 0, 1)
    pairs = [pair for pair in result["comparisons"] if pair["against"] == FID]
    assert [(p["difference"], p["p_value"], p["before"]) for p in pairs] == [(0, 1, False)] * 2
    assert all(pair["difference_low"] < 0 < pair["difference_high"] for pair in pairs)
    assert not any(claim["first"] for claim in result["first"])


def test_claims_of_arms_that_are_planned_count_and_the_answer_is_interim():
    rng, slow = np.random.default_rng(1), np.arange(G)
    shift = np.stack([np.full(G, 12), slow, slow], 1)
    result, _ = results(rng, shift, n=8)  # p = 1/128
    assert result["verdict"].startswith("The spectrum (primary) was first")
    rng = np.random.default_rng(1)
    result, _ = results(rng, shift, n=8, planned={"control": 20, "full": 8, "a": 2, "b": 2, "c": 2})
    assert result["first"][0]["p_holm"] == 8 * result["first"][0]["p_value"] == 1 / 16
    begun = "Interim, with 0 of 2 a, 0 of 2 b, 0 of 2 c loops. Undecided: too few loops (8 of full)"
    assert result["verdict"].startswith(begun)
    assert "with 8 claims that takes 9 of an arm" in result["verdict"]


def test_first_is_before_both():
    """12 sds at once against 1 sd per generation; against FID only, the loss being as early."""
    rng, slow = np.random.default_rng(1), np.arange(G)
    shift = np.stack([np.full(G, 12), slow, slow], 1)
    result, _ = results(rng, shift)
    assert [claim["first"] for claim in result["first"]] == [True, False]  # by the end all are
    assert result["first"][0]["p_holm"] == 2 * result["first"][0]["p_value"] < ALPHA
    assert "was first, before log FID and before log denoising" in result["verdict"]
    result, _ = results(rng, shift, n=6)  # p = 1/32, in one of two claims
    claim, pair = result["first"][0], result["comparisons"][0]
    assert (claim["first"], claim["first_holm"]) == (True, False)
    assert (pair["difference"], pair["difference_high"]) == (1, 1)
    assert result["verdict"].startswith("Undecided: too few loops (6 of full) to show")
    assert "Without correction for the number of claims it was, in full by" in result["verdict"]
    assert "first, but not with Holm's correction" in result["verdict"]
    result, _ = results(rng, shift[:, [0, 1, 0]])
    assert [pair["before"] for pair in result["comparisons"]] == [True, False, False, False]
    assert [claim["first"] for claim in result["first"]] == [False, False]
    assert "before log FID: full by generation 0; after it: nowhere." in result["verdict"]
    result, _ = results(rng, shift[:, [1, 0, 0]])  # both are before the primary: no claim at all
    assert [claim["p_value"] for claim in result["first"]] == [1, 1]
    assert [pair["after"] for pair in result["comparisons"]] == [True, True, False, False]
    assert "log FID: nowhere; after it: full by generation 0." in result["verdict"]


@pytest.mark.slow
def test_streams_without_change_alarm_as_rarely_as_asked():
    rng, names = np.random.default_rng(2), ["primary", FID, LOSS, *map(str, range(9))]
    loops, controls, first = [], [], 0
    for _ in range(40):
        result, judged = results(rng, 0, names=names)
        loops.append(judged["full"].detected[-1] / 20)
        controls.append([result["false_alarms"][name]["alarms"] / 20 for name in names])
        first += sum(claim["first"] for claim in result["first"])
    for rates in (np.array(loops), np.array(controls)):
        print(f"false alarms {rates.mean():.4f}")
        assert rates.mean() <= ALPHA + 2 * rates.std() / rates.size**0.5
        assert rates.mean() > ALPHA / 2
    assert first == 0


@pytest.mark.slow
def test_equal_streams_are_rarely_called_earlier():
    """Three streams that grow alike, of which about half are detected by the end."""
    rng, before, mcnemar, no_lead = np.random.default_rng(3), [], [], []
    for slope in [0.4] * 150 + [0.8] * 50:
        result, _ = results(rng, slope * np.arange(1, G + 1)[:, None])
        for lead in (result["leads"]["full"][name] for name in (FID, LOSS)):
            no_lead.append(lead["interval_low"] <= 0 <= lead["interval_high"])
        if slope > 0.4:  # more than half of the loops are detected
            continue
        end = [pair for pair in result["comparisons"] if pair["by_generation"] == G - 1]
        before.append([pair["before"] for pair in end])
        mcnemar.append([pair["p_value"] < ALPHA for pair in end])
    print(f"before {np.mean(before):.3f}, McNemar (two-sided) {np.mean(mcnemar):.3f}")
    assert np.mean(before) <= ALPHA / 2 + 2 * np.std(before) / 150**0.5
    assert np.mean(no_lead) >= 1 - ALPHA


@pytest.mark.slow
def test_a_lead_of_two_generations_is_recovered():
    """FID and the loss do what the primary did two generations before, from noise on."""
    rng, horizon, medians, covered = np.random.default_rng(4), 8, [], []
    grown = np.arange(horizon) + 0.0
    late = np.maximum(grown - 2, 0)
    for _ in range(150):
        result, _ = results(rng, np.stack([grown, late, late], 1), horizon=horizon)
        lead = result["leads"]["full"][FID]
        medians.append(lead["median_low"])
        covered.append(lead["interval_low"] <= 2 <= lead["interval_high"])
        assert lead["n_candidate_first"] > 10
    print(f"median {np.mean(medians):.2f}, coverage {np.mean(covered):.3f}")
    assert np.mean(medians) == pytest.approx(2, abs=0.2)
    assert np.mean(covered) >= 0.95 - 2 * (0.05 * 0.95 / 150) ** 0.5


@pytest.mark.parametrize("arms", [["full"], ["dose10", "dose25", "dose50", "full"]])
def test_no_text_of_a_figure_is_cut_off(tmp_path, arms):
    """With the longest names that streams have."""
    names = {
        "log posterior variance, 20 largest t=100 at samples": -1,
        "log tangent variance, 20 directions t=100 at samples": -1,
        "over-confidence, 20 directions t=100 at samples": 1,
        FID: 1,
        "recall": -1,
        LOSS: 1,
    }
    for arm in ("control", *arms):
        for seed in range(3):
            values = np.random.default_rng([seed, *arm.encode()]).standard_normal((G, len(names)))
            a_unit(tmp_path, arm, seed, values + 9 * (arm != "control"), names)
    question = Question(next(iter(names)), FID, LOSS, ALPHA, G)
    study = files.study(files.load(tmp_path, "test")[0], question)
    null, judged = power.judge(study.controls, study.arms, ALPHA, study.direction, resamples=50)
    leads = report.results(study, question, null, judged)["leads"]
    for figure in (
        figures.power_curves(study, question, judged),
        figures.dose_response(study, question, judged),
        figures.leads(study, question, judged, plain(leads, report.DIGITS)),
    ):
        assert len(check(figure)) >= 5


def test_mean_spectra_are_ratios_to_those_of_the_controls(tmp_path):
    """Units have one level each: that of the loops is e^2 of the controls' mean, and no anchors."""
    levels = {"control": (1, 3), "full": (4, 4)}
    for arm, pair in levels.items():
        for seed, level in enumerate(pair):
            a_unit(tmp_path, arm, seed, np.full((G, len(STREAMS)), float(level)))
    question = Question(PRIMARY, FID, LOSS, ALPHA, G)
    study = files.study(files.load(tmp_path, "test")[0], question, 0)
    figure = figures.mean_spectra(study, question, tmp_path)
    check(figure)
    axes = figure.axes[1]
    curve, band = axes.lines[0], axes.collections[0].get_paths()[0].vertices[:, 1]
    assert curve.get_ydata() == pytest.approx(np.exp([2.0] * 9))
    assert curve.get_xdata().tolist() == list(range(9, 0, -1)) and axes.get_title() == "t = 100"
    assert (min(band), max(band)) == pytest.approx((np.exp(-1), np.exp(1)))


@pytest.mark.parametrize(("name", "base"), [("digits2", "laptop"), ("mnist", "mnist-cpu")])
def test_the_protocol_and_the_recipe_are_those_of_the_committed_loops(name, base):
    """Otherwise further loops would be refused, after hours."""
    loops, _ = files.load(files.PROTOCOL.with_name(name), "test")
    record = loops[0].record
    assert record["protocol_sha256"] == storage.sha256(files.PROTOCOL)
    given = vars(constants_of(FULL / "main.py"))
    given |= recipes.overrides(base, FULL / "main.py", given)
    recipe = record["provenance"]["recipe"]
    assert len(recipe) == 14 and {key: given[key] for key in recipe} == recipe


# Units that do not belong together


def small(folder, n=2):
    folder.mkdir(exist_ok=True)
    for arm in ("control", "full"):
        for seed in range(n):
            rng = np.random.default_rng([seed, *arm.encode()])
            a_unit(folder, arm, seed, rng.standard_normal((G, len(STREAMS))))
    return folder


OTHER_RECIPE = {**record("full", 9)["provenance"], "recipe": {"lrate": 1}}
OTHERS = {name.replace("recall", "coverage"): way for name, way in STREAMS.items()}


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"protocol_sha256": "b" * 64}, Refusal, "another protocol_sha256 than control_seed0"),
        ({"schema": 2}, Refusal, "has schema 2"),
        ({"streams": OTHERS}, Refusal, "other streams than"),
        ({"streams": {**STREAMS, "recall": 0}}, Refusal, "other directions than"),
        ({"dose": 0.5}, Refusal, "loops of arm full have doses 0.5 and 1.0"),
        ({"G": 3}, Refusal, "lacks generations"),
        ({"provenance": OTHER_RECIPE}, Refusal, "lrate is .* but 1 in .*full_seed9.npz"),
        ({"spoilt": FID}, UserError, "log FID is not finite in full_seed9.npz"),
    ],
)
def test_a_unit_that_does_not_belong_is_refused_by_name(tmp_path, changes, error, text):
    small(tmp_path)
    changed, spoilt = dict(changes), changes.get("spoilt")
    noise = np.random.default_rng(0).standard_normal((changed.pop("G", G), len(STREAMS)))
    if changed.pop("spoilt", None):
        noise[2, list(STREAMS).index(spoilt)] = np.nan
    a_unit(tmp_path, "full", 9, noise, **changed)
    with pytest.raises(error, match=text) as caught:
        report.write(tmp_path, PRIMARY, ALPHA, G)
    assert ("full_seed9.npz" in str(caught.value)) == ("dose" not in changes) and "\n" not in str(
        caught.value
    )


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UserError, match="no unit of role test"):
        report.write(tmp_path, PRIMARY, ALPHA, G)
    small(tmp_path)
    with pytest.raises(UserError, match="no unit of role pilot"):
        report.write(tmp_path, PRIMARY, ALPHA, G, role="pilot")
    with pytest.raises(UserError, match="no stream 'entropie'; there are: log FID, recall"):
        report.write(tmp_path, "entropie", ALPHA, G)
    (tmp_path / "full_seed0.npz").rename(tmp_path / "full_seed7.npz")
    with pytest.raises(Refusal, match="full_seed7.npz holds full, seed 0"):
        report.write(tmp_path, PRIMARY, ALPHA, G)
    (tmp_path / "full_seed7.npz").unlink()
    (tmp_path / "control_seed1.npz").unlink()
    with pytest.raises(UserError, match="1 controls and 1 other loops"):
        report.write(tmp_path, PRIMARY, ALPHA, G)


def test_arms_of_equal_dose_are_refused(tmp_path):
    small(tmp_path)
    a_unit(tmp_path, "other", 0, np.zeros((G, len(STREAMS))), dose=1.0)
    with pytest.raises(Refusal, match="doses above 0, each its own"):
        report.write(tmp_path, PRIMARY, ALPHA, G)


def test_other_roles_do_not_count_and_pilots_need_no_protocol(tmp_path):
    small(tmp_path)
    report.write(tmp_path, PRIMARY, ALPHA, G)
    before = (tmp_path / "study.csv").read_bytes()
    rng = np.random.default_rng(5)
    for i, (arm, seed) in enumerate([("control", 8), ("control", 9), ("full", 8), ("full", 9)]):
        noise = 9 + rng.standard_normal((G, len(STREAMS)))
        a_unit(tmp_path, arm, seed, noise, role="pilot", protocol_sha256=f"draft {i}")
    report.write(tmp_path, PRIMARY, ALPHA, G)
    assert (tmp_path / "study.csv").read_bytes() == before
    assert "4 units of other roles do not count" in verdict(tmp_path)["verdict"]
    report.write(tmp_path, PRIMARY, ALPHA, G, role="pilot")
    assert verdict(tmp_path)["loops"]["control"] == {"n": 2, "seeds": [8, 9]}


def test_a_stream_that_is_not_finite_is_left_out_and_named(tmp_path):
    small(tmp_path)
    noise = np.random.default_rng(6).standard_normal((G, len(STREAMS)))
    noise[1, list(STREAMS).index("entropy")] = -np.inf
    a_unit(tmp_path, "full", 9, noise)
    report.write(tmp_path, PRIMARY, ALPHA, G)
    result = verdict(tmp_path)
    assert result["left_out"] == {"entropy": "full_seed9.npz"}
    assert "Not judged, because not finite: entropy." in result["verdict"]
    assert not [key for key in table(tmp_path) if key[1] == "entropy"]


def test_the_first_loop_has_an_effect_without_an_interval(tmp_path):
    folder = a_study(tmp_path / "digits", n=1, n_dose=0, n_controls=2)
    report.write(folder, PRIMARY, ALPHA, G)
    row = table(folder)["full", FID, 0]
    assert row["n"] == "1" and math.isfinite(float(row["effect"]))
    assert (row["effect_low"], row["effect_high"]) == ("", "")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"\bnan\b", re.sub(r"data:[^\"]+", "", page))


def test_a_constant_stream_and_units_that_are_longer_are_no_trouble(tmp_path):
    rng = np.random.default_rng(7)
    for arm in ("control", "full", *DOSES):
        for seed in range(3):
            noise = rng.standard_normal((G + seed, len(STREAMS)))
            noise[:, list(STREAMS).index("precision")] = 0.5
            a_unit(tmp_path, arm, seed, noise)
    report.write(tmp_path, PRIMARY, ALPHA, G)
    row = table(tmp_path)["full", "precision", 4]
    assert (row["effect"], row["detected"]) == ("", "0")
    assert verdict(tmp_path)["streams"]["precision"]["sd"] is None
