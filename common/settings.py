"""A script's constants, and the command line built from them.

`python main.py --n_epoch 2 --Wall 0 0.25` overrides the constants at the top of main.py: a
constant's trailing comment is its help text and the type of its value is its type. Relative paths
are relative to the script's folder, whatever the current directory is.
"""

import argparse
import ast
import difflib
import io
import math
import os
import re
import sys
import tempfile
import tokenize
from pathlib import Path
from types import SimpleNamespace

from common import recipes
from common.metrics import PRDC_K
from common.spectrum import WATCHED

ROOT = Path(__file__).resolve().parents[1]


DATASETS = ("mnist", "fashion_mnist", "kmnist", "digits")  # that have a name


def _whole(least):
    def allows(value):
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return allows, f"a whole number, {least} or more"


def _number(above, text):
    def allows(value):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(value) and above(value)

    return allows, text


def _one_of(*choices):
    return (lambda value: value in choices), " or ".join(repr(choice) for choice in choices)


def _list_of(rule, text, empty=False, distinct=True):
    def allows(values):
        return (
            isinstance(values, (list, tuple))
            and (empty or len(values) > 0)
            and all(rule[0](value) for value in values)
            and (not distinct or len(set(values)) == len(values))
        )

    return allows, text


def _part(text):
    """Whether text is like 3/20, the first number 1 to the second."""
    numbers = re.fullmatch(r"(\d+)/(\d+)", text)
    return numbers is not None and 1 <= int(numbers[1]) <= int(numbers[2])


_TRUTH = (lambda value: isinstance(value, bool)), "True or False"
_PATH = (
    lambda value: isinstance(value, str) and value.strip() != "" and min(map(ord, value)) >= 32,
    "a folder's name, with / or \\\\ between folders: a single \\ changes the letter after it",
)
_GUIDANCE = _number(lambda w: w >= 0, "a number, 0 or more")
_PROBABILITY = _number(lambda p: 0 < p < 1, "a number between 0 and 1, both excluded")

