"""Whatever happens to a loop, it ends in one clear line or in files that agree with one another."""

import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import consistent, copied, initialmain, main

from common import storage
from common.seeds import INITIAL


@pytest.fixture(scope="module")
def initial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("initial")
    initialmain(folder)
    return folder


def killed(folder, position):
    """main.py that dies after its `position`-th file."""
    whole, written = storage.os.replace, []

    def dies(source, target):
        whole(source, target)
        written.append(target)
        if len(written) == position:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(storage.os, "replace", dies)
        main(folder)


def damaged(folder, position):
    """Cuts the end off one of the files that a stage wrote."""
    names = sorted(path for path in folder.iterdir() if path.suffix not in (".lock", ".html"))
    path = [name for name in names if name.is_file() and name.stat().st_size > 100][position % 20]
    path.write_bytes(path.read_bytes()[:-20])


EVENTS = {
    "run": lambda folder, n: main(folder),
    "kill": killed,
    "damage": damaged,
    "free": lambda folder, n: main(folder, max_c=40 + n, generation_number=1 + n % 2),
    "binding": lambda folder, n: main(folder, lrate=2e-3),
    "threads": lambda folder, n: torch.set_num_threads(1 + n % 2),
}
HAPPENED = st.lists(st.tuples(st.sampled_from(list(EVENTS)), st.integers(1, 60)), max_size=5)


@pytest.mark.slow
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(happened=HAPPENED)
def test_any_history_ends_in_one_line_or_in_files_that_agree(initial, tmp_path, happened):
    folder, threads = tmp_path / "run", torch.get_num_threads()
    shutil.rmtree(folder, ignore_errors=True)
    copied(initial, folder)
    try:
        for event, number in [*happened, ("run", 0), ("run", 0)]:
            try:
                EVENTS[event](folder, number)
                ended = None
            except SystemExit as stopped:
                ended = stopped.code
                assert ended in (2, 130) or "\n" not in str(ended)
    finally:
        torch.set_num_threads(threads)
    if ended is None:
        consistent(folder, (INITIAL, 0, 1), tmp_path)
    else:  # what main.py cannot mend by itself says what would
        said = ("initialmain.py", "make sure that the constants", "began with other constants")
        assert any(text in str(ended) for text in said), ended
