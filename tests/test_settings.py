"""Constants and the command line, on a small script and on those that ship."""

import ast
import json
import runpy
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import FULL, ROOT, constants_of

from common import rules, settings

SCRIPT = f'''"""Makes nothing, for 100 % of its constants."""

import json
import sys

sys.path.insert(0, {str(ROOT)!r})

from common import settings

# Some numbers
N_next = 10  # images sampled, 10 % of 100
w = 0  # guidance weight
Wall = [1.5, 2]  # guidance weights
lrate = 1e-4  # learning rate
generations = []  # generations to look at; none: all

# Some others
dataset = "mnist"  # the real data
deterministic = False  # repeatable
save_dir = "./data/run/"  # outputs
save_dirs = [
    "./a/",
    "b",
]  # all outputs

if __name__ == "__main__":
    print(json.dumps(vars(settings.from_script(globals())), default=str))
'''
NAMES = ["N_next", "w", "Wall", "lrate", "generations", "dataset", "deterministic", "save_dir"]


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def constants(script, *words):
    """What the script's one call gets from these words of the command line."""
    return settings.from_script({**runpy.run_path(script), "__file__": str(script)}, list(words))


def test_a_truth_that_is_named_alone_is_true(script):
    assert constants(script, "--deterministic", "--w", "1").deterministic is True
    assert constants(script, "--deterministic", "False").deterministic is False
    assert constants(script).deterministic is False


def refusal(capsys, script, *words):
    """The one line on stderr with which the script refuses these words, exit status 2."""
    with pytest.raises(SystemExit) as stopped:
        constants(script, *words)
    shown = capsys.readouterr()
    assert stopped.value.code == 2 and shown.out == ""
    assert shown.err.count("\n") == 1 and shown.err.endswith("\n")
    assert shown.err.startswith("script.py: error: ")
    return shown.err


# The command line


def test_without_a_command_line_the_constants_are_the_scripts(script):
    found = constants(script)
    assert (found.N_next, found.w, found.Wall, found.lrate) == (10, 0, [1.5, 2], 1e-4)
    assert (found.dataset, found.deterministic, found.generations) == ("mnist", False, [])
    assert found.script == script.resolve()


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("N_next", ["60000"], 60000),
        ("N_next", ["10"], 10),
        ("w", ["0.25"], 0.25),  # real, though the default is a whole number
        ("w", ["2"], 2),
        ("w", ["1e-1"], 0.1),
        ("Wall", ["0", "0.25"], [0, 0.25]),
        ("Wall", ["3"], [3]),
        ("lrate", ["1"], 1),
        ("lrate", ["3e-4"], 3e-4),
        ("generations", ["0", "3"], [0, 3]),
        ("generations", [], []),
        ("dataset", ["digits"], "digits"),
        ("deterministic", ["True"], True),
        ("deterministic", ["False"], False),
    ],
)
def test_every_type_of_constant_can_be_overridden(script, name, words, value):
    found = getattr(constants(script, f"--{name}", *words), name)
    assert found == value
    if name not in rules.REAL:
        assert type(found) is type(value)


def test_a_real_number_that_was_edited_to_a_whole_one_still_takes_others():
    main = FULL / "main.py"
    values = {**vars(constants_of(main)), "eta": 1, "__file__": str(main)}
    del values["script"]
    assert settings.from_script(values, ["--eta", "0.5"]).eta == 0.5


def test_several_constants_and_an_equals_sign(script):
    found = constants(script, "--N_next=7", "--Wall", "0", "1", "--lrate", "0.5")
    assert (found.N_next, found.Wall, found.lrate, found.w) == (7, [0, 1], 0.5, 0)


