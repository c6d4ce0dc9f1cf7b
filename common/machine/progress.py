"""Signs of life: a bar on a terminal, lines in a log."""

import sys
import time

from tqdm import tqdm

from common.machine import errors

REFRESH = 0.5  # seconds between looks at a value that may lie on a GPU


def duration(seconds):
    """Seconds in words for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Progress:
    """How far a piece of work of `total` units is: a bar where there is a terminal, else only
    what `line` says and, with `tenths`, a line per ten per cent."""

    def __init__(self, name, total, unit, done=0, shown=True, tenths=False):
        self.name, self.total, self.done = name, total, done
        self.shown, self.tenths = shown, tenths
        self.terminal = sys.stderr.isatty()
        self.started = self.looked = self.said = time.monotonic()
        self.bar = tqdm(
            desc=name,
            total=total,
            initial=done,
            unit=unit,
            leave=False,
            disable=not (shown and self.terminal),
        )

    def to(self, done, text=None):
        """The work has come to `done`; text() is a word on it, asked for now and then only."""
        self.bar.update(done - self.done)
        before, self.done = self.done, done
        if text and not self.bar.disable and time.monotonic() - self.looked > REFRESH:
            self.bar.set_postfix_str(text(), refresh=False)
            self.looked = time.monotonic()
        if self.tenths and 10 * done // self.total > 10 * before // self.total:
            self.line(f"{100 * done // self.total} %")

    def line(self, text):
        """One line where there is no terminal, at most one a second."""
        now = time.monotonic()
        if self.shown and not self.terminal and now - self.said > 1:
            print(f"{self.name}: {text}, {now - self.started:.0f} s", flush=True)
            self.said = now

    def saved(self, what):
        """Notes what is safe if the work is stopped now."""
        errors.SAFE[:] = [f"{what} of “{self.name}”"]

    def close(self):
        self.bar.close()
        errors.SAFE.clear()
