"""What each constant of a script may be: a test, and the words for it."""

import math
import re

from common import recipes
from common.metrics import PRDC_K
from common.spectrum import MOST_STEPS, WATCHED

MOST_SIGNAL = 0.1  # of the image that may be left in x_T; published: 0.006
DATASETS = ("mnist", "fashion_mnist", "kmnist", "digits")  # that have a name


def kind_of_data(dataset):
    """A dataset's name; of a file of one's own, which may lie elsewhere now, that it is one."""
    return dataset if dataset in DATASETS or dataset is None else "a file of one's own"


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
    "n_T": (
        lambda value: _whole(2)[0](value) and value < MOST_STEPS,
        f"a whole number, 2 or more, below {MOST_STEPS:,}",
    ),
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
    "arms": _list_of((lambda value: isinstance(value, str),), "one or more kinds", distinct=False),
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
# Numbers that need not be whole, whatever the default.
REAL = {"w", "Wall", "lrate", "save_every", "eta"}
WRITTEN = {"save_dir", "save_dirs", "output_dir"}  # folders that a script writes to
PATHS = WRITTEN | {"run_dir", "runs", "controls"}


def contradiction(constants):
    """What is wrong with a script's constants together, in words, or None."""
    if hasattr(constants, "beta1") and not constants.beta1 < constants.beta2:
        return f"beta1 is {constants.beta1}, but it must be below beta2, {constants.beta2}"
    if getattr(constants, "sampler", None) == "ddim" and constants.sample_steps > constants.n_T:
        steps, n_T = constants.sample_steps, constants.n_T
        return f"sample_steps is {steps}, but it must be at most n_T, {n_T}"
    if getattr(constants, "control", False) and getattr(constants, "accumulate", False):
        return "accumulate = True has no control: its training sets grow"
    n_next = getattr(constants, "N_next", getattr(constants, "N_with_w", math.inf))
    if n_next <= PRDC_K and any([getattr(constants, "w", 0), *getattr(constants, "Wall", ())]):
        name = "N_next" if hasattr(constants, "N_next") else "N_with_w"
        return f"{name} is {n_next}, but guided samples must be above {PRDC_K}, the k of PRDC"
    return _schedule_error(constants) if hasattr(constants, "n_T") else None


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
