"""What the READMEs say is so: commands are given constants that they take, links lead somewhere,
tests that are named exist, and numbers that are cheap to compute come out."""

import contextlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny import FULL, ROOT

from common import settings
from common.model.unet import ContextUnet

JACOBIAN = ROOT / "jacobian"
FOLDERS = sorted(path.parent for path in ROOT.glob("common/*/__init__.py"))
READMES = [ROOT / "README.md", ROOT / "CHANGELOG.md", JACOBIAN / "README.md"]
READMES += [JACOBIAN / "study" / "README.md", *(folder / "README.md" for folder in FOLDERS)]
SHOWN = [str(path.relative_to(ROOT)) for path in READMES]
TESTS = {path.stem: path for path in (ROOT / "tests").rglob("test_*.py")}

# Overrides under which the commands of "One run" take seconds.
MODEL = "--n_feat 8 --n_T 20 --beta2 0.4 --n_step 2 --sample_steps 2"
TINY = {
    "initialmain.py": f"{MODEL} --N_real 20 --N_with_w 20",
    "main.py": f"{MODEL} --N_next 20 --N_eval 20 --N_ref 50 --generation_number 2",
    "spectra.py": "--n_anchors 10 --timesteps 50",
}


class Block(NamedTuple):
    """A block of code: its language ("" for commands that every shell takes), and its lines."""

    language: str
    lines: list


class Command(NamedTuple):
    """A command: the folder where it is given, as far as the text says so, and its words."""

    folder: Path
    words: list


def blocks(text):
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
    return [Block(language, content.splitlines()) for language, content in found]


