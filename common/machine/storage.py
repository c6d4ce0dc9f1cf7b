"""Files that are complete or absent, and known to be what was written: bytes, tensors, tables.

What is noted of a file is in `records`; how it comes to be whole is in `disk`.
"""

import contextlib
import csv
import io
import json
import os
import time
import zipfile

import filelock
import numpy as np
import torch

from common.machine import disk, records
from common.machine.errors import UserError


def save_bytes(content, path):
    """Writes bytes so that `path` is always whole, the old content or the new, and `load_bytes` and
    `verify` notice when it is not what was written. UserError when the disk refuses."""
    with disk.told_in_one_line("write", path):
        records.replace(path, content)


def load_bytes(path, made_by="initialmain.py"):
    """The bytes of a file. UserError when it is missing, or is not what was written."""
    content, right = _read(path)
    if content is None:
        raise UserError(f"{path.name} is missing in {path.parent}: run {made_by} first")
    if not right:
        raise UserError(
            f"{path} is damaged or was replaced: run {made_by} again to make it anew, "
            f"or, to use it as it is, delete {records.hashes_of(path)}"
        )
    return content


def _read(path):
    """The bytes of a file, None without one, and whether they are there and what was written.

    What is wrong is read again: another process may have replaced it between content and hash.
    """
    for pause in (0, 0.01, 0.1):
        time.sleep(pause)
        content = disk.content(path)
        if content is None or records.is_right(path, content):
            return content, content is not None
    return content, False


def verify(path):
    """Sets a file aside, saying so, that is not what was written; returns whether it is there now.
    A figure whose PDF is damaged goes with it, so that both are drawn again.

    One that cannot be read, for the moment or for ever, is a UserError: nothing is known of it.
    """
    pdf = path.with_suffix(".pdf")
    if path.suffix == ".png" and pdf.exists() and not verify(pdf):
        delete(path)
        return False
    content, right = _read(path)
    if content is None or right:
        return right
    number, aside = 1, path.with_name(path.name + ".damaged")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged{number}")
    with disk.told_in_one_line("rename", path):
        os.replace(path, aside)
    disk.delete(records.hashes_of(path))  # but not what it was made from
    print(f"note: {path.name} is damaged or was replaced; kept as {aside.name} in {path.parent}")
    return False


def shown(path):
    """A path for a message: relative to the current directory where that is shorter."""
    try:
        return min(os.path.relpath(path), str(path), key=len)
    except ValueError:  # on another drive
        return str(path)


def delete(path):
    """Deletes a file that is no longer needed, if it is there, what is noted of it, and what a
    write of them left behind that was killed; of a figure, the PDF beside it too."""
    if path.suffix == ".png":
        delete(path.with_suffix(".pdf"))
    disk.delete(path)
    records.delete(path)
    records.sweep(path)


def copy(path, target):
    """Writes a file to another folder too, with the note of what it was made from."""
    if source := records.source_of(path):
        records.save_source(target, source)
    save_bytes(load_bytes(path), target)


def save(value, path):
    """torch.save of tensors (or dicts of them), moved to the CPU."""
    content = io.BytesIO()
    torch.save(_on_cpu(value), content)
    save_bytes(content.getvalue(), path)


def load(path, made_by="initialmain.py"):
    """What `save` wrote, on the CPU. UserError when the file is missing, damaged or not tensors."""
    content = load_bytes(path, made_by)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # damage can show as almost anything
        raise UserError(
            f"{path} cannot be read as tensors ({type(error).__name__}): "
            f"move it away and run {made_by} again"
        ) from error


def save_text(text, path):
    save_bytes(text.encode("utf-8"), path)


def save_json(value, path):
    save_text(json.dumps(value, indent=2) + "\n", path)


def load_json(path, made_by="initialmain.py"):
    try:
        return json.loads(load_bytes(path, made_by))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): move it away and start again") from error


def save_rows(rows, path):
    """A CSV file of dicts, empty where one lacks a key; floats keep all their digits."""
    text, keys = io.StringIO(), dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, fieldnames=list(keys), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    save_text(text.getvalue(), path)


def load_rows(path, made_by="main.py"):
    """The rows of a CSV file as dicts of strings; [] when there is no such file."""
    if not path.exists():
        return []
    return list(csv.DictReader(io.StringIO(load_bytes(path, made_by).decode("utf-8"), newline="")))


def save_figure(figure, path):
    """A matplotlib Figure as PNG, and as PDF beside it for papers, without the dates and versions
    that would change their bytes. The PNG is the file that counts, so it is written last."""
    dated = {".pdf": ("CreationDate", "Creator", "Producer"), ".png": ("Software",)}
    for suffix, names in dated.items():
        content = io.BytesIO()
        metadata = dict.fromkeys(names)
        figure.savefig(content, format=suffix[1:], dpi=200, metadata=metadata)
        save_bytes(content.getvalue(), path.with_suffix(suffix))


def save_arrays(arrays, path):
    """{name: NumPy array} as .npz."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    save_bytes(content.getvalue(), path)


def load_arrays(path, made_by):
    """What `save_arrays` wrote. UserError when the file is missing or damaged."""
    content = load_bytes(path, made_by)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged: move it away and run {made_by}") from error


@contextlib.contextmanager
def lock(path, wait=False):
    """Holds the file `path` locked inside the block, against other processes.

    UserError when another holds it, or, with `wait`, waits until it does not. The operating system
    frees the lock when its process ends, however that happens.
    """
    with disk.told_in_one_line("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(path, timeout=-1 if wait else 0)
        try:
            held.acquire()
        except filelock.Timeout as error:
            raise UserError(
                f"another process is at work in {path.parent} (it holds {path.name}): "
                "wait for it, stop it, or take another folder"
            ) from error
    try:
        yield
    finally:
        held.release()


def sha256(path):
    """The hexadecimal SHA-256 of a file's bytes. UserError when there is no such file."""
    content = disk.content(path)
    if content is None:
        raise UserError(f"{path.name} is missing in {path.parent}")
    return records.digest(content)


def _on_cpu(value):
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()  # of a view, not of all that it views
    if isinstance(value, dict):
        return type(value)((key, _on_cpu(part)) for key, part in value.items())
    if isinstance(value, list):
        return [_on_cpu(part) for part in value]
    return value
