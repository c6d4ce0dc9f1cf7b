"""A study that is killed again and again leaves the files of one that nobody disturbed."""

import itertools
import signal

import pytest
from tiny import killed_at
from tiny_study import kept, words


@pytest.mark.slow
def test_killed_at_ten_moments_and_more_a_study_ends_the_same(tmp_path):
    """At first while a unit's file is written and before its run is removed, then again and again a
    few events later."""
    few = {"arms": ["full", "control"], "loops": [1, 1]}
    whole = killed_at(0, tmp_path / "whole.log", words(tmp_path / "whole", **few))
    assert whole.returncode == 0, whole.stderr
    unit = "full_seed1.npz"
    moments = itertools.chain([f"half of {unit}", f"whole {unit}"], itertools.count(16, 6))
    folder, deaths = tmp_path / "killed", 0
    for event in moments:
        process = killed_at(event, tmp_path / "killed.log", words(folder, **few))
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, process.stderr
        deaths += 1
    assert deaths >= 10
    assert kept(folder) == kept(tmp_path / "whole") and len(kept(folder)) == 2
    assert not list((folder / "digits" / "runs").iterdir())
