"""Recipes: what a name stands for in each script, and that all scripts mean the same by it."""

import pytest
from tiny import FULL, ROOT, constants_of

from common import recipes, rules, settings

SCENARIOS = [
    FULL,
    ROOT / "Fresh" / "MNIST-DDPM",
    ROOT / "AugmentedSynthetic" / "DDPM-MNIST",
]
NAMES = ("initialmain.py", "main.py", "mainall.py")
SCRIPTS = [folder / name for folder in SCENARIOS for name in NAMES]
ANALYSIS = [ROOT / "jacobian" / name for name in ("spectra.py", "compare.py", "detect.py")]


def namespace(script):
    constants = vars(constants_of(script))
    return {**{k: v for k, v in constants.items() if k != "script"}, "__file__": str(script)}


def found(script, *words):
    return settings.from_script(namespace(script), list(words))


@pytest.mark.parametrize("recipe", recipes.NAMES)
@pytest.mark.parametrize("script", SCRIPTS + ANALYSIS, ids=lambda script: script.stem)
def test_every_script_takes_every_recipe_and_says_what_it_stands_for(script, recipe, capsys):
    constants = vars(found(script, "--recipe", recipe))
    said = capsys.readouterr().out
    assert constants["recipe"] == recipe and said.startswith(f"recipe {recipe}: ")
    meant = recipes.overrides(recipe, script, namespace(script))
    for name, value in meant.items():
        assert f"--{name}" in said
        if name not in rules.PATHS:
            assert constants[name] == value
    others = {name for name in namespace(script) if name not in meant and name != "__file__"}
    for name in others - rules.PATHS:
        assert constants[name] == namespace(script)[name]


@pytest.mark.parametrize("recipe", recipes.NAMES)
def test_what_shapes_a_model_or_its_samples_is_the_same_in_all_nine_scripts(recipe):
    """And training sets have as many images in every scenario, the initial model's included."""
    shaping = "dataset n_feat n_T beta1 beta2 n_step batch_size lrate loss_weight amp sampler"
    shaping = [*shaping.split(), "sample_steps", "eta", "clip_x0", "n_classes"]
    seen = {
        tuple(getattr(found(script, "--recipe", recipe), name) for name in shaping)
        for script in SCRIPTS
    }
    assert len(seen) == 1
    sizes = set()
    for script in SCRIPTS:
        constants = found(script, "--recipe", recipe)
        if script.stem == "initialmain":
            sizes.add(constants.N_real)
        elif script.parents[1].name == "FullSynthetic":
            sizes.add(constants.N_next)
        else:
            sizes.add(constants.N_with_w + constants.N_real)
    assert sizes == {1000}


def test_loops_read_the_folder_that_their_initialmain_writes():
    for folder in SCENARIOS:
        first, *loops = (found(folder / name, "--recipe", "laptop") for name in NAMES)
        assert {loop.save_dir.resolve() for loop in loops} == {
            path.resolve() for path in first.save_dirs
        }
    spectra = found(ANALYSIS[0], "--recipe", "laptop")
    assert spectra.run_dir.resolve() == (FULL / "data" / "laptop").resolve()


def test_a_recipe_expands_where_it_stands(capsys):
    after = found(FULL / "main.py", "--recipe", "laptop", "--n_feat", "32", "--seed=3")
    before = found(FULL / "main.py", "--n_feat", "32", "--recipe=laptop")
    assert (after.n_feat, after.n_step, after.seed) == (32, 1000, 3)
    assert before.n_feat == 16 and before.recipe == "laptop"
    assert found(FULL / "main.py").recipe is None


def test_an_unknown_recipe_is_refused_with_the_names(capsys):
    for words in (["--recipe", "desktop"], ["--recipe"]):
        with pytest.raises(SystemExit) as stopped:
            found(FULL / "main.py", *words)
        assert stopped.value.code == 2
        assert "but it must be laptop or mnist-cpu" in capsys.readouterr().err


def test_fresh_lasts_for_its_generations():
    """The digits' balanced pool has 1,450 images: the initial model's and four generations'."""
    constants = found(SCENARIOS[1] / "main.py", "--recipe", "laptop")
    assert constants.N_initial + constants.generation_number * constants.N_real <= 1450
    mnist = found(SCENARIOS[1] / "main.py", "--recipe", "mnist-cpu")
    assert mnist.N_initial + 20 * mnist.N_real <= 50_000
