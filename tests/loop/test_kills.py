"""A run that is killed again and again ends as one that nobody disturbed."""

import signal

import pytest
from tiny import (
    FULL,
    SPECTRA,
    TINY_INITIAL,
    TINY_MAIN,
    TINY_SPECTRA,
    command_line,
    hashes,
    killed_at,
)


def words(folder):
    """The words of killer.py for initialmain, main and spectra on `folder`."""
    found = []
    for script, constants in (
        (FULL / "initialmain.py", {**TINY_INITIAL, "save_dirs": folder}),
        (FULL / "main.py", {**TINY_MAIN, "save_dir": folder}),
        (SPECTRA, {**TINY_SPECTRA, "run_dir": folder}),
    ):
        found += ["+", *command_line(script, constants)]
    return found[1:]


def everything(folder):
    """{file name: content} of the run and of its hashes, without times, records and locks."""
    names = [*hashes(folder), *(f"hashes/{name}.sha256" for name in hashes(folder))]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.slow
def test_killed_at_many_moments_a_run_loses_one_epoch_at_most_and_ends_the_same(tmp_path):
    """One folder, killed again and again a few events after it went on, in every kind of work and
    inside writes, until it is complete: equal to a run that nobody disturbed, byte for byte. Every
    third time it may do more, or it would never come through the drawing of a generation; the first
    times it dies in an epoch and in a chain, of which there are few."""
    undisturbed = killed_at(0, tmp_path / "whole.log", words(tmp_path / "whole"))
    assert undisturbed.returncode == 0, undisturbed.stderr
    reference = everything(tmp_path / "whole")
    events = (tmp_path / "whole.log").read_text(encoding="utf-8").splitlines()

    folder, died, done = tmp_path / "run", [], []
    numbers = (55 if i % 3 == 2 else 9 + i % 6 for i in range(120))
    for attempt, event in enumerate(["epoch", "chain", *numbers]):
        log = tmp_path / f"{attempt}.log"
        process = killed_at(event, log, words(folder))
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        done += lines
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, process.stderr
        died.append(lines[-1])
        for name in reference.keys() & {path.name for path in folder.iterdir()}:
            if name.startswith(("model_", "gen_", "prmodel")):  # written once
                assert (folder / name).read_bytes() == reference[name], name
    assert len(died) >= 25
    kinds = {line.split()[0] for line in died}
    assert {"epoch", "chain", "Jacobian", "half", "whole"} <= kinds, kinds
    assert everything(folder) == reference
    assert not list(folder.rglob("*.tmp")) and not list(folder.rglob("*.damaged"))
    for kind in ("epoch", "chain"):
        repeated = [sum(line.startswith(kind) for line in lines) for lines in (done, events)]
        assert repeated[0] - repeated[1] <= len(died)
    assert set(done) == set(events)
