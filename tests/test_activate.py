"""activate.sh as users source it, the Windows scripts as text, and the order of checks in .ci/run.

Nothing is installed: requirements.txt is a comment, and pip is told to use no index.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHELL_COMMANDS = {"bash": ["bash", "--norc", "--noprofile"], "zsh": ["zsh", "-f"]}
TOOLS = ["uname", "dirname", "cmp", "rm", "cp", "mv"]  # all that activate.sh needs but Python
LEFT_BY_VENV = {
    *("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "_OLD_VIRTUAL_PATH", "_OLD_VIRTUAL_PS1"),
    *("PS1", "deactivate"),
}

skip_on_windows = pytest.mark.skipif(os.name == "nt", reason="activate.sh is not for Windows")


@pytest.fixture(params=SHELL_COMMANDS)
def shell(request):
    if os.name == "nt":
        pytest.skip("activate.sh is not for Windows")
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


def run(command, cwd, path=None):
    env = {
        name: value
        for name, value in os.environ.items()
        if name in ("HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "PYENV_VERSION")
    }
    path = path or f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env |= {"PATH": path, "PIP_NO_INDEX": "1"}
    command = [shutil.which(command[0]), *map(str, command[1:])]
    return subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def source(shell, project, after="", before="", cwd=None, path=None):
    """Runs `before`, sources the project's activate.sh and runs `after`, in one shell."""
    script = f'{before}\n. "$1/activate.sh"\nreturned=$?\n{after}\necho "status=$returned"'
    command = [*SHELL_COMMANDS[shell], "-c", script, shell, project]
    return run(command, cwd or project, path)


def copy_project(folder, requirements="# nothing\n"):
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "activate.sh", folder)
    (folder / "requirements.txt").write_text(requirements)
    return folder


def errors_of_activate(result):
    return [line for line in result.stderr.splitlines() if line.startswith("activate.sh: ")]


@pytest.fixture(scope="module")
def activated(tmp_path_factory):
    """A project that was activated once, in a folder where an earlier attempt stopped halfway."""
    if os.name == "nt" or shutil.which("bash") is None:
        pytest.skip("needs bash")
    folder = copy_project(tmp_path_factory.mktemp("activate") / "it's a (copied) project")
    (folder / "venv" / "bin").mkdir(parents=True)
    shutil.copy(folder / "requirements.txt", folder / "venv" / "requirements.installed")
    first = source("bash", folder, after='echo "$VIRTUAL_ENV"; command -v python pip')
    return SimpleNamespace(
        folder=folder, first=first, installed=folder / "venv" / "requirements.installed"
    )


def test_first_run_makes_the_environment_and_says_what_to_do_next(activated):
    venv = activated.folder / "venv"
    assert activated.first.stderr == ""
    making, installing, *ready = activated.first.stdout.splitlines()
    assert making.startswith("Making venv with Python 3.")
    assert installing.startswith("Installing packages into venv")
    assert ready == [
        "The environment is active. Try next:",
        "  python jacobian/demo.py",
        "  cd FullSynthetic/DDPM-MNIST",
        "  python initialmain.py --help",
        "  python main.py --help",
        'CUDA: PyTorch cannot be used; to see why: python -c "import torch; torch.ones(1).cuda()"',
        str(venv),
        str(venv / "bin" / "python"),
        str(venv / "bin" / "pip"),
        "status=0",
    ]
    assert activated.installed.read_text() == "# nothing\n"


def test_second_run_installs_nothing_from_any_folder(shell, activated, tmp_path):
    installed_at = activated.installed.stat().st_mtime_ns
    after = 'echo "$VIRTUAL_ENV"; pwd'
    result = source(shell, activated.folder, before="set -eu", after=after, cwd=tmp_path)
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[:2] == ["The environment is active. Try next:", f'  cd "{activated.folder}"']
    assert lines[-3:] == [str(activated.folder / "venv"), str(tmp_path), "status=0"]
    assert activated.installed.stat().st_mtime_ns == installed_at


def test_a_relative_path_and_the_commands_of_the_readme(shell, activated):
    chain = ". ./activate.sh >&2 && python -c 'import sys; print(sys.prefix)'"
    result = run([*SHELL_COMMANDS[shell], "-c", chain], activated.folder)
    assert (result.returncode, result.stdout.strip()) == (0, str(activated.folder / "venv"))


