"""A script's constants, and the command line built from them.

`python main.py --n_epoch 2 --Wall 0 0.25` overrides the constants at the top of main.py: a
constant's trailing comment is its help text and the type of its value is its type. Relative paths
are relative to the script's folder, whatever the current directory is.
"""

import argparse
import ast
import contextlib
import difflib
import io
import os
import sys
import tempfile
import tokenize
from pathlib import Path
from types import SimpleNamespace

from common import recipes
from common.rules import DATASETS, PATHS, REAL, RULES, WRITTEN, contradiction

ROOT = Path(__file__).resolve().parents[1]


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def from_script(namespace, argv=None):
    """The constants of the script whose `globals()` these are, overridden by the command line.

    Returns a namespace with an attribute per constant, paths resolved against the script's folder,
    and `script` (Path). Ends with exit status 2 and one line on stderr, naming the constant, its
    value and what is allowed, when a name or a value is wrong. argv: sys.argv[1:] by default.
    """
    script = Path(namespace["__file__"]).resolve()
    source = script.read_text(encoding="utf-8-sig")  # Windows editors add a byte-order mark
    comments = _constants(source)
    defaults = {name: namespace[name] for name in comments}
    parser = _Parser(
        prog=script.name,
        description=(ast.get_docstring(ast.parse(source)) or "").strip(),
        epilog="Relative paths are relative to the script's folder.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, value in defaults.items():
        shown = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        parser.add_argument(
            f"--{name}",
            metavar="VALUE",
            **_n_values(value),
            help=f"{comments[name]} (default: {shown})".replace("%", "%%"),
            default=argparse.SUPPRESS,
        )
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"stands for the constants of a recipe: {' or '.join(recipes.NAMES)}",
    )
    given_words = sys.argv[1:] if argv is None else argv
    words, recipe, meaning = _expanded(given_words, script, defaults, parser)
    given, unknown = parser.parse_known_args(words)
    if unknown:
        name = unknown[0].split("=")[0]
        close = difflib.get_close_matches(name.lstrip("-"), defaults, n=1, cutoff=0.5)
        hint = f"; did you mean --{close[0]}?" if close else "; --help lists the constants"
        parser.error(f"there is no constant {name}{hint}")

    if strange := [name for name in defaults if name not in RULES]:
        close = difflib.get_close_matches(strange[0], RULES, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        parser.error(f"no script has a constant {strange[0]}, which stands in {script.name}{hint}")
    if lacking := sorted(_needed(script) - set(defaults)):
        parser.error(f"{script.name} has no constant {lacking[0]}: restore its line")
    constants = SimpleNamespace(script=script, recipe=recipe, words=list(given_words))
    for name, default in defaults.items():
        value = getattr(given, name, None)
        if value == [] and not isinstance(default, (list, tuple)):  # argparse's reading of "--"
            parser.error(f"argument --{name}: expected one argument")
        try:
            value = default if value is None else _converted(name, value, default)
        except ValueError as error:
            parser.error(f"--{name}: {error}")
        if name in RULES and not RULES[name][0](value):
            shown = "nothing" if value == [] else repr(value)
            parser.error(f"{name} is {shown}, but it must be {RULES[name][1]}")
        try:
            if name in PATHS:
                value = _resolved(value, script.parent)
            if name == "dataset" and value not in DATASETS:
                value = str(_resolved(value, script.parent))
        except RuntimeError as error:  # of ~ where there is no such user
            parser.error(f"{name} is {value!r}: {error}")
        if name in WRITTEN:
            for folder in value if isinstance(value, list) else [value]:
                if reason := _why_unwritable(folder):
                    parser.error(f"{name} is {str(folder)!r}, which cannot be written to: {reason}")
        setattr(constants, name, value)
    if text := contradiction(constants):
        parser.error(text)
    if recipe:
        print(meaning)
    return constants


def initial_command(constants, weights):
    """The command that makes what main.py needs for these weights (texts), with the user's
    overrides as far as initialmain.py has them."""
    script = constants.script.with_name("initialmain.py")
    known = {*names(script), "recipe"} - {"Wall"}
    renamed = {"save_dir": "save_dirs", "N_next": "N_with_w", "N_initial": "N_real"}
    kept, keeping = [], False
    for word in getattr(constants, "words", []):
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            if name == "N_real" and hasattr(constants, "N_initial"):
                name = None  # of each generation, not of the initial model
            name = renamed.get(name, name)
            keeping = name in known
            word = f"--{name}{equals}{value}"
        if keeping:
            kept.append(word)
    if not any(word.startswith(("--save_dirs", "--recipe")) for word in kept):
        named = ast.literal_eval(_assigned(script)["save_dirs"])
        if constants.save_dir not in _resolved(named, script.parent):
            kept += ["--save_dirs", str(constants.save_dir)]
    kept = [f'"{word}"' if " " in word else word for word in kept]
    return " ".join(["python initialmain.py", *kept, "--Wall", *weights])


def _expanded(words, script, defaults, parser):
    """The command line with `--recipe NAME` replaced, where it stands, by what it stands for, so
    that what follows overrides it; that name, or None; and what it stands for, in words."""
    expanded, recipe, meaning, words = [], None, "", iter(words)
    for word in words:
        if word.split("=")[0] != "--recipe":
            expanded.append(word)
            continue
        recipe = word.partition("=")[2] or next(words, None)
        if recipe not in recipes.NAMES:
            parser.error(f"recipe is {recipe!r}, but it must be {' or '.join(recipes.NAMES)}")
        meant = []
        for name, value in recipes.overrides(recipe, script, defaults).items():
            values = value if isinstance(value, list) else [value]
            meant += [f"--{name}", *map(str, values)]
        meaning = f"recipe {recipe}: {' '.join(meant) or 'nothing that this script has'}"
        expanded += meant
    return expanded, recipe, meaning


def _n_values(default):
    """How many values argparse lets follow a constant with this default: a truth may be named
    without one, and is True then."""
    if isinstance(default, (list, tuple)):
        return {"nargs": "*"}
    return {"nargs": "?", "const": "True"} if isinstance(default, bool) else {}


def of_script(script, words):
    """The constants of the script at this path (Path), as it has them itself with these words as
    its command line."""
    values = {name: ast.literal_eval(value) for name, value in _assigned(script).items()}
    return from_script({**values, "__file__": str(script)}, words)


def number_text(w):
    """A guidance weight as it appears in file names: 0, 0.25, 2 (never 0.0)."""
    return str(int(w)) if w == int(w) else repr(float(w))


def _constants(source):
    """Names of the constants assigned at the top level, each with its trailing comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}
    return {
        node.targets[0].id: comments.get(node.end_lineno, "").lstrip("# ")
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _needed(script):
    """The constants that a script must have: main.py and mainall.py those of each other but w and
    Wall, initialmain.py what it has in every other scenario."""
    twin = {"main": "mainall.py", "mainall": "main.py"}.get(script.stem)
    like = [script.with_name(twin)] if twin else ROOT.glob(f"*/*/{script.name}")
    found = []
    for path in like:
        if path.exists() and path != script:
            with contextlib.suppress(SyntaxError, UnicodeDecodeError):  # a copy that is worked at
                found.append(names(path))
    return set.intersection(set(RULES) - {"w", "Wall"}, *found) if found else set()


def names(script):
    """The names of the constants of the script at this path."""
    return set(_assigned(script))


def _assigned(script):
    """{name: its value's syntax tree} of the constants in a script."""
    body = ast.parse(script.read_text(encoding="utf-8-sig"), str(script)).body
    assigned = [node for node in body if isinstance(node, ast.Assign)]
    return {n.targets[0].id: n.value for n in assigned if isinstance(n.targets[0], ast.Name)}


def _converted(name, text, default):
    """The command line's text as a value of the default's type; ValueError says what is wrong."""
    if isinstance(default, (list, tuple)):
        kind = type(default[0]) if default else int if name == "generations" else str
        return [_converted(name, part, kind()) for part in text]
    if isinstance(default, bool):
        if name == "resample_real" and text == "redraw":
            return text
        if text not in ("True", "False"):
            raise ValueError(f"{text!r} is neither True nor False")
        return text == "True"
    if isinstance(default, float) or name in REAL:
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number") from None
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
    return text


def _resolved(value, folder):
    if isinstance(value, (list, tuple)):
        return [_resolved(part, folder) for part in value]
    return Path(os.path.normpath(folder / Path(value).expanduser()))


def _why_unwritable(folder):
    """What hinders writing to a folder that is there or is still to be made; None if nothing."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if there is None:
        return "there is no such drive"
    if not there.is_dir():
        return f"{there} is a file"
    try:
        with tempfile.TemporaryFile(dir=there):
            return None
    except OSError as error:
        return error.strerror or str(error)
