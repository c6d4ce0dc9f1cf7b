"""What was made from what: where a source is there no more, what followed from it is made again."""

import dataclasses
import re

import pytest
import torch
from tiny import (
    consistent,
    copied,
    hashes,
    main,
    spectra,
)

from common.detect import streams
from common.loop import sources, stages
from common.machine import records, storage
from common.machine.errors import UserError
from common.model import sample
from common.run.folder import Run
from common.seeds import INITIAL
from common.spectrum import measure


def test_what_was_made_from_a_model_that_is_there_no_more_is_made_again(finished, tmp_path, capsys):
    """As after a damaged model was trained again, with other bits: another number of threads."""
    folder = copied(finished, tmp_path / "run")
    files = Run(folder, 0)
    before, model = hashes(folder), storage.load(files.model(0))
    model["nn_model.out.3.bias"] += 0.01
    storage.save(model, files.model(0))
    main(folder)
    said = capsys.readouterr().out
    for name in ("gen_data_with_w0_w0", "gen_data_without_w0_w0", "model_1_w0.pth"):
        assert f"note: {name} was made from what is there no more" in said
    assert not re.search(r"note: \S*initial\S* was made from", said)
    after = hashes(folder)
    same = {name for name in before if before[name] == after[name]}
    assert {"model_initial.pth", "gen_data_without_w_initial_w0", "tsne_initial_w0.png"} <= same
    assert not same & {"gen_data_with_w0_w0", "model_1_w0.pth", "gen_data_without_w1_w0"}
    consistent(folder, (INITIAL, 0, 1), tmp_path)
    main(folder)
    assert "nothing to do" in capsys.readouterr().out and hashes(folder) == after


def test_partial_samples_of_another_model_are_not_continued(initial, finished, tmp_path):
    folder = copied(finished, tmp_path / "run", leave_out=["*_data_without_w0_w0", "metrics*"])
    files = Run(folder, 0)
    part = sources.partial(files.evaluation(0)[0])
    records.save_source(part, "another model")
    storage.save(torch.zeros(30, 1, 28, 28, dtype=torch.uint8), part)
    main(folder)
    assert hashes(folder)["gen_data_without_w0_w0"] == hashes(finished)["gen_data_without_w0_w0"]


def test_folders_of_earlier_versions_without_sources_are_taken_as_they_are(
    finished, tmp_path, capsys
):
    folder = copied(finished, tmp_path / "run", leave_out=["*.from"])
    record = storage.load_json(folder / "run_w0.json")
    for name in ("n_step", "loss_weight", "eta", "clip_x0", "N_ref", "control"):
        del record["constants"][name]
    storage.save_json(record, folder / "run_w0.json")
    main(folder)
    said = capsys.readouterr().out
    assert "nothing to do" in said and "could not be written" not in said
    with pytest.raises(SystemExit, match=r"eta \(was 0.0, is 0.5\)"):
        main(folder, eta=0.5)


@pytest.fixture
def other_bits(monkeypatch):
    """Trainings from now on end in weights that differ a little, as with other threads."""

    def start():
        whole = stages.train_ddpm

        def faster(ddpm, images, training, **rest):
            faster_ = dataclasses.replace(training, lrate=1.01 * training.lrate)
            return whole(ddpm, images, faster_, **rest)

        monkeypatch.setattr(stages, "train_ddpm", faster)

    return start


def test_in_folders_of_earlier_versions_too_what_is_gone_is_made_again(
    finished, tmp_path, capsys, other_bits
):
    """They noted no sources, but hashes, by which the first run knows what was made from what."""
    for name in ("same", "other"):
        folder = copied(finished, tmp_path / name, leave_out=["*.from"])
        model = Run(folder, 0).model(0)
        model.write_bytes(model.read_bytes()[:-100])
    main(tmp_path / "same")
    assert "no more" not in capsys.readouterr().out
    ours = hashes(tmp_path / "same")
    assert {name: ours[name] for name in hashes(finished)} == hashes(finished)
    other_bits()
    main(tmp_path / "other")
    assert "note: model_1_w0.pth was made from what is there no more" in capsys.readouterr().out
    assert hashes(tmp_path / "other")["model_0_w0.pth"] != ours["model_0_w0.pth"]
    consistent(tmp_path / "other", (INITIAL, 0, 1), tmp_path, trained=())


