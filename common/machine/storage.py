"""Files that are complete or absent, and known to be what was written."""

import contextlib
import csv
import hashlib
import io
import json
import os
import sys
import time
import zipfile

import numpy as np
import torch

from common.machine.errors import UserError


def write(path, content):
    """Writes bytes so that `path` is always whole: the old content, or the new.

    Their SHA-256 goes to hashes/{file name}.sha256 beside the file first, so that `read` and
    `intact` notice when the file is not what was written. UserError when the disk refuses.
    """
    record, before = _record(path), []
    try:
        if path.exists() and _matches(path, old := path.read_bytes()):
            before = [digest(old)]
        _replace(record, "\n".join([digest(content), *before]).encode())
        _replace(path, content)
        if before:  # until here the old content was right as well
            _replace(record, digest(content).encode())
    except OSError as error:
        hint = " (is it open in another program?)" if isinstance(error, PermissionError) else ""
        raise UserError(f"cannot write {path}: {error.strerror or error}{hint}") from error


def read(path, made_by="initialmain.py"):
    """The bytes of a file. UserError when it is missing, or is not what was written."""
    content = _content(path)
    if content is None:
        raise UserError(f"{path.name} is missing in {path.parent}: run {made_by} first")
    if not _matches(path, content):
        raise UserError(
            f"{path} is damaged or was replaced: run {made_by} again to make it anew, "
            f"or, to use it as it is, delete {_record(path)}"
        )
    return content


def intact(path):
    """Whether a file is there as it was written. A damaged one is kept aside, saying so; one that
    cannot be read, for the moment or for ever, is a UserError: nothing is known of it."""
    content = _content(path)
    if content is None:
        return False
    if _matches(path, content):
        return True
    number, aside = 1, path.with_name(path.name + ".damaged")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged{number}")
    try:
        os.replace(path, aside)
        _record(path).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot rename {path}, which is damaged: {error.strerror}") from error
    print(f"note: {path.name} is damaged or was replaced; kept as {aside.name} in {path.parent}")
    return False


def shown(path):
    """A path for a message: relative to the current directory where that is shorter."""
    try:
        return min(os.path.relpath(path), str(path), key=len)
    except ValueError:  # on another drive
        return str(path)


def remove(path):
    """Deletes a file that is no longer needed, if it is there, its hash and source, and what a
    write of them left behind that was killed; of a figure, the PDF beside it too."""
    if path.suffix == ".png":
        remove(path.with_suffix(".pdf"))
    for file in (path, _record(path), _source(path)):
        _delete(file)
    sweep(path)


def sweep(path):
    """Deletes what a write of a file, its hash or its source left behind that was killed. Only for
    who holds the lock under which they are written."""
    for file in (path, _record(path), _source(path)):
        _delete(_temporary(file))


def _delete(file):
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot delete {file}: {error.strerror or error}") from error


def copy(path, target):
    """Writes a file to another folder too, with the note of what it was made from."""
    if source := noted(path):
        note_source(target, source)
    write(target, read(path))


def note_source(path, source):
    """Notes, before a file is written, the hash of what it is made from."""
    try:
        _replace(_source(path), source.encode())
    except OSError as error:
        raise UserError(f"cannot write {_source(path)}: {error.strerror or error}") from error


def noted(path):
    """The hash of what a file was made from; None for files of earlier versions or other code,
    which have no note."""
    source = _content(_source(path))
    return None if source is None else source.decode("utf-8", errors="replace")


def is_from(path, source):
    """Whether a file was made from this source, as far as was noted."""
    return noted(path) in (None, source)


def recorded(path):
    """The SHA-256 with which a file was written, damaged or gone as it may be; None when other
    code wrote it."""
    record = _content(_record(path))
    hashes = [] if record is None else record.decode("utf-8", errors="replace").split()
    return hashes[0] if hashes else None


def _content(path):
    """The bytes of a file, None when there is none. UserError when it cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}; when it can be read again (is it open "
            "in another program, or the disk away?) run the same command again"
        ) from error


def _source(path):
    return path.parent / "hashes" / f"{path.name}.from"


def _record(path):
    return path.parent / "hashes" / f"{path.name}.sha256"


def _matches(path, content):
    """Whether content is what was recorded; what other code put there has no record."""
    record = _content(_record(path))
    return record is None or digest(content) in record.decode("utf-8", errors="replace").split()


def _temporary(path):
    return path.with_name(path.name + ".tmp")


def _replace(path, content):
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def save(value, path):
    """torch.save of tensors (or dicts of them), moved to the CPU."""
    content = io.BytesIO()
    torch.save(_on_cpu(value), content)
    write(path, content.getvalue())


def load(path, made_by="initialmain.py"):
    """What `save` wrote, on the CPU. UserError when the file is missing, damaged or not tensors."""
    content = read(path, made_by)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # damage can show as almost anything
        raise UserError(
            f"{path} cannot be read as tensors ({type(error).__name__}): "
            f"move it away and run {made_by} again"
        ) from error


def save_text(text, path):
    write(path, text.encode("utf-8"))


def save_json(value, path):
    save_text(json.dumps(value, indent=2) + "\n", path)


def load_json(path, made_by="initialmain.py"):
    try:
        return json.loads(read(path, made_by))
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
    return list(csv.DictReader(io.StringIO(read(path, made_by).decode("utf-8"), newline="")))


def save_figure(figure, path):
    """A matplotlib Figure as PNG, and as PDF beside it for papers, without the dates and versions
    that would change their bytes. The PNG is the file that counts, so it is written last."""
    dated = {".pdf": ("CreationDate", "Creator", "Producer"), ".png": ("Software",)}
    for suffix, names in dated.items():
        content = io.BytesIO()
        metadata = dict.fromkeys(names)
        figure.savefig(content, format=suffix[1:], dpi=200, metadata=metadata)
        write(path.with_suffix(suffix), content.getvalue())


def save_arrays(arrays, path):
    """{name: NumPy array} as .npz."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    write(path, content.getvalue())


def load_arrays(path, made_by):
    """What `save_arrays` wrote. UserError when the file is missing or damaged."""
    content = read(path, made_by)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged: move it away and run {made_by}") from error


@contextlib.contextmanager
def lock(path, wait=False):
    """Holds the file `path` locked inside the block, against other processes.

    UserError when another holds it, or, with `wait`, waits until it does not. The operating system
    frees the lock when its process ends, however that happens; the empty file stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")  # noqa: SIM115  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    with file:
        while True:
            try:
                _lock(file)
                break
            except OSError as error:
                if not wait:
                    raise UserError(
                        f"another process is at work in {path.parent} (it holds {path.name}): "
                        "wait for it, stop it, or take another folder"
                    ) from error
                time.sleep(0.2)
        yield


def _lock(file):
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sha256(path):
    """The hexadecimal SHA-256 of a file's bytes. UserError when there is no such file."""
    content = _content(path)
    if content is None:
        raise UserError(f"{path.name} is missing in {path.parent}")
    return digest(content)


def digest(*parts):
    """The hexadecimal SHA-256 of these bytes, one after the other."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def _on_cpu(value):
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()  # of a view, not of all that it views
    if isinstance(value, dict):
        return type(value)((key, _on_cpu(part)) for key, part in value.items())
    if isinstance(value, list):
        return [_on_cpu(part) for part in value]
    return value