# What each constant may be: a test and the words for it.
RULES = {
    "N_with_w": _whole(1),
    "N_next": _whole(1),
    "N_real": _whole(1),
    "N_initial": _whole(0),
    "N_eval": (_whole(PRDC_K + 1)[0], f"a whole number above {PRDC_K}, the k of PRDC"),
    "max_c": _whole(1),
    "w": _GUIDANCE,
    "Wall": _list_of(_GUIDANCE, "one or more numbers, each 0 or more and none twice"),
    "N_ref": (
        lambda value: _whole(0)[0](value) and not 0 < value <= PRDC_K,
        f"0 (all) or a whole number above {PRDC_K}, the k of PRDC",
    ),
    "n_epoch": _whole(1),
    "n_step": _whole(0),
    "loss_weight": _one_of("plain", "min_snr"),
    "batch_size": _whole(1),
    "lrate": _number(lambda rate: rate > 0, "a number above 0"),
    "n_T": _whole(2),
    "beta1": _number(  # float32 cannot tell 1 - 1e-8 from 1
        lambda beta: 1e-7 <= beta < 1, "a number between 0 and 1, both excluded, 1e-7 or more"
    ),
    "beta2": _PROBABILITY,
    "n_feat": (
        lambda value: _whole(8)[0](value) and value % 8 == 0,
        "a multiple of 8 (the groups of GroupNorm), 8 or more",
    ),
    "n_classes": _one_of(10),
    "generation_number": _whole(1),
    "seed": _whole(0),
    "dataset": (
        lambda value: value in DATASETS or (_PATH[0](value) and value.endswith(".npz")),
        f"{', '.join(map(repr, DATASETS))}, or the path of an .npz file",
    ),
    "init_from": _one_of("scratch", "previous"),
    "control": _TRUTH,
    "resample_real": _one_of(True, False, "redraw"),
    "accumulate": _TRUTH,
    "deterministic": _TRUTH,
    "sampler": _one_of("ddpm", "ddim"),
    "sample_steps": _whole(1),
    "eta": _number(lambda eta: 0 <= eta <= 1, "a number from 0 to 1"),
    "clip_x0": _TRUTH,
    "fast": _TRUTH,
    "amp": _TRUTH,
    "save_every": _number(lambda seconds: seconds >= 0, "a number of seconds, 0 or more"),
    "save_dir": _PATH,
    "save_dirs": _list_of(_PATH, "one or more folders, none twice"),
    "run_dir": _PATH,
    "runs": _list_of(_PATH, "one or more run folders, none twice"),
    "controls": _list_of(_PATH, "folders of control loops, none twice", empty=True),
    "output_dir": _PATH,
    "generations": _list_of(_whole(0), "generation numbers, none twice", empty=True),
    "timesteps": _list_of(_whole(1), "one or more whole numbers from 1, none twice"),
    "n_anchors": (
        lambda value: _whole(10)[0](value) and value % 10 == 0,
        "a multiple of 10 (as many of each class), 10 or more",
    ),
    "anchors_from": _one_of("test", "samples"),
    "sample_timesteps": _list_of(_whole(1), "one or more whole numbers from 1, none twice"),
    "name": (
        lambda value: re.fullmatch(r"[\w.-]+", value) is not None,
        "a folder's name of letters, digits, dots, - and _",
    ),
    "role": _one_of("pilot", "test"),
    "arms": _list_of((lambda value: isinstance(value, str),), "one or more kinds, none twice"),
    "loops": _list_of(_whole(0), "one or more whole numbers", distinct=False),
    "first_seed": _whole(0),
    "base": _one_of(*recipes.NAMES),
    "N_train": _whole(10),
    "overrides": _list_of(
        (lambda word: re.fullmatch(r"\w+=.+", word) is not None,),
        "words such as n_step=500",
        empty=True,
    ),
    "keep": _TRUTH,
    "n_jobs": (lambda n: n == -1 or _whole(1)[0](n), "-1 (all cores), or a whole number from 1"),
    "scheduler": (lambda value: isinstance(value, str), "an address"),
    "part": (_part, "such as 3/20: the third of 20 parts"),
    "dry_run": _TRUTH,
    "report": _TRUTH,
    "alpha": _PROBABILITY,
    "primary": _one_of(*WATCHED),
    "primary_t": _whole(1),
}
MOST_SIGNAL = 0.1  # of the image that may be left in x_T; published: 0.006
REAL = {"w", "Wall", "lrate", "save_every"}  # numbers that need not be whole, whatever the default
WRITTEN = {"save_dir", "save_dirs", "output_dir"}  # folders that a script writes to
PATHS = WRITTEN | {"run_dir", "runs", "controls"}


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
        if name in PATHS:
            value = _resolved(value, script.parent)
        if name == "dataset" and value not in DATASETS:
            value = str(_resolved(value, script.parent))
        if name in WRITTEN:
            for folder in value if isinstance(value, list) else [value]:
                if reason := _why_unwritable(folder):
                    parser.error(f"{name} is {str(folder)!r}, which cannot be written to: {reason}")
        setattr(constants, name, value)
    if hasattr(constants, "beta1") and not constants.beta1 < constants.beta2:
        parser.error(f"beta1 is {constants.beta1}, but it must be below beta2, {constants.beta2}")
    if getattr(constants, "sampler", None) == "ddim" and constants.sample_steps > constants.n_T:
        parser.error(
            f"sample_steps is {constants.sample_steps}, but it must be at most n_T, {constants.n_T}"
        )
    if hasattr(constants, "n_T") and (text := _schedule_error(constants)):
        parser.error(text)
    if recipe:
        print(meaning)
    return constants


def _schedule_error(constants):
    """What is wrong with n_T and the betas together, or None: x_T must be noise, and alphabar a
    number that float32 has."""
    n_T, beta1, beta2 = constants.n_T, constants.beta1, constants.beta2
    betas = (beta1 + (beta2 - beta1) * t / n_T for t in range(n_T + 1))
    alphabar_T = math.exp(sum(math.log1p(-beta) for beta in betas))
    if 1e-37 < alphabar_T <= MOST_SIGNAL:
        return None
    return (
        f"n_T is {n_T} and beta2 {beta2}: of the image in x_T, where sampling starts from noise "
        f"alone, alphabar_T = {alphabar_T:.2g} is left, but it must be between 1e-37 and "
        f"{MOST_SIGNAL}; beta2 = {min(0.9, 10 / n_T):.3g} suits this n_T, n_T = "
        f"{round(10 / beta2)} this beta2"
    )


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
    found = [names(path) for path in like if path.exists() and path != script]
    return set.intersection(set(RULES) - {"w", "Wall"}, *found) if found else set()


def names(script):
    """The names of the constants of the script at this path."""
    return set(_assigned(script))


def _assigned(script):
    """{name: its value's syntax tree} of the constants in a script."""
    body = ast.parse(script.read_text(encoding="utf-8-sig")).body
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
