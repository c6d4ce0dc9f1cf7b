"""Signs of life: a bar on a terminal, lines in a log."""

import sys
import time

from tqdm import tqdm

REFRESH = 0.5  # seconds between looks at a value that may lie on a GPU


class Progress:
    """How far a piece of work of `total` units is: a bar where there is a terminal, else only
    what `line` and `tenths` say, with the seconds so far."""

    def __init__(self, name, total, unit, done=0, shown=True):
        self.name, self.total, self.done = name, total, done
        self.shown = shown
        self.terminal = sys.stderr.isatty()
        self.started = self.looked = time.monotonic()
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
        self.done = done
        if text and not self.bar.disable and time.monotonic() - self.looked > REFRESH:
            self.bar.set_postfix_str(text(), refresh=False)
            self.looked = time.monotonic()

    def tenths(self, before):
        """Says how far the work is where it has passed another tenth since `before`."""
        if 10 * self.done // self.total > 10 * before // self.total:
            self.line(f"{self.done:,} of {self.total:,}")

    def line(self, text):
        """One line where there is no terminal."""
        if self.shown and not self.terminal:
            seconds = time.monotonic() - self.started
            print(f"{self.name}: {text}, {seconds:.0f} s", flush=True)

    def close(self):
        self.bar.close()