def spans(text):
    """What stands between backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def commands(text):
    """The Commands in the blocks and between the backticks of a text."""
    given = [block.lines for block in blocks(text) if block.language in ("", "bash")]
    for lines in [*given, *([span] for span in spans(text))]:
        folder = ROOT
        for part in re.split(r"&&|;|\n", "\n".join(lines)):
            part = re.sub(r"\$\{[^}]*\}|\$\w+", "1", part.strip())  # a number, in a job array
            part = part.partition("--wrap=")[2].strip("'") or part
            if part.startswith("cd "):
                folder = folder / part[3:]
            elif part.startswith(("python ", "torchrun ")):
                yield Command(folder.resolve(), shlex.split(part))


def script_at(folder, name):
    """The script of this name, in its folder where the text names none."""
    places = [folder, FULL, JACOBIAN]
    return next((place / name for place in places if (place / name).exists()), None)


def check(folder, words):
    """That a command is one which its script, or PyTorch or pytest, takes."""
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(words[1:])
        words = ["python", given.training_script, *given.training_script_args]
    if words[1:3] == ["-m", "pytest"]:
        check_pytest(words[3:])
        return
    script = script_at(folder, words[1])
    assert script, f"{words[1]} is not in {folder}"
    source = script.read_text(encoding="utf-8")
    if "globals()" in source:
        helped = pytest.raises(SystemExit, match="0")
        with helped if "--help" in words else contextlib.nullcontext():
            settings.of_script(script, words[2:])
    elif words[2:]:  # a benchmark: like the usage at its head, or an option of its parser
        usage = re.sub(r"( \d+)+", " N", " ".join(words))
        assert usage in re.sub(r"( \d+)+", " N", source) or f'"{words[2]}"' in source, words


def check_pytest(words):
    assert not words or words[0] in ("-k", "-m")
    if words[:1] == ["-m"]:
        assert re.search(rf'"{words[1]}:', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if words[:1] == ["-k"]:
        assert set(words[1].split(" or ")) <= TESTS.keys(), words[1]


@pytest.mark.parametrize("path", READMES, ids=SHOWN)
def test_commands_have_constants_that_their_scripts_take(path, capsys):
    found = list(commands(path.read_text(encoding="utf-8")))
    for command in found:
        check(*command)
    assert found or path.name == "CHANGELOG.md"


def test_a_command_that_its_script_does_not_take_is_found(capsys):
    for text in (
        "`python main.py --epochs 3`",
        "```\ncd jacobian\npython spectra.py --recipe desktop\n```",
        "`torchrun --nproc_per_node=2 main.py --w -1`",
        "`python tests/benchmarks/sampling.py`, `python -m pytest -k test_nothing`",
    ):
        with pytest.raises((SystemExit, AssertionError)):
            for command in commands(text):
                check(*command)


@pytest.mark.parametrize("path", READMES, ids=SHOWN)
def test_every_shell_takes_what_is_not_called_bash(path):
    """Neither cmd nor PowerShell knows comments, variables and chains of bash."""
    for block in blocks(path.read_text(encoding="utf-8")):
        for line in block.lines if block.language == "" else []:
            assert re.fullmatch(r"(cd|python|torchrun) [^#$;&|'\\]+", line), line


@pytest.mark.parametrize("path", READMES, ids=SHOWN)
def test_links_figures_and_files_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    files = [span for span in spans(text) if re.fullmatch(r"[\w./-]+\.(py|md)", span)]
    for name in [*links, *files]:
        places = (path.parent, ROOT, FULL, JACOBIAN)
        assert any((place / name).exists() for place in places), name


@pytest.mark.parametrize("path", READMES, ids=SHOWN)
def test_every_test_that_is_named_exists_and_every_promise_names_one(path):
    text = path.read_text(encoding="utf-8")
    for name, function in re.findall(r"`(test_\w+)(?:::(test_\w+))?`", text):
        assert name in TESTS, name
        source = TESTS[name].read_text(encoding="utf-8")
        assert not function or f"def {function}(" in source, f"{name}::{function}"
    for table in re.findall(r"\| promise \| test \|\n.*?\n\n", text, re.S):
        for row in table.splitlines()[2:]:
            assert not row or re.search(r"`test_\w+::test_\w+`", row), row


def test_every_folder_says_what_it_is_for_and_how_it_is_checked():
    for folder in FOLDERS:
        assert "python -m pytest -k" in (folder / "README.md").read_text(encoding="utf-8"), folder


def test_numbers_of_the_readme_that_are_cheap_to_compute(capsys):
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    parameters = sum(part.numel() for part in ContextUnet(1, 16).parameters())
    assert f"{parameters:,} parameters" in text
    certified = (f"{100 * (1 - 0.05 ** (1 / L)):.0f} % for L = {L}" for L in (5, 20))
    assert ", ".join(certified) in text
    runpy.run_path(str(ROOT / "tests" / "benchmarks" / "cost.py"))["estimate"]()
    rows = re.findall(
        r"^\| (\w+) \| ([\d.]+) h \| \S+ h \| ([\d.]+) h", capsys.readouterr().out, re.M
    )
    assert len(rows) == 3
    for name, training, sampling in rows:
        assert f"| {name} | {training} + {sampling} |" in text


@pytest.mark.slow
def test_one_run_as_the_readme_has_it_from_the_start_to_the_verdict(tmp_path):
    """The very commands, with overrides at their ends that make them short."""
    for folder in (ROOT / "common", FULL, JACOBIAN):
        target = tmp_path / folder.relative_to(ROOT)
        shutil.copytree(
            folder, target, ignore=shutil.ignore_patterns("data", "__py*", "study", "demo")
        )
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = (block for block in blocks(text) if "python detect.py" in "\n".join(block.lines))
    folder, said = tmp_path, ""
    for line in block.lines:
        if line.startswith("cd "):
            folder = folder / line[3:]
            continue
        words = shlex.split(line)[1:]
        done = subprocess.run(
            [sys.executable, *words, *TINY.get(words[0], "").split()],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout
    assert "One loop is one observation" in said
    made = tmp_path / "FullSynthetic" / "DDPM-MNIST" / "data" / "laptop"
    table = text.split("| file | what it is |")[1].split("\n\n")[0]
    named = re.findall(
        r"`([\w./]+)`", " ".join(row.split("|")[1] for row in table.splitlines()[2:])
    )
    assert len(named) > 15
    assert [name for name in named if not (made / name).exists()] == []
