"""jacobian/study.py: units of work that end the same however they are run, and their files."""

import contextlib
import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from tiny import PATIENCE, ROOT, constants_of
from tiny_study import SCRIPT, TINY, constants, kept, words

from common import settings
from common.detect import streams, verdict
from common.machine import storage
from common.run import comparable, provenance
from common.run.folder import Run
from common.seeds import INITIAL
from common.spectrum import measure
from common.study import arms, files, units


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study of four loops whose runs are kept: its units."""
    found = constants(tmp_path_factory.mktemp("study"), keep=True)
    units.main(found)
    return arms.planned(found)


@pytest.mark.slow
def test_a_units_file_holds_what_its_run_measured(done):
    for unit in done:
        arrays = storage.load_arrays(unit.path, "study.py")
        measured = streams.load(unit.run.folder, 0, first=INITIAL)
        assert arrays["streams"].tolist() == measured.names
        np.testing.assert_array_equal(arrays["values"], measured.values)
        assert arrays["generations"].tolist() == [INITIAL, 0]
        spectra = measure.load(unit.run.table("spectra", "npz"))
        logs = np.log(spectra["eigenvalues"]).mean(axis=2)
        np.testing.assert_allclose(arrays["mean_log_eigenvalues"], logs, rtol=1e-5, atol=1e-4)
        column = arrays["anchor_streams"].tolist().index("free directions t=6")
        of_anchors = arrays["anchor_values"][:, column]
        np.testing.assert_array_equal(of_anchors, spectra["free_directions"][:, 0])
        column = arrays["streams"].tolist().index("log FID")
        rows = Run(unit.run.folder, 0).metrics()
        np.testing.assert_allclose(np.exp(arrays["values"][:, column]), [r["fid"] for r in rows])
        assert unit.path.stat().st_size < 300_000


@pytest.mark.slow
def test_a_units_record_says_what_it_is(done):
    for unit in done:
        record = json.loads(str(storage.load_arrays(unit.path, "study.py")["record"]))
        assert (record["arm"], record["seed"], record["role"]) == (unit.arm, unit.seed, "pilot")
        assert record["control"] == (unit.arm == "control")
        assert re.fullmatch("[0-9a-f]{40}", record["commit"] or "0" * 40)
        made = provenance.from_json(unit.path, record["provenance"])
        assert comparable.difference(made, provenance.read(unit.run)) is None
        assert (made.N_train, made.control) == (60, record["control"])
        images = unit.run.evaluation(0)[0]
        assert record["samples_sha256"]["0"] == storage.sha256(images)


def test_every_arm_trains_on_its_share_of_synthetic_images(tmp_path):
    every = {"arms": list(arms.ARMS), "loops": [1] * len(arms.ARMS)}
    for unit in arms.planned(constants_of(SCRIPT, output_dir=tmp_path, **every)):
        (_, initial), (script, own), *spectra = unit.commands()
        loop, arm = settings.of_script(script, own), arms.ARMS[unit.arm]
        made = settings.of_script(script.with_name("initialmain.py"), initial)
        mixed = arm.scripts != arms.FULL
        n_synthetic = loop.N_with_w if mixed else loop.N_next
        images = n_synthetic + (loop.N_real if mixed else 0)
        assert images == (2000 if mixed and arm.w else 1000) and made.N_real == 1000
        assert n_synthetic == images * (1 if unit.arm == "control" else arm.dose)
        assert n_synthetic == 1000 or arm.w == 0  # for metrics of guided samples
        assert made.N_with_w == n_synthetic and loop.control == (unit.arm == "control")
        assert arm.scripts != arms.FRESH or loop.resample_real == "redraw"
        assert (arm.w == 1) == unit.arm.endswith("_w1")
        assert [loop.w, *made.Wall] == [arm.w] * 2 and unit.run.w == arm.w
        assert [settings.of_script(*command).w for command in spectra] == [arm.w] * 2


@pytest.mark.slow
def test_controls_and_loops_belong_together(done):
    found = [streams.load(unit.path, 0) for unit in done]
    controls, others = found[:3], found[3:]
    for other in others:
        ours = [control.provenance for control in controls]
        comparable.check_controls([other.provenance], ours)
        assert other.names == controls[0].names


@pytest.mark.slow
def test_guided_loops_keep_the_metrics_of_their_guided_samples(tmp_path):
    found = constants(tmp_path, arms=["full_w1", "augmented_w1"], loops=[1, 1], keep=True)
    units.main(found)
    for unit in arms.planned(found):
        arrays = storage.load_arrays(unit.path, "study.py")
        rows = unit.run.metrics()
        assert unit.run.w == 1 and len(rows) == 2
        of = dict(zip(arrays["guided_streams"].tolist(), arrays["guided_values"].T, strict=True))
        np.testing.assert_array_equal(of["recall"], [row["recall_guided"] for row in rows])
        np.testing.assert_allclose(np.exp(of["log FID"]), [row["fid_guided"] for row in rows])
        assert not np.allclose(np.exp(of["log FID"]), [row["fid"] for row in rows])


def test_parts_are_disjoint_and_together_the_whole(tmp_path):
    whole = arms.planned(constants_of(SCRIPT, output_dir=tmp_path))
    parts = [
        arms.planned(constants_of(SCRIPT, output_dir=tmp_path, part=f"{i}/7")) for i in range(1, 8)
    ]
    assert sorted(u.path for part in parts for u in part) == sorted(u.path for u in whole)
    assert len({unit.path for unit in whole}) == len(whole) == 70
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_plan_of_a_test_grows_and_is_no_smaller_by_a_part(tmp_path):
    units._note_plan(constants_of(SCRIPT, output_dir=tmp_path))
    part = {"arms": ["dose50", "full", "full_w1", "dose10"], "loops": [12, 3, 3, 0]}
    units._note_plan(constants_of(SCRIPT, output_dir=tmp_path, **part))
    plan = storage.load_json(tmp_path / "digits2" / "plan.json")
    assert plan == {"control": 20, "full": 20, "dose25": 10, "dose50": 12, "dose10": 10}


def test_an_override_that_no_script_has_is_named(tmp_path):
    with pytest.raises(SystemExit, match="overrides: no script has a constant n_stp"):
        units.main(constants_of(SCRIPT, output_dir=tmp_path, overrides=["n_stp=5"]))


def test_an_arm_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SystemExit, match="arms: there is no dose5, but control, full, dose50"):
        units.main(constants_of(SCRIPT, output_dir=tmp_path, arms=["dose5"], loops=[1]))


def test_the_loops_of_a_test_need_a_protocol(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PROTOCOL", tmp_path / "PROTOCOL.md")
    with pytest.raises(SystemExit, match="PROTOCOL.md is missing: the loops of a test are run"):
        units.main(constants_of(SCRIPT, output_dir=tmp_path))


def test_a_dry_run_prints_commands_and_a_time_and_runs_nothing(tmp_path, capsys):
    units.main(constants_of(SCRIPT, **{**TINY, "output_dir": tmp_path, "dry_run": True}))
    said = capsys.readouterr().out
    assert "0 of 4 loops are there; 8 models to train and measure" in said
    assert "dose50_seed1\n  python Fresh/MNIST-DDPM/initialmain.py --recipe laptop" in said
    assert re.search(r"a loop takes about \d+ (s|min) of one core of this machine", said)
    assert not list(tmp_path.iterdir())


def test_a_loop_that_fails_is_named_and_one_that_is_done_is_left_alone(tmp_path, capsys):
    found = constants(tmp_path, arms=["full", "control"], loops=[1, 1])
    first, second = arms.planned(found)
    storage.save_bytes(b"done", second.path)
    made = {"constants": {"seed": 5}, "inputs": {}}
    storage.save_json(made, first.home / "run_initial.json")
    (first.home / "model_initial.pth").write_bytes(b"not a model")
    with pytest.raises(SystemExit, match="1 of 1 loops failed"):
        units.main(found)
    said = capsys.readouterr().out
    assert "full_seed1 failed: initialmain.py" in said and "seed (was 5, is 1)" in said
    assert second.path.read_bytes() == b"done"


@pytest.mark.parametrize("keep", [False, True])
def test_a_run_stays_if_it_is_to_be_kept_also_after_a_start_that_was_not_to(
    tmp_path, monkeypatch, keep
):
    (unit,) = arms.planned(constants(tmp_path, arms=["full"], loops=[1], keep=keep))
    storage.save_bytes(b"a model", unit.home / "model_initial.pth")
    unit.passing.touch()  # by that start
    monkeypatch.setattr(units, "_call", lambda script, words: None)
    monkeypatch.setattr(files, "collected", lambda unit: {"values": np.zeros(1)})
    assert units.attempt(unit) == (unit, None)
    assert unit.home.exists() == keep and unit.path.exists() and not unit.passing.exists()


@pytest.mark.slow
def test_all_loops_are_measured_by_the_feature_network_of_the_study(done):
    network = storage.sha256(done[0].path.parent / "prmodel.pth")
    for unit in done:
        with np.load(unit.path) as arrays:
            record = json.loads(str(arrays["record"]))
        assert record["provenance"]["feature_network"] == network
        assert storage.sha256(unit.home / "prmodel.pth") == network


@pytest.mark.slow
def test_detect_takes_the_studys_controls_for_a_users_loop(done, capsys):
    controls = [unit.path for unit in done if unit.arm == "control"]
    (loop,) = (unit.run.folder for unit in done if unit.arm == "dose50")
    choice = {"runs": [loop], "controls": controls, "primary": "log_posterior_20"}
    script = ROOT / "jacobian" / "detect.py"
    verdict.main(constants_of(script, **choice, primary_t=400))
    found = storage.load_json(loop / "onset_w0.json")
    assert found["calibrated"] and len(found["controls"]) == 3
    assert found["streams"]["log FID"]["direction"] == "up"


@pytest.mark.slow
def test_a_dask_cluster_that_loses_a_worker_gives_the_same_files(done, tmp_path):
    """Its processes are started elsewhere and know nothing of this project."""
    constants(tmp_path)  # the same feature networks
    address = tmp_path / "address.json"

    def started(name, *given):
        module = ["-m", f"distributed.cli.dask_{name}", "--scheduler-file", address]
        return stack.enter_context(
            subprocess.Popen([sys.executable, *module, "--no-dashboard", *given], cwd=tmp_path)
        )

    with contextlib.ExitStack() as stack:
        cluster = [started("scheduler", "--port", "0")]
        cluster += [started("worker", "--no-nanny", "--nthreads", "1") for _ in range(2)]
        stack.callback(lambda: [process.kill() for process in cluster])
        end = time.monotonic() + PATIENCE
        while not (address.exists() and address.stat().st_size):
            assert cluster[0].poll() is None and time.monotonic() < end
            time.sleep(0.1)
        scheduler = json.loads(address.read_text(encoding="utf-8"))["address"]
        choice = words(tmp_path, arms=["control"], loops=[2], scheduler=scheduler)
        study = stack.enter_context(subprocess.Popen([sys.executable, *choice]))
        while not list(tmp_path.rglob("model_initial.pth")):
            assert study.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        cluster[1].kill()
        assert study.wait(PATIENCE) == 0
    assert len(kept(tmp_path)) == 2 and kept(tmp_path).items() <= kept(done[0].output_dir).items()
