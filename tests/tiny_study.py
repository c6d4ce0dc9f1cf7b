"""A study of a few loops that hardly train, and what its tests share."""

from tiny import ROOT, command_line, constants_of, feature_network

from common.machine import storage

SCRIPT = ROOT / "jacobian" / "study.py"
OVERRIDES = "n_feat=8 n_step=4 n_T=8 beta2=0.5 sample_steps=3 N_eval=210 N_ref=100 max_c=70"
TINY = {
    "name": "digits",
    "role": "pilot",
    "arms": ["control", "dose50"],
    "loops": [3, 1],
    "first_seed": 1,
    "N_train": 60,
    "generation_number": 1,
    "n_anchors": 10,
    "timesteps": [400],
    "sample_timesteps": [400],
    "overrides": OVERRIDES.split(),
    "n_jobs": 1,
}


def constants(folder, **changes):
    """The study's constants, and a feature network that is hardly trained."""
    found = constants_of(SCRIPT, **{**TINY, "output_dir": folder, **changes})
    storage.save(feature_network(), found.output_dir / found.name / "prmodel.pth")
    return found


def words(folder, **changes):
    """The command line of study.py for these constants."""
    return command_line(SCRIPT, {**TINY, "output_dir": folder, **changes})


def kept(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "digits").glob("*.npz"))}
