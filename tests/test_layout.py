"""What holds for the source as a whole: scenarios differ where they should, and only there."""

import ast
import re
from pathlib import Path

import pytest
from tiny import ROOT

from common.run.folder import Run
from common.seeds import INITIAL

SCENARIOS = sorted(path.parent for path in ROOT.glob("*/*/scenario.py"))
SCRIPTS = [
    folder / f"{name}.py" for folder in SCENARIOS for name in ("initialmain", "main", "mainall")
]
ANALYSES = sorted((ROOT / "jacobian").glob("*.py"))
SHIPPED = [*sorted((ROOT / "common").rglob("*.py")), *SCRIPTS, *ANALYSES]


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def skeleton(path):
    """The script's syntax tree without its docstring and its constants."""
    body = [node for node in tree(path).body if not isinstance(node, ast.Assign)]
    return ast.dump(ast.Module(body[1:], []))


@pytest.mark.parametrize("name", ["initialmain.py", "main.py", "mainall.py"])
def test_scripts_differ_between_scenarios_in_docstring_and_constants_only(name):
    skeletons = {skeleton(folder / name) for folder in SCENARIOS}
    assert len(skeletons) == 1


@pytest.mark.parametrize("script", SCRIPTS + ANALYSES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_script_is_a_docstring_constants_and_one_call(script):
    nodes = tree(script).body
    assert ast.get_docstring(tree(script))
    if script.name != "demo.py":
        assert len(script.read_text(encoding="utf-8").splitlines()) < 60
        kinds = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.If)
        assert all(isinstance(node, kinds) for node in nodes)
        assert [len(node.body) for node in nodes if isinstance(node, ast.If)] == [1]


def test_scenario_files_are_short():
    for folder in SCENARIOS:
        assert len((folder / "scenario.py").read_text(encoding="utf-8").splitlines()) < 30


def calls(path):
    """(dotted name, Call) of every call in a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_nothing_is_shown_hard_coded_to_cuda_or_loaded_in_worker_processes():
    for path in SHIPPED:
        for name, call in calls(path):
            assert not re.search(r"plt\.show$|\.cuda$", name), (path, name)
            keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
            if name.endswith("DataLoader"):
                assert keywords.get("num_workers") == "0", path
            if name == "torch.load":
                assert keywords["weights_only"] == "True" and "map_location" in keywords, path


def test_text_files_are_opened_with_an_encoding():
    for path in SHIPPED:
        for name, call in calls(path):
            if name == "open" or name.endswith((".read_text", ".write_text")):
                binary = any("b" in ast.unparse(argument) for argument in call.args[1:])
                assert binary or "encoding" in {word.arg for word in call.keywords}, path


# Each folder of common imports only from those before it and from the modules beside the folders.
FLOORS = ("machine", "model", "metrics", "run", "page", "spectrum", "loop", "detect", "study")
BESIDE = ("settings", "rules", "recipes", "seeds", "data")


def imported(path):
    """The modules of common that a file imports at its top, as dotted names without `common`."""
    for node in tree(path).body:
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "common":
            inside = node.module.split(".")[1:]
            for alias in node.names:
                parts = [*inside, alias.name]
                known = (ROOT / "common").joinpath(*parts).with_suffix(".py").exists()
                yield ".".join(parts if known else inside)


def test_imports_point_one_way():
    """Downwards between the floors, and without a circle between modules."""
    imports = {}
    for path in sorted((ROOT / "common").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "common").with_suffix("").parts)
        imports[name.removesuffix(".__init__")] = set(imported(path)) - {""}
    for name, others in imports.items():
        floor = name.split(".")[0]
        for other in {other.split(".")[0] for other in others} & set(FLOORS):
            if floor in FLOORS:
                assert FLOORS.index(other) <= FLOORS.index(floor), f"{name} imports from {other}"
    assert {name.split(".")[0] for name in imports} == {*FLOORS, *BESIDE, "__init__"}

    def reachable(name, seen=()):
        assert name not in seen, f"import circle: {seen} -> {name}"
        for other in imports[name]:
            reachable(other, (*seen, name))

    for name in imports:
        reachable(name)


def test_run_time_packages_are_the_seven_of_requirements_and_what_they_bring():
    names = {"torch", "torchvision", "numpy", "scipy", "sklearn", "matplotlib", "tqdm"}
    names |= {"joblib", "threadpoolctl"}  # both come with scikit-learn
    names |= {"jinja2", "filelock"}  # both come with torch
    listed = re.findall(r"^[\w-]+", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M)
    assert {name.replace("scikit-learn", "sklearn") for name in listed} == names
    local = {path.stem for path in [*ROOT.glob("*/*/scenario.py"), *ANALYSES]} | {"common"}
    import sys

    for path in SHIPPED:
        for node in ast.walk(tree(path)):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module]
            for module in modules:
                top = module.split(".")[0]
                known = names | local | {"distributed"}  # of --scheduler alone, which asks for it
                assert top in known or top in sys.stdlib_module_names, (path, module)


def test_file_names_suit_windows():
    forbidden = set('<>:"|?*')
    for path in SHIPPED + list(Path(ROOT / "tests").rglob("*.py")):
        assert not forbidden & set(path.name)


def test_nothing_that_windows_lacks_is_used():
    """No fork, symbolic link, process of multiprocessing, or signal but SIGINT and SIGTERM."""
    for path in SHIPPED:
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"os\.fork|symlink|multiprocessing|SIGKILL|SIGHUP|SIGUSR", source), (
            path
        )
        for name, _ in calls(path):
            assert name not in ("os.rename", "os.link"), (path, name)  # os.replace is for both


def test_names_of_a_runs_files_suit_windows():
    for w in (0, 0.25, 1e-9, 1e22):
        run = Run(Path("x"), w)
        paths = [run.model(0), *run.samples(INITIAL), *run.evaluation(3), *run.strip(3)]
        paths += [run.losses(1), run.figure("tsne", 2), run.table("metrics"), run.prmodel]
        for path in paths:
            assert re.fullmatch(r"[\w.+-]+[\w]", path.name), path
            assert path.stem.upper() not in ("CON", "PRN", "AUX", "NUL")
