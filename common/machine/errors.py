"""How scripts stop: one line that tells the user what to do next."""

import contextlib
import sys

SAFE = []  # what is saved of the work in progress, in words


class UserError(Exception):
    """Something the user can put right; its text is one line that says how."""


class Refusal(UserError):
    """A UserError over things that do not belong together: the script ends with exit status 2."""


@contextlib.contextmanager
def one_line():
    """Ends the script with exit status 1 on a UserError, 2 on a Refusal and 130 on Ctrl-C, in one
    line each.

    What is printed inside appears at once, in a log file too, whose code page may lack a letter.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        yield
    except Refusal as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        safe = " and ".join(["finished stages", *SAFE])
        print(
            f"\nstopped: {safe} are safe; run the same command again to continue", file=sys.stderr
        )
        sys.exit(130)
