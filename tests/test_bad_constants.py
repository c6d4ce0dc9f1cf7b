"""Constants that cannot be meant: each script refuses them in one line before any work starts."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from tiny import FULL, ROOT, constants_of

from common import rules, settings
from common.model.ddpm import ddpm_schedules

FRESH = ROOT / "Fresh" / "MNIST-DDPM"
AUGMENTED = ROOT / "AugmentedSynthetic" / "DDPM-MNIST"
JACOBIAN = ROOT / "jacobian"

WHOLE = "it must be a whole number, 1 or more"
CASES = [
    # script, words of the command line, what is said
    (FULL / "main.py", "--N_next 0", f"N_next is 0, but {WHOLE}"),
    (FULL / "main.py", "--N_next -5", f"N_next is -5, but {WHOLE}"),
    (FULL / "main.py", "--N_next 1e3", "--N_next: '1e3' is not a whole number"),
    (FULL / "main.py", "--N_eval 5", "N_eval is 5, but it must be a whole number above 5, the k"),
    (FULL / "main.py", "--N_eval 0", "N_eval is 0, but it must be a whole number above 5, the k"),
    (FULL / "main.py", "--max_c 0", f"max_c is 0, but {WHOLE}"),
    (FULL / "main.py", "--max_c -1", f"max_c is -1, but {WHOLE}"),
    (FULL / "main.py", "--w -0.1", "w is -0.1, but it must be a number, 0 or more"),
    (FULL / "main.py", "--w nan", "w is nan, but it must be a number, 0 or more"),
    (FULL / "main.py", "--w inf", "w is inf, but it must be a number, 0 or more"),
    (FULL / "main.py", "--w zero", "--w: 'zero' is not a number"),
    (FULL / "main.py", "--w 0 1", "there is no constant 1; --help lists the constants"),
    (FULL / "main.py", "--generation_number 0", f"generation_number is 0, but {WHOLE}"),
    (FULL / "main.py", "--generation_number -1", f"generation_number is -1, but {WHOLE}"),
    (FULL / "main.py", "--n_epoch 0", f"n_epoch is 0, but {WHOLE}"),
    (FULL / "main.py", "--n_epoch 1.5", "--n_epoch: '1.5' is not a whole number"),
    (FULL / "main.py", "--batch_size 0", f"batch_size is 0, but {WHOLE}"),
    (FULL / "main.py", "--lrate 0", "lrate is 0.0, but it must be a number above 0"),
    (FULL / "main.py", "--lrate=-1e-4", "lrate is -0.0001, but it must be a number above 0"),
    (FULL / "main.py", "--lrate inf", "lrate is inf, but it must be a number above 0"),
    (FULL / "main.py", "--n_T 1", "n_T is 1, but it must be a whole number, 2 or more"),
    (FULL / "main.py", "--beta1 0", "beta1 is 0.0, but it must be a number between 0 and 1"),
    (FULL / "main.py", "--beta1 1e-8", "both excluded, 1e-7 or more"),  # as float32 it is 0
    (FULL / "main.py", "--N_next=--", "--N_next: "),  # by argparse or by us: Pythons differ
    (FULL / "main.py", "--beta2 1", "beta2 is 1.0, but it must be a number between 0 and 1"),
    (FULL / "main.py", "--beta1 0.03", "beta1 is 0.03, but it must be below beta2, 0.02"),
    (FULL / "main.py", "--n_feat 0", "n_feat is 0, but it must be a multiple of 8"),
    (FULL / "main.py", "--n_feat 100", "n_feat is 100, but it must be a multiple of 8"),
    (FULL / "main.py", "--n_feat -8", "n_feat is -8, but it must be a multiple of 8"),
    (FULL / "main.py", "--n_classes 11", "n_classes is 11, but it must be 10"),
    (FULL / "main.py", "--dataset cifar10", "dataset is 'cifar10', but it must be 'mnist', "),
    (FULL / "main.py", "--dataset MNIST", "dataset is 'MNIST', but it must be 'mnist', "),
    (FULL / "main.py", "--init_from last", "init_from is 'last', but it must be 'scratch' or"),
    (FULL / "main.py", "--seed -1", "seed is -1, but it must be a whole number, 0 or more"),
    (FULL / "main.py", "--seed 0.5", "--seed: '0.5' is not a whole number"),
    (FULL / "main.py", "--save_every -1", "save_every is -1.0, but it must be a number of seconds"),
    (FULL / "main.py", "--deterministic 1", "--deterministic: '1' is neither True nor False"),
    (FULL / "main.py", "--sampler euler", "sampler is 'euler', but it must be 'ddpm' or 'ddim'"),
    (FULL / "main.py", "--sample_steps 0", f"sample_steps is 0, but {WHOLE}"),
    (
        FULL / "main.py",
        "--sampler ddim --n_T 40",
        "sample_steps is 50, but it must be at most n_T, 40",
    ),
    (FULL / "main.py", "--amp yes", "--amp: 'yes' is neither True nor False"),
    (FULL / "main.py", "--n_T 50", "n_T is 50 and beta2 0.02: of the image in x_T"),
    (FULL / "main.py", "--n_T 50", "beta2 = 0.2 suits this n_T, n_T = 500 this beta2"),
    (FULL / "initialmain.py", "--beta2 0.5", "must be between 1e-37 and 0.1; beta2 = 0.02 suits"),
    (FULL / "main.py", "--eta 1.5", "eta is 1.5, but it must be a number from 0 to 1"),
    (
        FULL / "main.py",
        "--n_T 10000",
        "n_T is 10000, but it must be a whole number, 2 or more, below",
    ),
    (
        FULL / "main.py",
        "--w 1 --N_next 5",
        "N_next is 5, but guided samples must be above 5, the k",
    ),
    (FULL / "initialmain.py", "--Wall 0 1 --N_with_w 5", "N_with_w is 5, but guided samples must"),
    (FULL / "main.py", "--save_dir ~nobody-of-this-name/x", "Could not determine home directory"),
    (FULL / "main.py", "--loss_weight snr", "loss_weight is 'snr', but it must be 'plain' or"),
    (FULL / "main.py", "--N_ref 5", "N_ref is 5, but it must be 0 (all) or a whole number above 5"),
    (FULL / "main.py", "--control maybe", "--control: 'maybe' is neither True nor False"),
    (FULL / "main.py", "--save_dir", "argument --save_dir: expected one argument"),
    (FULL / "main.py", "--save_dir scenario.py", "scenario.py', which cannot be written to"),
    (FULL / "main.py", "--save_dir main.py/x", "main.py/x', which cannot be written to"),
    (FULL / "main.py", "--N_with_w 7", "there is no constant --N_with_w"),
    (FULL / "initialmain.py", "--N_with_w 0", f"N_with_w is 0, but {WHOLE}"),
    (FULL / "initialmain.py", "--N_real 0", f"N_real is 0, but {WHOLE}"),
    (FULL / "initialmain.py", "--Wall", "Wall is nothing, but it must be one or more numbers"),
    (FULL / "initialmain.py", "--Wall 0 0", "Wall is [0.0, 0.0], but it must be one or more"),
    (FULL / "initialmain.py", "--Wall 0 -1", "Wall is [0.0, -1.0], but it must be one or more"),
    (FULL / "initialmain.py", "--save_dirs", "save_dirs is nothing, but it must be one or more"),
    (FULL / "initialmain.py", "--save_dirs a a", "save_dirs is ['a', 'a'], but it must be one"),
    (FULL / "initialmain.py", "--save_dirs a scenario.py", "cannot be written to"),
    (FULL / "mainall.py", "--Wall", "Wall is nothing, but it must be one or more numbers"),
    (FULL / "mainall.py", "--Wall 1 one", "--Wall: 'one' is not a number"),
    (FULL / "mainall.py", "--Wall 1.50 1.5", "Wall is [1.5, 1.5], but it must be one or more"),
    (FULL / "mainall.py", "--w 1", "there is no constant --w; --help lists the constants"),
    (FRESH / "main.py", "--N_initial -1", "N_initial is -1, but it must be a whole number, 0 or"),
    (FRESH / "main.py", "--N_real 0", f"N_real is 0, but {WHOLE}"),
    (FRESH / "main.py", "--resample_real no", "--resample_real: 'no' is neither True nor False"),
    (AUGMENTED / "main.py", "--N_with_w -60000", f"N_with_w is -60000, but {WHOLE}"),
    (AUGMENTED / "mainall.py", "--accumulate 2", "--accumulate: '2' is neither True nor False"),
    (AUGMENTED / "main.py", "--accumulate True --control True", "accumulate = True has no control"),
    (JACOBIAN / "spectra.py", "--n_anchors 15", "n_anchors is 15, but it must be a multiple of 10"),
    (JACOBIAN / "spectra.py", "--n_anchors 0", "n_anchors is 0, but it must be a multiple of 10"),
    (JACOBIAN / "spectra.py", "--timesteps 0", "timesteps is [0], but it must be one or more"),
    (JACOBIAN / "spectra.py", "--timesteps", "timesteps is nothing, but it must be one or more"),
    (JACOBIAN / "spectra.py", "--timesteps 9 9", "timesteps is [9, 9], but it must be one or"),
    (JACOBIAN / "spectra.py", "--generations -1", "generations is [-1], but it must be generation"),
    (JACOBIAN / "spectra.py", "--w -1", "w is -1.0, but it must be a number, 0 or more"),
    (JACOBIAN / "compare.py", "--runs", "runs is nothing, but it must be one or more run folders"),
    (JACOBIAN / "detect.py", "--alpha 0", "alpha is 0.0, but it must be a number between 0 and 1"),
    (JACOBIAN / "detect.py", "--alpha 1", "alpha is 1.0, but it must be a number between 0 and 1"),
    (JACOBIAN / "detect.py", "--primary fid", "primary is 'fid', but it must be 'posterior_varia"),
    (JACOBIAN / "detect.py", "--primary_t 0", f"primary_t is 0, but {WHOLE}"),
    (JACOBIAN / "detect.py", "--controls a a", "controls is ['a', 'a'], but it must be folders"),
]


def namespace(script):
    constants = vars(constants_of(script))
    return {**{k: v for k, v in constants.items() if k != "script"}, "__file__": str(script)}


@pytest.mark.parametrize(
    ("script", "words", "said"), CASES, ids=[f"{s.stem} {words}" for s, words, _ in CASES]
)
def test_it_is_refused_in_one_line_with_status_2(capsys, script, words, said):
    with pytest.raises(SystemExit) as stopped:
        settings.from_script(namespace(script), words.split())
    shown = capsys.readouterr()
    assert stopped.value.code == 2 and shown.out == ""
    assert shown.err.startswith(f"{script.name}: error: ") and shown.err.count("\n") == 1
    assert said.replace("/", "\\" if sys.platform == "win32" else "/") in shown.err


def test_a_tab_in_a_path_is_refused(capsys):
    """In a Python file ".\\data\\t500" holds a TAB."""
    with pytest.raises(SystemExit) as stopped:
        settings.from_script({**namespace(FULL / "main.py"), "save_dir": ".\\data\t500"}, [])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "a single \\ changes the letter after it" in said and said.count("\n") == 1


def test_a_name_that_no_script_knows_is_refused_in_the_file_too(tmp_path, capsys):
    script = tmp_path / "main.py"
    source = (FULL / "main.py").read_text(encoding="utf-8").replace("n_epoch = ", "n_epochs = ")
    script.write_text(source, encoding="utf-8")
    known = namespace(FULL / "main.py")
    values = {**known, "n_epochs": known["n_epoch"], "__file__": str(script)}
    with pytest.raises(SystemExit) as stopped:
        settings.from_script(values, [])
    assert stopped.value.code == 2
    assert "no script has a constant n_epochs, which stands in main.py; did you mean n_epoch?" in (
        capsys.readouterr().err
    )


def test_the_schedules_that_a_refusal_names_are_not_refused_and_can_be_loaded():
    for n_T in (2, 3, 5, 8, 10, 50, 100, 1000, 4000):
        for beta2 in (0.001, 0.02, 0.2, 0.5, 0.9):
            made = SimpleNamespace(n_T=n_T, beta1=1e-4, beta2=beta2)
            said = rules._schedule_error(made)
            if said:
                suited = re.search(r"beta2 = ([\d.]+) suits this n_T, n_T = (\d+) this", said)
                for change in ({"beta2": float(suited[1])}, {"n_T": int(suited[2])}):
                    better = SimpleNamespace(**{**vars(made), **change})
                    assert rules._schedule_error(better) is None, (n_T, beta2, change)
            else:
                alphabar_t = ddpm_schedules(1e-7, beta2, n_T)["alphabar_t"]
                assert ((alphabar_t > 0) & (alphabar_t < 1)).all()


@pytest.mark.parametrize("name", ["initialmain.py", "main.py", "mainall.py"])
def test_a_constant_that_is_gone_from_the_file_is_named(tmp_path, capsys, name):
    """Before any work, where it would be missed after hours."""
    for script in FULL.glob("*main*.py"):
        source = script.read_text(encoding="utf-8")
        if script.name == name:
            source = source.replace("clip_x0 = ", "# clip_x0 = ")
        (tmp_path / script.name).write_text(source, encoding="utf-8")
    values = {**namespace(FULL / name), "__file__": str(tmp_path / name)}
    with pytest.raises(SystemExit) as stopped:
        settings.from_script(values, [])
    assert stopped.value.code == 2
    said = f"{name}: error: {name} has no constant clip_x0: restore its line\n"
    assert capsys.readouterr().err == said


def test_the_command_for_what_is_missing_leads_to_the_folder_in_the_file():
    """Where save_dir was changed in main.py itself, and no word of the command line names it."""
    constants = constants_of(FULL / "main.py", save_dir=ROOT / "my run", words=["--seed", "3"])
    assert settings.initial_command(constants, ["0"]) == (
        f'python initialmain.py --seed 3 --save_dirs "{ROOT / "my run"}" --Wall 0'
    )
    shipped = constants_of(FULL / "main.py", save_dir=FULL / "data/diffusion_outputs10")
    assert settings.initial_command(shipped, ["0"]) == "python initialmain.py --Wall 0"


def test_a_script_is_no_further_than_its_constants_then():
    done = subprocess.run(
        [sys.executable, str(FULL / "main.py"), "--N_eval", "5"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("main.py: error: N_eval is 5")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc")
def test_a_folder_that_even_an_administrator_cannot_write_to_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        settings.from_script(namespace(FULL / "main.py"), ["--save_dir", "/proc/run"])
    assert stopped.value.code == 2
    assert "save_dir is '/proc/run', which cannot be written to: " in capsys.readouterr().err


TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)


@given(st.sampled_from(["N_next", "w", "lrate", "n_feat", "dataset", "control", "seed"]), TEXTS)
@trials(max_examples=300)
def test_any_text_is_either_a_value_that_its_rule_allows_or_refused(name, text):
    try:
        found = settings.from_script(namespace(FULL / "main.py"), [f"--{name}={text}"])
    except SystemExit as stopped:
        assert stopped.code == 2
    else:
        assert rules.RULES[name][0](getattr(found, name))


@given(
    n_next=st.integers(6, 10**9),
    w=st.floats(0, 1e6),
    lrate=st.floats(1e-300, 1e3, exclude_min=True),
    seed=st.integers(0, 2**63),
)
def test_allowed_values_come_through_the_command_line_unchanged(n_next, w, lrate, seed):
    words = [f"--N_next={n_next}", f"--w={w!r}", f"--lrate={lrate!r}", f"--seed={seed}"]
    found = settings.from_script(namespace(FULL / "main.py"), words)
    assert (found.N_next, found.w, found.lrate, found.seed) == (n_next, w, lrate, seed)
