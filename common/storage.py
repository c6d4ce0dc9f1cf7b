"""Files that are either complete or absent, on any device that reads them."""

import contextlib
import csv
import hashlib
import io
import json
import os

import torch

from common.errors import UserError


@contextlib.contextmanager
def atomic(path):
    """A binary file to write; `path` appears, whole, when the block ends without an error."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save(value, path):
    """torch.save of tensors (or dicts of them), moved to the CPU, atomically."""
    with atomic(path) as file:
        torch.save(_on_cpu(value), file)


def load(path, made_by="initialmain.py"):
    """What `save` wrote, on the CPU. UserError when the file is missing, damaged or not tensors."""
    if not path.exists():
        raise UserError(f"{path.name} is missing in {path.parent}: run {made_by} first")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage can show as almost anything
        raise UserError(
            f"{path} cannot be read as tensors ({type(error).__name__}): "
            f"move it away and run {made_by} again"
        ) from error


def save_text(text, path):
    with atomic(path) as file:
        file.write(text.encode("utf-8"))


def save_json(value, path):
    save_text(json.dumps(value, indent=2) + "\n", path)


def load_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): move it away and start again") from error


def save_rows(rows, path):
    """A CSV file of dicts that share their keys; floats keep all their digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    save_text(text.getvalue(), path)


def load_rows(path):
    """The rows of a CSV file as dicts of strings; [] when there is no such file."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def save_figure(figure, path):
    """A matplotlib Figure as PNG, without the date or version that would change its bytes."""
    with atomic(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})


def sha256(path):
    """The hexadecimal SHA-256 of a file's bytes."""
    return digest(path.read_bytes())


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