def test_changed_requirements_are_installed(activated):
    (activated.folder / "requirements.txt").write_text("# changed\n")
    result = source("bash", activated.folder)
    assert "Installing packages" in result.stdout and "status=0" in result.stdout
    assert activated.installed.read_text() == "# changed\n"


def test_a_failed_installation_says_so_and_is_repeated(shell, activated):
    requirements = activated.folder / "requirements.txt"
    installable = requirements.read_text()
    requirements.write_text("no-such-package-as-this\n")
    result = source(shell, activated.folder, after='echo "[${VIRTUAL_ENV:-}]"')
    assert result.stdout.splitlines()[-2:] == ["[]", "status=1"]
    assert len(errors_of_activate(result)) == 1
    assert "requirements.txt" in errors_of_activate(result)[0]
    assert not activated.installed.exists()

    requirements.write_text(installable)
    assert "Installing packages" in source(shell, activated.folder).stdout


def test_nothing_but_venvs_own_names_stay_in_the_shell(shell, activated):
    listing = {
        "bash": "compgen -v; compgen -A function; set +o; shopt -p; trap",
        "zsh": "print -rl -- ${(k)parameters} ${(k)functions}; set +o; trap",
    }[shell]
    show = f"{listing}; echo @@@@@\n"
    # The first listing is thrown away: the shell adds names of its own once.
    result = source(shell, activated.folder, before=show + show, after="echo @@@@@\n" + show)
    _, before, activation, after, status = result.stdout.split("@@@@@\n")
    assert "The environment is active" in activation and status == "status=0\n"
    added = set(after.splitlines()) - set(before.splitlines())
    assert added - {"returned"} <= LEFT_BY_VENV
    assert {"VIRTUAL_ENV", "deactivate"} <= added
    assert set(before.splitlines()) <= set(after.splitlines())


def test_executed_instead_of_sourced(shell, tmp_path):
    project = copy_project(tmp_path / "a project")
    result = run([*SHELL_COMMANDS[shell], "./activate.sh"], project)
    assert (result.returncode, result.stdout) == (1, "")
    assert errors_of_activate(result) == result.stderr.splitlines()
    assert ". ./activate.sh" in result.stderr
    assert not (project / "venv").exists()


@skip_on_windows
def test_activate_sh_is_executable_so_that_it_can_say_so():
    assert os.access(ROOT / "activate.sh", os.X_OK)


def folder_of_programs(folder, python=None):
    """A folder for PATH: the tools that activate.sh calls and, when given, a script python3."""
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    if python:
        (folder / "python3").write_text(f"#!/bin/sh\n{python}\n")
        (folder / "python3").chmod(0o755)
    return folder


@pytest.mark.parametrize("found", ["none", "Python 3.8.2"])
def test_without_a_python_that_will_do(shell, found, tmp_path):
    project = copy_project(tmp_path / "a project")
    python = None if found == "none" else f'[ "$1" = --version ] && echo {found} || exit 1'
    result = source(shell, project, path=folder_of_programs(tmp_path / "programs", python))
    assert result.stdout == "status=1\n"
    assert errors_of_activate(result) == result.stderr.splitlines()
    assert f"Python 3.10 or newer, 64-bit, is needed (found: {found})" in result.stderr
    assert not (project / "venv").exists()


def test_a_copied_projects_environment_is_made_again(shell, activated, tmp_path):
    project = tmp_path / "copied"
    shutil.copytree(activated.folder, project, symlinks=True)
    fails_to_make = 'case "$1" in -c) exit 0 ;; -m) echo "asked: $*"; exit 1 ;; esac'
    programs = folder_of_programs(tmp_path / "programs", fails_to_make)
    result = source(shell, project, path=programs)
    assert f"asked: -m venv --clear {project / 'venv'}" in result.stdout
    assert result.stdout.endswith("status=1\n")
    assert "could not make" in errors_of_activate(result)[0]


def test_requirements_missing(shell, tmp_path):
    project = copy_project(tmp_path / "a project")
    (project / "requirements.txt").unlink()
    result = source(shell, project)
    assert result.stdout == "status=1\n"
    assert f"requirements.txt is missing in {project}" in errors_of_activate(result)[0]


# The Windows scripts cannot be run everywhere, but these slips can be seen in their text.


def text_of(name):
    return (ROOT / name).read_bytes().decode("ascii").replace("\r\n", "\n")


@pytest.mark.parametrize("name", ["activate.bat", "activate.ps1"])
def test_windows_scripts_are_ascii_with_one_kind_of_line_end(name):
    content = (ROOT / name).read_bytes()
    content.decode("ascii")
    assert content.count(b"\r") in (0, content.count(b"\n"))


