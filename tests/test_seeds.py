"""Random numbers: functions of what they are for, and of nothing else."""

import ast
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import ROOT

from common.seeds import INITIAL, Seeds

KEYS = st.tuples(
    st.integers(0, 2**64),
    st.text(),
    st.sampled_from([0, 0.25, 1, 1.5, 2]),
    st.integers(INITIAL, 2**20),
    st.text(),
    st.integers(0, 2**20),
)


def number(seed, scenario, w, generation, stage, index):
    return Seeds(seed, scenario, w, generation).number(stage, index)


@given(KEYS, KEYS)
def test_numbers_are_equal_for_equal_keys_and_for_no_others(a, b):
    assert number(*a) == number(*a)
    assert (number(*a) == number(*b)) == (a == b)


def test_every_part_of_the_key_counts():
    parts = [
        (0, 1),
        ("FullSynthetic", "Fresh"),
        (0, 0.25),
        (INITIAL, 0),
        ("noise", "order"),
        (0, 1),
    ]
    numbers = [number(*key) for key in itertools.product(*parts)]
    assert len(set(numbers)) == 2**6


def test_equal_guidance_weights_are_the_same_whatever_their_type_and_sign():
    assert Seeds(0, "a", 2).number("noise") == Seeds(0, "a", 2.0).number("noise")
    assert Seeds(0, "a", 0).number("noise") == Seeds(0, "a", -0.0).number("noise")


def test_what_a_run_shares_depends_on_its_seed_and_scenario_alone():
    shared = Seeds(0, "tests", 0.5, 3).of_run()
    assert shared == Seeds(0, "tests", 2, 7).of_run() == Seeds(0, "tests")
    assert shared != Seeds(1, "tests").of_run() and shared != Seeds(0, "other").of_run()


@pytest.mark.parametrize(
    ("seeds", "weights", "noise_7"),
    [
        (Seeds(0, "FullSynthetic"), 15152916077426355398, 8815438167124904101),
        (Seeds(1, "FullSynthetic", 0.25, 3), 7904358074369023593, 12079469342551783992),
    ],
)
def test_numbers_are_those_of_the_first_release(seeds, weights, noise_7):
    """Another number here means that no finished run can be repeated or continued."""
    assert seeds.number("weights") == weights
    assert seeds.number("noise", 7) == noise_7


def test_generators_start_from_the_number_of_their_key():
    seeds = Seeds(3, "tests", 0.5, 2)
    assert seeds.torch_generator("noise", 4).initial_seed() == seeds.number("noise", 4)
    first, second = (seeds.torch_generator("noise", 4) for _ in range(2))
    assert torch.equal(torch.randn(9, generator=first), torch.randn(9, generator=second))
    first, second = (seeds.numpy_generator("noise", 4).integers(2**62, size=9) for _ in range(2))
    assert (first == second).all()
    assert (first != seeds.numpy_generator("noise", 5).integers(2**62, size=9)).all()


def test_weights_are_drawn_apart_from_pytorchs_global_state():
    seeds = Seeds(0, "tests")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = seeds.initialised(lambda: torch.nn.Linear(5, 5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = seeds.initialised(lambda: torch.nn.Linear(5, 5))
    other = seeds.initialised(lambda: torch.nn.Linear(5, 5), "other weights")
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)


# Nothing that ships draws from a global state.

SHIPPED = [
    *(ROOT / "common").rglob("*.py"),
    *ROOT.glob("*/*/*main*.py"),
    *ROOT.glob("*/*/scenario.py"),
    *(ROOT / "jacobian").glob("*.py"),
]
EXPLICIT = {"SeedSequence", "default_rng", "Generator"}  # of np.random
DRAWS = {
    *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"),
    *("rand_like", "randn_like", "randint_like"),
    *("normal_", "uniform_", "random_", "bernoulli_", "exponential_"),
}
SEEDED = {
    "PCA": "random_state",
    "TSNE": "random_state",
    "train_test_split": "random_state",
    "svds": "v0",
}


def global_draws(source):
    """The calls in this source that draw from, or set, a global random state."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            if modules & {"random", "numpy.random"}:
                yield ast.unparse(node)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        *owner, last = name.split(".")
        keywords = {word.arg for word in node.keywords}  # None stands for **keywords
        if owner and owner[-1] == "random" and owner[0] in ("np", "numpy"):
            if last not in EXPLICIT or not (node.args or node.keywords):
                yield name
        elif (
            name in ("torch.manual_seed", "torch.seed", "torch.cuda.manual_seed_all")
            or (owner[:1] == ["torch"] and last in DRAWS and not keywords & {"generator", None})
            or (last.endswith("_") and last in DRAWS and "generator" not in keywords)
            or (last in SEEDED and SEEDED[last] not in keywords)
        ):
            yield name


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_draws_from_a_global_state(path):
    allowed = ["torch.manual_seed"] if path.name == "seeds.py" else []
    assert list(global_draws(path.read_text(encoding="utf-8"))) == allowed


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("np.random.seed(0)", True),
        ("x = np.random.rand(3)", True),
        ("rng = np.random.default_rng()", True),
        ("rng = np.random.default_rng(seed)", False),
        ("torch.manual_seed(0)", True),
        ("x = torch.randn(3)", True),
        ("x = torch.randn(3, generator=g)", False),
        ("x.normal_()", True),
        ("import random", True),
        ("PCA(2).fit(x)", True),
        ("PCA(2, random_state=1).fit(x)", False),
        ("rng.normal(size=3)", False),
    ],
)
def test_the_search_for_global_draws_finds_them(source, found):
    assert bool(list(global_draws(source))) == found