def test_help_shows_every_constant_its_comment_and_its_default(script, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")  # no line breaks within a text
    with pytest.raises(SystemExit) as stopped:
        constants(script, "--help")
    shown = capsys.readouterr()
    assert stopped.value.code == 0 and shown.err == ""
    assert "Makes nothing, for 100 % of its constants." in shown.out
    assert "Relative paths are relative to the script's folder." in shown.out
    for line in (
        "--N_next VALUE images sampled, 10 % of 100 (default: 10)",
        "--w VALUE guidance weight (default: 0)",
        "--Wall [VALUE ...] guidance weights (default: 1.5 2)",
        "--lrate VALUE learning rate (default: 0.0001)",
        "--generations [VALUE ...] generations to look at; none: all (default: )",
        "--dataset VALUE the real data (default: mnist)",
        "--deterministic [VALUE] repeatable (default: False)",
        "--save_dir VALUE outputs (default: ./data/run/)",
        "--save_dirs [VALUE ...] all outputs (default: ./a/ b)",
    ):
        assert line in " ".join(shown.out.split()), line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        # names
        (["--N_nxt", "5"], "there is no constant --N_nxt; did you mean --N_next?"),
        (["--n_next=5"], "there is no constant --n_next; did you mean --N_next?"),
        (["--save", "x"], "there is no constant --save; did you mean --save_dir?"),
        (["--banana", "5"], "there is no constant --banana; --help lists the constants"),
        (["5"], "there is no constant 5; --help lists the constants"),
        # types
        (["--N_next", "ten"], "--N_next: 'ten' is not a whole number"),
        (["--N_next", "2.5"], "--N_next: '2.5' is not a whole number"),
        (["--w", "x"], "--w: 'x' is not a number"),
        (["--Wall", "0", "x"], "--Wall: 'x' is not a number"),
        (["--generations", "0.5"], "--generations: '0.5' is not a whole number"),
        (["--deterministic", "yes"], "--deterministic: 'yes' is neither True nor False"),
        # values
        (["--N_next", "0"], "N_next is 0, but it must be a whole number, 1 or more"),
        (["--w", "-0.5"], "w is -0.5, but it must be a number, 0 or more"),
        (["--w", "nan"], "w is nan, but it must be a number, 0 or more"),
        (["--w", "inf"], "w is inf, but it must be a number, 0 or more"),
        (["--lrate", "0"], "lrate is 0.0, but it must be a number above 0"),
        (["--Wall"], "Wall is nothing, but it must be one or more numbers"),
        (["--Wall", "0", "0.0"], "Wall is [0.0, 0.0], but it must be one or more numbers, each 0"),
        (["--Wall", "0", "-1"], "Wall is [0.0, -1.0], but it must be one or more numbers, each 0"),
        (["--save_dirs"], "save_dirs is nothing, but it must be one or more folders"),
        (["--save_dir", " "], "save_dir is ' ', but it must be a folder's name"),
        (["--dataset", "cifar"], "dataset is 'cifar', but it must be 'mnist', "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(script, capsys, words, said):
    assert said in refusal(capsys, script, *words)


@pytest.mark.parametrize(
    ("line", "edited", "said"),
    [
        ("N_next = 10", "N_next = 0", "N_next is 0, but it must be a whole number, 1 or more"),
        ("N_next = 10", "N_next = 1e3", "N_next is 1000.0, but it must be a whole number"),
        ("N_next = 10", "N_next = True", "N_next is True, but it must be a whole number"),
        ("N_next = 10", "N_next = '10'", "N_next is '10', but it must be a whole number"),
        ("w = 0", "w = 'two'", "w is 'two', but it must be a number"),
        ("Wall = [1.5, 2]", "Wall = []", "Wall is nothing, but it must be one or more numbers"),
        ("Wall = [1.5, 2]", "Wall = 2", "Wall is 2, but it must be one or more numbers"),
        ("deterministic = False", "deterministic = 0", "deterministic is 0, but it must be True"),
        ('dataset = "mnist"', 'dataset = "MNIST"', "dataset is 'MNIST', but it must be 'mnist'"),
    ],
)
def test_edits_in_the_script_are_checked_too(script, capsys, line, edited, said):
    assert line in SCRIPT
    script.write_text(SCRIPT.replace(line, edited), encoding="utf-8")
    assert said in refusal(capsys, script)


def test_the_first_and_last_noise_variance_are_checked_together(script, capsys):
    betas = "beta1 = 0.5  # first\nbeta2 = 0.02  # last\n"
    script.write_text(SCRIPT.replace("# Some others\n", betas), encoding="utf-8")
    assert "beta1 is 0.5, but it must be below beta2, 0.02" in refusal(capsys, script)
    assert constants(script, "--beta1", "0.01").beta1 == 0.01


# Paths, in a process of its own


def run(script, *words, cwd):
    return subprocess.run([sys.executable, str(script), *words], cwd=cwd, capture_output=True)


def test_relative_paths_start_at_the_scripts_folder_wherever_it_is_called_from(script, tmp_path):
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    done = run(Path("..") / script.name, cwd=elsewhere)
    found = json.loads(done.stdout)
    home = script.parent.resolve()
    assert Path(found["save_dir"]) == home / "data" / "run"
    assert [Path(path) for path in found["save_dirs"]] == [home / "a", home / "b"]

    done = run(script, "--save_dir", "there/x", "--save_dirs", "../c", str(elsewhere), cwd="/")
    found = json.loads(done.stdout)
    assert Path(found["save_dir"]) == home / "there" / "x"
    assert Path(found["save_dirs"][0]).resolve() == home.parent / "c"
    assert Path(found["save_dirs"][1]) == elsewhere

    found = json.loads(run(script, "--dataset", "../own.npz", cwd=elsewhere).stdout)
    assert Path(found["dataset"]) == home.parent / "own.npz"


def test_a_home_folder_is_expanded(script, monkeypatch, tmp_path):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert constants(script, "--save_dir", "~/run").save_dir == tmp_path / "run"


def test_exit_statuses_of_a_process(script, tmp_path):
    shown = run(script, "--help", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, b"")
    wrong = run(script, "--N_next", "ten", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, b"")
    assert wrong.stderr.splitlines() == [b"script.py: error: --N_next: 'ten' is not a whole number"]


# Guidance weights in file names


@pytest.mark.parametrize(
    ("w", "text"),
    [(0, "0"), (0.0, "0"), (-0.0, "0"), (2.0, "2"), (2, "2"), (0.25, "0.25"), (1.75, "1.75")],
)
def test_a_guidance_weight_as_text(w, text):
    assert settings.number_text(w) == text


WEIGHTS = st.floats(0, allow_nan=False, allow_infinity=False)


@given(WEIGHTS)
def test_the_text_of_a_guidance_weight_tells_the_number(w):
    text = settings.number_text(w)
    assert float(text) == w  # so no two weights share a text, nor a file
    assert not text.endswith(".0") and not set(text) & set(r'<>:"/\|?* ')


# The scripts that ship

SHIPPED = [
    *(p for name in ("initialmain", "main", "mainall") for p in ROOT.glob(f"*/*/{name}.py")),
    *(ROOT / "jacobian").glob("*.py"),
]
WITH_CONSTANTS = [p for p in sorted(SHIPPED) if "globals()" in p.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_CONSTANTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_constant_has_a_comment_and_a_rule_that_its_default_meets(path):
    with open(path, "rb") as file:
        comments = {
            token.start[0]: token.string.strip("# ")
            for token in tokenize.tokenize(file.readline)
            if token.type == tokenize.COMMENT
        }
    assigned = [node for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.Assign)]
    assert assigned
    for node in assigned:
        name = ast.unparse(node.targets[0])
        assert comments.get(node.end_lineno), f"{name} has no trailing comment"
        assert name in rules.RULES, f"{name} has no rule"
        allows, text = rules.RULES[name]
        assert text and allows(ast.literal_eval(node.value)), name


def test_a_copy_that_is_worked_at_does_not_stop_other_scenarios(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    for name, text in (("a", b"w = ("), ("b", "# \u00e9".encode("cp1252")), ("c", b"n_feat = 1")):
        (tmp_path / name / "x").mkdir(parents=True)
        (tmp_path / name / "x" / "initialmain.py").write_bytes(text)
    assert settings._needed(tmp_path / "d" / "x" / "initialmain.py") == {"n_feat"}


USERS_DEFAULTS = {
    "initialmain": dict(N_with_w=60000, max_c=500, Wall=[0], n_epoch=40, batch_size=128),
    "main": dict(
        N_eval=1000, N_next=10, max_c=500, w=0, generation_number=20, n_epoch=1, batch_size=32
    ),
    "mainall": dict(
        N_eval=1000, N_next=60000, max_c=2500, Wall=[1.5, 1.75, 2], generation_number=20,
        n_epoch=40, batch_size=128,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", USERS_DEFAULTS)
def test_defaults_that_users_know_are_kept(name):
    found = vars(constants_of(FULL / f"{name}.py"))
    known = {**USERS_DEFAULTS[name], "n_T": 500, "n_feat": 128, "n_classes": 10, "lrate": 1e-4}
    assert {key: found[key] for key in known} == known
    assert (found["beta1"], found["beta2"]) == (1e-4, 0.02)
