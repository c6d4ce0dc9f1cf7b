"""Which loops a study has: its arms, its units of work, and the commands that each one runs."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from common import settings
from common.machine.errors import UserError
from common.run.folder import Run
from common.settings import ROOT
from common.study.power import CONTROL

FULL, FRESH = "FullSynthetic/DDPM-MNIST", "Fresh/MNIST-DDPM"
AUGMENTED = "AugmentedSynthetic/DDPM-MNIST"
CONTROL_SEEDS = 1000  # added to the seed of a control, whose initial model is another one's then


class Arm(NamedTuple):
    """A kind of loop: its scenario's folder, the share of synthetic images it trains on, the
    guidance weight of those, and the size of its training sets, as a multiple of N_train."""

    scripts: str
    dose: float
    w: float = 0
    size: int = 1

    @property
    def judged(self):
        """Whether controls are its null: those of new images only, at w = 0."""
        return self.scripts != AUGMENTED and self.w == 0


# Those that are not judged serve `claims`; with w = 1 each makes N_train guided samples, since FID
# and recall depend on how many they are measured on.
ARMS = {
    CONTROL: Arm(FULL, 0.0),
    "full": Arm(FULL, 1.0),
    "dose50": Arm(FRESH, 0.5),
    "dose25": Arm(FRESH, 0.25),
    "dose10": Arm(FRESH, 0.1),
    "augmented": Arm(AUGMENTED, 0.5),
    "full_w1": Arm(FULL, 1.0, w=1),
    "fresh_w1": Arm(FRESH, 0.5, w=1, size=2),
    "augmented_w1": Arm(AUGMENTED, 0.5, w=1, size=2),
}


@dataclasses.dataclass(frozen=True)
class Unit:
    """One loop of the study, with the study's constants as far as they shape it."""

    arm: str
    seed: int
    name: str
    role: str
    base: str
    N_train: int
    generation_number: int
    n_anchors: int
    timesteps: tuple
    sample_timesteps: tuple
    overrides: tuple
    keep: bool
    output_dir: Path

    @property
    def path(self):
        """The file that is there when the unit is done."""
        return self.output_dir / self.name / f"{self.arm}_seed{self.seed}.npz"

    @property
    def home(self):
        """The folder of its run while that is needed."""
        return self.output_dir / self.name / "runs" / self.path.stem

    @property
    def passing(self):
        """An empty file that says: `home` goes when the unit is done. It outlives a kill before."""
        return self.home.with_name(f"{self.home.name}.passing")

    @property
    def run(self):
        folder = self.home / f"control_seed{self.seed}" if self.arm == CONTROL else self.home
        return Run(folder, ARMS[self.arm].w)

    @property
    def n_models(self):
        return self.generation_number + 1

    def commands(self):
        """[(script, its words)], in the order in which they run."""
        scripts, dose, w, size = ARMS[self.arm]
        N, control = self.N_train, self.arm == CONTROL
        n = N if control else round(dose * size * N)
        parts = {"N_with_w": n, "N_real": size * N - n}
        mixture = {
            FULL: {"N_next": N, "control": control},
            FRESH: {**parts, "N_initial": N, "resample_real": "redraw"},
            AUGMENTED: parts,
        }[scripts]
        both = {"recipe": self.base, "seed": self.seed}
        initial = {"N_with_w": n, "N_real": N, "save_dirs": self.home, "Wall": w}
        length = {"w": w, "generation_number": self.generation_number, "save_dir": self.home}
        measured = {"run_dir": self.run.folder, "w": w, "n_anchors": self.n_anchors}
        test = {"anchors_from": "test", "timesteps": self.timesteps}
        samples = {"anchors_from": "samples", "timesteps": self.sample_timesteps}
        return [
            self._command(f"{scripts}/initialmain.py", both | initial),
            self._command(f"{scripts}/main.py", both | mixture | length),
            self._command("jacobian/spectra.py", measured | test),
            self._command("jacobian/spectra.py", measured | samples),
        ]

    def _command(self, script, constants):
        """A script and its words: these constants, and the overrides "name=value" of constants that
        it has."""
        script, words = ROOT / script, []
        for name, value in constants.items():
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else [value])]
        known = settings.names(script)
        return script, words + [f"--{o}" for o in self.overrides if o.split("=")[0] in known]


def planned(constants):
    """The Units of the study's constants, in the order in which they are to run."""
    if len(constants.loops) != len(constants.arms):
        raise UserError(f"loops = {constants.loops}: give as many numbers as there are arms")
    names = {field.name for field in dataclasses.fields(Unit)} & vars(constants).keys()
    given = {name: getattr(constants, name) for name in names}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    if strange := [arm for arm in constants.arms if arm not in ARMS]:
        raise UserError(f"arms: there is no {strange[0]}, but {', '.join(ARMS)}")
    units = [
        Unit(arm=arm, seed=constants.first_seed + CONTROL_SEEDS * (arm == CONTROL) + i, **given)
        for arm, n in zip(constants.arms, constants.loops, strict=True)
        for i in range(n)
    ]
    units = list(dict.fromkeys(units))  # an arm may be named again, for more of it
    known = {
        name for unit in units for script, _ in unit.commands() for name in settings.names(script)
    }
    for word in constants.overrides:
        if word.split("=")[0] not in known:
            raise UserError(f"overrides: no script has a constant {word.split('=')[0]}")
    number, of = map(int, constants.part.split("/"))
    return units[number - 1 :: of]
