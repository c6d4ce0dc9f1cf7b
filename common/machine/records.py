"""What is known of a file, in hashes/ beside it: what was written, and what that was made from.

`{name}.sha256` holds the SHA-256 of what was written. While a write replaces it there are two, of
the new content and of the old, so that a kill at any moment leaves a file that its record knows.
A file without a record was put there by other code, and is right as it is.

`{name}.from` holds one hash of all that the file was made from. Files of earlier versions and of
other code have none.
"""

import hashlib

from common.machine import disk


def digest(*parts):
    """The hexadecimal SHA-256 of these bytes, one after the other."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def replace(path, new):
    """Makes the bytes `new` the content of a file that is recorded. Raises OSError."""
    old = disk.content(path)
    hashes = [digest(new)]
    if old is not None and is_right(path, old):
        hashes.append(digest(old))
    disk.replace(hashes_of(path), "\n".join(hashes).encode())
    disk.replace(path, new)
    if len(hashes) > 1:  # from here on the old content is wrong
        disk.replace(hashes_of(path), hashes[0].encode())


def is_right(path, content):
    """Whether these bytes, the content of a file, are what was written there."""
    recorded = _text(hashes_of(path))
    return recorded is None or digest(content) in recorded.split()


def hash_of(path):
    """The SHA-256 with which a file was written, damaged or gone as it may be; None when other
    code wrote it."""
    return next(iter((_text(hashes_of(path)) or "").split()), None)


def hashes_of(path):
    """Where the SHA-256 of a file is."""
    return path.parent / "hashes" / f"{path.name}.sha256"


def save_source(path, source):
    """Notes the hash of what a file is made from, before the file is written."""
    with disk.told_in_one_line("write", _source_of(path)):
        disk.replace(_source_of(path), source.encode())


def source_of(path):
    """The hash of what a file was made from, or None."""
    return _text(_source_of(path))


def is_from(path, source):
    """Whether a file was made from this source, as far as was noted."""
    return source_of(path) in (None, source)


def delete(path):
    """Deletes what is known of a file."""
    disk.delete(hashes_of(path))
    disk.delete(_source_of(path))


def sweep(path):
    """Deletes what a write of a file and of its records left behind that was killed. Only for who
    holds the lock under which they are written."""
    for file in (path, hashes_of(path), _source_of(path)):
        disk.sweep(file)


def _source_of(path):
    return path.parent / "hashes" / f"{path.name}.from"


def _text(path):
    content = disk.content(path)
    return None if content is None else content.decode("utf-8", errors="replace")