def test_a_model_that_an_earlier_version_had_made_again_gets_its_own_samples(finished, tmp_path):
    """Its hash is recorded, the row of metrics is the old model's: the samples are too."""
    folder = copied(finished, tmp_path / "run", leave_out=["*.from"])
    state = storage.load(Run(folder, 0).model(0))
    state["nn_model.out.3.bias"] += 0.01
    storage.save(state, Run(folder, 0).model(0))
    main(folder)
    consistent(folder, (INITIAL, 0), tmp_path, trained=())


def test_samples_that_are_made_again_are_measured_again(finished, tmp_path, monkeypatch):
    """Of the same model, but with other bits, as with another max_c or other threads."""
    folder = copied(finished, tmp_path / "run")
    Run(folder, 0).evaluation(0)[0].unlink()
    whole = sample.quantised
    monkeypatch.setattr(sample, "quantised", lambda x: whole(x) ^ 1)  # the last bit of each pixel
    main(folder)
    before, after = (Run(each, 0).metrics()[1] for each in (finished, folder))
    assert before["model"] == after["model"] and before["fid"] != after["fid"]
    consistent(folder, (INITIAL, 0, 1), tmp_path)


def test_rows_of_an_earlier_version_that_measured_less_are_made_again(finished, tmp_path):
    folder = copied(finished, tmp_path / "run")
    files = Run(folder, 0)
    later = {"entropy", "distance_to_training"}
    files.save_metrics(
        [{name: row[name] for name in row if name not in later} for row in files.metrics()]
    )
    main(folder)
    for ours, theirs in zip(files.metrics(), Run(finished, 0).metrics(), strict=True):
        assert ours == theirs and "entropy" in ours
        assert ("distance_to_training" in ours) == (ours["generation"] != INITIAL)


def test_later_generations_of_a_chain_that_is_gone_leave_the_metrics(
    finished, tmp_path, capsys, monkeypatch
):
    """The loop that goes on is shorter than the one that made them; their spectra stay, and the
    line that says so leads on, both ways."""
    whole, found = measure.measure_checkpoint, []

    def of_any_model(*given):  # which generations are there is asked, not what their spectra are
        found.extend(() if found else [whole(*given)])
        return found[0]

    monkeypatch.setattr(measure, "measure_checkpoint", of_any_model)
    folder = copied(finished, tmp_path / "run")
    spectra(folder)
    main(folder, generation_number=1)
    assert len(Run(folder, 0).metrics()) == 3  # still of one chain
    state = storage.load(Run(folder, 0).model(0))
    state["nn_model.out.3.bias"] += 0.01
    storage.save(state, Run(folder, 0).model(0))
    main(folder, generation_number=1)
    said = "generations 1 to 1 were made from what is there no more; generation_number = 2 makes"
    assert said in capsys.readouterr().out
    assert [row["generation"] for row in Run(folder, 0).metrics()] == [INITIAL, 0]
    spectra(folder)
    message = r"lacks the generations \[1\]: run main.py with generation_number = 2.* = \[0\]"
    with pytest.raises(UserError, match=message):
        streams.load(folder, 0)
    (folder / "spectra_w0.npz").rename(folder / "away.npz")
    spectra(folder, generations=[0])
    assert streams.load(folder, 0).generations.tolist() == [0]
    (folder / "away.npz").rename(folder / "spectra_w0.npz")
    main(folder)
    spectra(folder)
    assert streams.load(folder, 0).generations.tolist() == [0, 1]
    consistent(folder, (INITIAL, 0, 1), tmp_path, trained=(1,))


def test_a_shorter_loop_does_not_stumble_over_later_files(finished, tmp_path):
    folder = copied(finished, tmp_path / "run", leave_out=["strip_w0.png"])
    Run(folder, 0).strip(1)[0].write_bytes(b"damaged")
    main(folder, generation_number=1)
    main(folder)
    assert {name: hashes(folder)[name] for name in hashes(finished)} == hashes(finished)
