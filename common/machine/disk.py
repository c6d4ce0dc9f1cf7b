"""Bytes on the disk: whole files in, whole files out, and one line when it refuses."""

import contextlib
import os
import time

from common.machine.errors import UserError


def content(path):
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


@contextlib.contextmanager
def told_in_one_line(verb, path):
    """Makes a UserError, "cannot {verb} {path}: why", of what the disk refuses inside."""
    try:
        yield
    except OSError as error:
        hint = " (is it open in another program?)" if isinstance(error, PermissionError) else ""
        raise UserError(f"cannot {verb} {path}: {error.strerror or error}{hint}") from error


def replace(path, new):
    """Makes the bytes `new` the content of a file, which is never partly there: the old content
    stays until the new one is on the disk. Raises OSError."""
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(new)
            file.flush()
            os.fsync(file.fileno())
        _renamed(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _renamed(temporary, path):
    """`os.replace`, tried again for a second: on Windows it fails while a virus scanner or another
    process has the file open."""
    for pause in (0.05, 0.2, 0.75):
        try:
            return os.replace(temporary, path)
        except PermissionError:
            time.sleep(pause)
    os.replace(temporary, path)


def delete(path):
    """Deletes a file, if it is there."""
    with told_in_one_line("delete", path):
        path.unlink(missing_ok=True)


def sweep(path):
    """Deletes what a `replace` of this file left behind that was killed."""
    delete(_temporary(path))


def _temporary(path):
    return path.with_name(path.name + ".tmp")
