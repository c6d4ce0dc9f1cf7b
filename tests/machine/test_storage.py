"""Files: complete or absent, the same bytes for the same content, and harmless to read."""

import csv
import errno
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from tiny import DAMAGES

from common.machine import disk, records, storage
from common.machine.errors import UserError

# Atomic files


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "hashes")


@pytest.mark.parametrize("at", ["fsync", "replace"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_write_that_stops_midway_leaves_the_old_file_alone(tmp_path, monkeypatch, error, at):
    path = tmp_path / "file"
    storage.save_text("old", path)

    def stops(*arguments):
        raise error

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(os, at, stops)
        storage.save_text("new", path)
    assert storage.load_bytes(path) == b"old" and leftovers(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EACCES, "Permission denied (is it open in another program?)"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_the_old_file_alone(tmp_path, monkeypatch, number, said):
    path = tmp_path / "file"
    storage.save_text("old", path)

    def fails(*arguments):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch, pytest.raises(UserError) as stopped:
        patch.setattr(os, "fsync", fails)
        storage.save_text("new", path)
    assert str(stopped.value) == f"cannot write {path}: {said}"
    assert storage.load_bytes(path) == b"old" and leftovers(tmp_path) == ["file"]


def test_the_file_is_not_there_before_it_is_whole(tmp_path, monkeypatch):
    path, replace = tmp_path / "a" / "b" / "file", os.replace
    seen = []

    def replaced(source, target):
        seen.append((target.name, target.exists(), source.read_bytes()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    storage.save_bytes(b"whole", path)
    assert seen[-1] == ("file", False, b"whole")
    assert path.read_bytes() == b"whole" and leftovers(path.parent) == ["file"]


def test_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *a: (order.append("fsync"), fsync(*a)))
    monkeypatch.setattr(os, "replace", lambda *a: (order.append("replace"), replace(*a)))
    storage.save_text("text", tmp_path / "file")
    assert order == ["fsync", "replace"] * 2  # the hash, then the file


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    """save_dir names a file."""
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match="cannot write .*file.within: "):
        storage.save_text("text", tmp_path / "file" / "within")


# What was written


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_what_was_written_is_not_read(tmp_path, damage):
    path = tmp_path / "model_0_w0.pth"
    storage.save_bytes(b"what was written", path)
    path.write_bytes(DAMAGES[damage](b"what was written"))
    with pytest.raises(UserError) as stopped:
        storage.load_bytes(path, "main.py")
    said = str(stopped.value)
    assert said.startswith(f"{path} is damaged or was replaced: run main.py again")
    (tmp_path / "hashes" / "model_0_w0.pth.sha256").unlink()  # as the line says
    assert said.endswith(".sha256") and storage.load_bytes(path) == path.read_bytes()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_kept_aside_once_and_again(tmp_path, capsys, damage):
    path = tmp_path / "file"
    for name in ("file.damaged", "file.damaged2"):
        storage.save_bytes(b"what was written", path)
        assert storage.verify(path) and capsys.readouterr().out == ""
        path.write_bytes(DAMAGES[damage](b"what was written"))
        assert not storage.verify(path) and not path.exists()
        assert (tmp_path / name).read_bytes() == DAMAGES[damage](b"what was written")
        assert capsys.readouterr().out == (
            f"note: file is damaged or was replaced; kept as {name} in {tmp_path}\n"
        )
    assert not storage.verify(path)


def test_a_file_of_other_code_has_no_hash_and_is_taken_as_it_is(tmp_path):
    (tmp_path / "prmodel.pth").write_bytes(b"theirs")
    assert storage.verify(tmp_path / "prmodel.pth")
    assert storage.load_bytes(tmp_path / "prmodel.pth") == b"theirs"


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("second", [1, 2, 3])
@pytest.mark.parametrize("contents", [(b"new", b"new"), (b"new", b"newer")])
def test_stops_between_hash_and_file_leave_a_pair_that_fits(
    tmp_path, monkeypatch, contents, first, second
):
    """A write replaces the hash, the file, and the hash again; two in a row stop before one."""
    path, replace = tmp_path / "metrics.csv", os.replace
    storage.save_bytes(b"old", path)
    now = b"old"
    for content, dies_at in zip(contents, (first, second), strict=True):
        calls = []

        def dies(source, target, calls=calls, dies_at=dies_at):
            calls.append(target)
            if len(calls) == dies_at:
                raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", dies)
            storage.save_bytes(content, path)
        now = content if dies_at == 3 else now
        assert storage.load_bytes(path) == now
    storage.save_bytes(b"newest", path)
    assert storage.load_bytes(path) == b"newest"


def test_a_path_is_shown_relative_to_the_current_folder_where_that_is_shorter(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert storage.shown(tmp_path / "data" / "run") == os.path.join("data", "run")
    assert storage.shown(tmp_path.parent / "run") == os.path.join("..", "run")
    far = Path(tmp_path.anchor) / "far"
    assert storage.shown(far) == str(far)


def test_a_removed_file_leaves_nothing_behind(tmp_path):
    path = tmp_path / "gen_data_with_w0_w0.part"
    storage.save_bytes(b"images", path)
    for left_by_a_kill in (path, tmp_path / "hashes" / f"{path.name}.sha256"):
        left_by_a_kill.with_name(left_by_a_kill.name + ".tmp").write_bytes(b"half")
    storage.delete(path)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_an_older_version_of_a_file_is_not_taken_for_the_newest(tmp_path):
    path = tmp_path / "metrics.csv"
    storage.save_bytes(b"old", path)
    storage.save_bytes(b"new", path)
    path.write_bytes(b"old")
    assert not storage.verify(path)


# Locks

HOLDER = """
import sys
from pathlib import Path
from common.machine import storage
with storage.lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_others_out_until_its_process_ends_however_it_ends(tmp_path):
    path = tmp_path / "run_w0.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(storage.__file__).parents[2],
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == b"held" + os.linesep.encode()
        with pytest.raises(UserError, match="another process is at work in .*run_w0.lock"):
            storage.lock(path).__enter__()
        threading.Timer(0.5, holder.kill).start()  # SIGKILL: nothing of its own can free the lock
        with storage.lock(path, wait=True):
            assert holder.wait() != 0
    finally:
        holder.kill()
        holder.communicate()
    with storage.lock(path), storage.lock(tmp_path / "run_w1.lock"):
        pass


# Tensors

DTYPES = [
    *(torch.uint8, torch.int64, torch.bool, torch.float16, torch.bfloat16),
    *(torch.float32, torch.float64),
]
SHAPES = st.lists(st.integers(0, 4), max_size=4)


@given(st.sampled_from(DTYPES), SHAPES, st.integers(0, 2**32))
@settings(max_examples=60)
def test_tensors_come_back_as_they_were(tmp_path_factory, dtype, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    value = (torch.randn(shape, generator=generator) * 50).to(dtype)
    path = tmp_path_factory.getbasetemp() / "tensor"
    storage.save(value, path)
    found = storage.load(path)
    assert found.dtype == dtype and found.shape == value.shape and torch.equal(found, value)


def test_state_dicts_and_nested_values_come_back(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    value = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "losses": [0.5, 0.25],
        "key": {"dataset": "abc"},
    }
    storage.save(value, tmp_path / "file")
    found = storage.load(tmp_path / "file")
    assert found["losses"] == [0.5, 0.25] and found["key"] == {"dataset": "abc"}
    for key, tensor in network.state_dict().items():
        assert torch.equal(found["model"][key], tensor) and not found["model"][key].requires_grad
    torch.optim.Adam(network.parameters()).load_state_dict(found["optimizer"])
    step = found["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(step, optimizer.state_dict()["state"][0]["exp_avg"])


def test_the_same_content_is_the_same_bytes_under_any_name(tmp_path):
    value = {"weight": torch.arange(12.0).reshape(3, 4), "n": torch.tensor(3)}
    for name in ("model_0_w0.pth", "another"):
        storage.save({key: tensor.clone() for key, tensor in value.items()}, tmp_path / name)
    hashes = {storage.sha256(tmp_path / name) for name in ("model_0_w0.pth", "another")}
    assert len(hashes) == 1
    storage.save({**value, "n": torch.tensor(4)}, tmp_path / "another")
    assert storage.sha256(tmp_path / "another") not in hashes


def test_a_checkpoint_of_another_device_loads_on_this_one(tmp_path, monkeypatch):
    """The file that a CUDA machine would write: its tensors are marked cuda:0."""
    path, value = tmp_path / "model.pth", {"weight": torch.arange(6.0)}
    with monkeypatch.context() as patch:
        patch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
        torch.save(value, path)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path, weights_only=True)
    found = storage.load(path)
    assert found["weight"].device.type == "cpu"
    assert torch.equal(found["weight"], value["weight"])


@pytest.mark.cuda
def test_tensors_of_a_gpu_are_saved_as_tensors_of_the_cpu(tmp_path):
    storage.save({"weight": torch.arange(6.0, device="cuda")}, tmp_path / "file")
    found = torch.load(tmp_path / "file", weights_only=True)  # without map_location
    assert found["weight"].device.type == "cpu"


# Files that cannot be read


def test_a_missing_file_says_what_makes_it(tmp_path):
    with pytest.raises(UserError) as stopped:
        storage.load(tmp_path / "gen_data_with_w_initial_w0")
    assert str(stopped.value) == (
        f"gen_data_with_w_initial_w0 is missing in {tmp_path}: run initialmain.py first"
    )
    with pytest.raises(UserError, match=r"run main.py first$"):
        storage.load(tmp_path / "model_0_w0.pth", "main.py")


class RunsCode:
    """When unpickled without care, makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def pickled(value, path):
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("write", [torch.save, pickled])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, write):
    path, trace = tmp_path / "file", tmp_path / "trace"
    write({"weight": RunsCode(trace)}, path)
    with pytest.raises(UserError, match=r"file cannot be read as tensors \(UnpicklingError\)"):
        storage.load(path)
    assert not trace.exists()


def test_a_file_cut_short_anywhere_is_one_line(tmp_path):
    whole, path = tmp_path / "whole", tmp_path / "model.pth"
    storage.save({"weight": torch.arange(10.0), "bias": torch.ones(2)}, whole)
    content = whole.read_bytes()
    for length in range(0, len(content), 29):
        path.write_bytes(content[:length])
        with pytest.raises(UserError) as stopped:
            storage.load(path)
        said = str(stopped.value)
        assert said.startswith(f"{path} cannot be read as tensors (") and "\n" not in said
        assert said.endswith("): move it away and run initialmain.py again")


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_a_file_of_anything_else_is_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "anything"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as tensors"):
        storage.load(path)


# Text, tables and figures

NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=9))
@settings(max_examples=60)
def test_tables_keep_every_digit(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "metrics.csv"
    storage.save_rows([{"generation": a, "fid": b} for a, b in rows], path)
    found = storage.load_rows(path)
    assert [list(row) for row in found] == [["generation", "fid"]] * len(rows)
    assert [(float(row["generation"]), float(row["fid"])) for row in found] == [
        (float(a), float(b)) for a, b in rows
    ]
    with open(path, newline="", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == len(rows) + 1
    assert b"\r" not in path.read_bytes()  # the same bytes on every system


def test_numbers_of_numpy_keep_their_digits(tmp_path):
    storage.save_rows([{"a": np.float64(1) / 3, "b": 1e-300}], tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "a,b\n0.3333333333333333,1e-300\n"


def test_a_table_that_is_not_there_has_no_rows(tmp_path):
    assert storage.load_rows(tmp_path / "metrics_w0.csv") == []


def test_json_comes_back_and_a_damaged_one_is_one_line(tmp_path):
    value = {"constants": {"Wall": [0, 0.25], "name": "é"}, "commit": None}
    path = tmp_path / "run_w0.json"
    storage.save_json(value, path)
    assert storage.load_json(path) == value
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="run_w0.json is damaged"):
        storage.load_json(path)


def test_equal_figures_are_equal_files(tmp_path):
    for name in ("a.png", "b.png"):
        figure = Figure(figsize=(2, 2))
        figure.subplots().plot([1, 3, 2])
        storage.save_figure(figure, tmp_path / name)
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert content.startswith(b"\x89PNG") and b"Software" not in content and b"tIME" not in content
    assert leftovers(tmp_path) == ["a.pdf", "a.png", "b.pdf", "b.png"]


def test_a_digest_is_that_of_the_bytes_in_a_row(tmp_path):
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    (tmp_path / "abc").write_bytes(b"abc")
    assert storage.sha256(tmp_path / "abc") == records.digest(b"a", b"", b"bc") == expected


# What cannot be read, and what was made from what


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_read_for_a_moment_is_not_damaged(tmp_path, monkeypatch, number):
    """Permissions, a network disk, Windows' sharing violation: one line, and nothing is touched."""
    path = tmp_path / "file"
    storage.save_bytes(b"content", path)

    def refused(self):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refused)
        for function in (storage.verify, storage.load_bytes, storage.sha256):
            with pytest.raises(UserError, match=f"cannot read .*file: {os.strerror(number)}; when"):
                function(path)
    assert storage.verify(path) and storage.load_bytes(path) == b"content"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "hashes"]


def test_a_file_that_is_replaced_while_it_is_read_is_not_damaged(tmp_path, monkeypatch):
    """The old content is read, another process writes the new one, then its hash is read."""
    path, whole, reads = tmp_path / "metrics.csv", disk.content, []
    storage.save_bytes(b"old", path)

    def read(of):
        content = whole(of)
        if of == path and not reads:
            reads.append(of)
            storage.save_bytes(b"new", path)
        return content

    for ask in (storage.load_bytes, storage.verify):
        storage.save_bytes(b"old", path)
        reads.clear()
        with monkeypatch.context() as patched:
            patched.setattr(disk, "content", read)
            assert ask(path) in (b"new", True)
    assert whole(path) == b"new" and not list(tmp_path.glob("*.damaged"))


def test_a_file_that_another_program_holds_for_a_moment_is_written(tmp_path, monkeypatch):
    """As a virus scanner does on Windows."""
    tries, whole = [], os.replace

    def replace(source, target):
        tries.append(target)
        if len(tries) % 3:
            raise PermissionError("in use")
        whole(source, target)

    monkeypatch.setattr(os, "replace", replace)
    storage.save_bytes(b"new", tmp_path / "file")
    assert storage.load_bytes(tmp_path / "file") == b"new" and len(tries) >= 3


def test_a_source_is_noted_before_the_file_and_goes_with_it(tmp_path):
    path = tmp_path / "file"
    assert records.is_from(path, "a")  # nothing is known
    records.save_source(path, "a")
    assert records.is_from(path, "a") and not records.is_from(path, "b")
    storage.save_bytes(b"content", path)
    assert records.is_from(path, "a") and storage.verify(path)
    storage.delete(path)
    assert records.is_from(path, "b") and not any((tmp_path / "hashes").iterdir())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EBUSY])
def test_a_file_that_cannot_be_deleted_is_one_line(tmp_path, monkeypatch, number):
    path = tmp_path / "gen_data_with_w0_w0"
    storage.save_bytes(b"content", path)

    def refused(self, missing_ok=False):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(UserError, match=f"cannot delete .*w0_w0: {os.strerror(number)}"):
        storage.delete(path)


def test_a_copy_knows_what_it_was_made_from(tmp_path):
    path, target = tmp_path / "a" / "file", tmp_path / "b" / "file"
    records.save_source(path, "model")
    storage.save_bytes(b"content", path)
    storage.copy(path, target)
    assert storage.load_bytes(target) == b"content" and records.source_of(target) == "model"
    assert records.hash_of(target) == storage.sha256(path)


def test_the_hash_of_a_file_outlives_its_damage(tmp_path):
    path = tmp_path / "file"
    assert records.hash_of(path) is None
    storage.save_bytes(b"content", path)
    path.write_bytes(b"damaged")
    assert records.hash_of(path) == records.digest(b"content")
