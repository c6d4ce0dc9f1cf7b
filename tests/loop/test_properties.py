"""Whatever happens to a loop, it ends in one clear line or in files that agree with one another."""

import contextlib
import re
import shutil

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny import consistent, copied, main

from common.machine import storage
from common.machine.errors import UserError
from common.run.folder import Run
from common.seeds import INITIAL


def killed(folder, n):
    """main.py that dies before or after its n-th file."""
    whole, written = storage.os.replace, []

    def dies(source, target):
        written.append(target)
        if len(written) == n and n % 2:
            raise KeyboardInterrupt
        whole(source, target)
        if len(written) == n:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(storage.os, "replace", dies)
        main(folder)


DAMAGES = [
    lambda path, other: path.write_bytes(path.read_bytes()[:-20]),
    lambda path, other: path.write_bytes(bytes(path.stat().st_size)),
    lambda path, other: path.unlink(),
    lambda path, other: path.write_bytes(other.read_bytes()),
]


def damaged(folder, n):
    """Cuts, empties, deletes or replaces a file, or what is noted of one."""
    paths = [path for path in folder.iterdir() if path.suffix not in (".lock", ".html")]
    paths += (folder / "hashes").iterdir()
    paths = sorted(path for path in paths if path.is_file() and ".damaged" not in path.name)
    path, other = paths[37 * n % len(paths)], paths[(37 * n + 1) % len(paths)]
    DAMAGES[n % len(DAMAGES)](path, other)


def with_other_bits(folder, n):
    """A model as a training with other rounding would have left it."""
    path = Run(folder, 0).model(n % 2)
    if path.exists():
        with contextlib.suppress(UserError):  # it may be damaged
            state = storage.load(path)
            state["nn_model.out.3.bias"] += 0.001 * n
            storage.save(state, path)


EVENTS = {
    "run": lambda folder, n: main(folder),
    "kill": killed,
    "damage": damaged,
    "free": lambda folder, n: main(folder, max_c=40 + n, generation_number=1 + n % 2),
    "binding": lambda folder, n: main(folder, lrate=2e-3),
    "threads": lambda folder, n: torch.set_num_threads(1 + n % 2),
    "bits": with_other_bits,
}
HAPPENED = st.lists(
    st.tuples(st.sampled_from([*EVENTS, "damage", "bits"]), st.integers(1, 60)),
    min_size=2,
    max_size=5,
)
REMEDIES = (  # what a line says that main.py cannot do by itself
    r"(is|are) missing in .*: first run python initialmain.py",
    r"is damaged or was replaced: run initialmain.py again",
    r"was damaged: make sure that the constants are still the same, then run the same",
    r"began with other (constants|inputs): .*; restore them, or start a new run",
)


@pytest.mark.slow
@settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(happened=HAPPENED)
@example(happened=[("bits", 1), ("kill", 9), ("damage", 6)])
def test_any_history_ends_in_one_line_or_in_files_that_agree(initial, tmp_path, happened):
    folder, threads = tmp_path / "run", torch.get_num_threads()
    shutil.rmtree(folder, ignore_errors=True)
    copied(initial, folder)
    main(folder)
    try:
        for event, n in [*happened, ("run", 0), ("run", 0)]:
            ended = None
            try:
                EVENTS[event](folder, n)
            except SystemExit as stopped:
                ended = str(stopped.code)
                assert "\n" not in ended
                assert ended == "130" or any(re.search(text, ended) for text in REMEDIES), ended
    finally:
        torch.set_num_threads(threads)
    if ended is None:
        changed = {n % 2 for event, n in happened if event == "bits"}
        consistent(folder, (INITIAL, 0, 1), tmp_path, trained={0, 1} - changed)