def test_bat_quotes_every_path():
    paths = re.compile(r"%~dp0|%(?:ROOT|VENV|VENV_PYTHON|CD|CHECK)%")
    for number, line in enumerate(text_of("activate.bat").splitlines(), 1):
        for match in paths.finditer(line):
            assert line[: match.start()].count('"') % 2 == 1, f"activate.bat:{number}: {line}"


def test_bat_activates_outside_setlocal():
    main, _, prepare = text_of("activate.bat").partition("\n:prepare\n")
    commands = [line for line in main.splitlines() if not line.startswith("rem ")]
    assert not any("setlocal" in line for line in commands)
    assert 'call "%~dp0venv\\Scripts\\activate.bat"' in commands
    assert prepare.startswith("setlocal EnableExtensions DisableDelayedExpansion\n")


def test_bat_blocks_hold_no_bare_parenthesis():
    # cmd ends a block at the first ) outside quotes, also in the middle of an echo.
    for number, line in enumerate(text_of("activate.bat").splitlines(), 1):
        if line.startswith("    "):
            assert not re.search(r"[()]", re.sub(r'"[^"]*"', "", line)), f"activate.bat:{number}"


def test_three_scripts_agree():
    sh, bat, ps1 = (text_of(f"activate.{end}") for end in ("sh", "bat", "ps1"))
    cuda = re.search(r'-W ignore -c "([^"]+)"', sh)[1]
    compile(cuda, "the CUDA line", "exec")
    assert cuda in bat and cuda in ps1
    index = "https://download.pytorch.org/whl/cu126"
    assert index in bat and index in ps1 and index not in sh
    for command in (
        "python jacobian/demo.py",
        "cd FullSynthetic/DDPM-MNIST",
        "python initialmain.py --help",
        "python main.py --help",
    ):
        assert command in sh
        assert command.replace("/", "\\") in bat and command.replace("/", "\\") in ps1
    assert all("requirements.installed" in text for text in (sh, bat, ps1))


def test_line_ends_do_not_depend_on_who_checks_out():
    attributes = text_of(".gitattributes").splitlines()
    for line in ("*.bat text eol=crlf", "*.ps1 text eol=crlf", "*.sh text eol=lf"):
        assert line in attributes
    assert b"\r" not in (ROOT / "activate.sh").read_bytes()


def test_torch_comes_first_in_its_lines_for_windows():
    lines = text_of("requirements.txt").splitlines()
    assert [re.split(r"\W", line)[0] for line in lines if line.startswith("torch")] == [
        "torch",
        "torchvision",
    ]


# .ci/run with every program replaced by one that writes down its arguments.


@skip_on_windows
@pytest.mark.parametrize(
    ("failing", "status", "expected"),
    [
        (None, 0, 0),
        ("-m pytest", 1, 1),
        ("-m pytest", 5, 1),
        ("-m pytest -m slow", 1, 1),
        ("-m pytest -m slow", 5, 0),
        ("check .", 1, 1),
        ("format --check .", 1, 1),
        ("install -q -r tests/requirements.txt", 1, 1),
        ("activation", 1, 1),
    ],
)
def test_ci_run_fails_when_a_check_fails(failing, status, expected, tmp_path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("python", "pip", "ruff"):
        (programs / name).write_text(
            f'#!/bin/sh\necho "{name} $*" >> "$LOG"\n[ "$*" != "{failing}" ] || exit {status}\n'
        )
        (programs / name).chmod(0o755)
    there = tmp_path / "there"  # or a browser would be installed
    there.mkdir()
    (there / "chromedriver").symlink_to(programs / "ruff")
    (tmp_path / "activate.sh").write_text(
        "return 1\n"
        if failing == "activation"
        else f'PATH="{programs}:$PATH"; VIRTUAL_ENV="$PWD/venv"; export LOG="$PWD/log"\n'
    )
    result = run(["bash", ".ci/run"], tmp_path, f"{there}{os.pathsep}{os.environ['PATH']}")
    assert result.returncode == expected, result.stdout + result.stderr
    if failing == "activation":
        return
    expected_log = [
        "pip install -q -r tests/requirements.txt",
        "python -m pytest",
        "python -m pytest -m slow",
        "ruff check .",
        "ruff format --check .",
    ]
    if failing and failing.startswith("install"):
        expected_log.remove("python -m pytest")
    assert (tmp_path / "log").read_text().splitlines() == expected_log
