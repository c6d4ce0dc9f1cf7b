"""Where the numbers of a run come from: its recipe, its training sets, and what measured it."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from common.data import n_training
from common.machine import storage
from common.machine.errors import Refusal
from common.rules import kind_of_data
from common.run.folder import SPECTRA
from common.run.record import PUBLISHED_DEFAULTS
from common.seeds import INITIAL

MIXTURE = ("N_next", "N_with_w", "N_real", "resample_real", "accumulate")
# Constants that shape neither a model nor its samples, or have a field of their own.
APART = {*MIXTURE, "N_initial", "N_eval", "N_ref", "dataset", "seed", "initial_seed", "w"}
APART |= {"init_from", "control", "deterministic", "fast", "generation_number", "max_c"}
APART |= {"save_every", "save_dir", "save_dirs", "Wall", "script", "recipe", "words"}
USELESS = ("n_T", "beta1", "beta2", "n_feat", "n_classes", "dataset")  # if they change in a loop

ANCHORS = {"anchors": "anchors", "sample_anchors": "sampled anchors"}

N_HELD_OUT_BEFORE = 200  # in spectra_w{w}.npz that do not say it


@dataclass(frozen=True)
class Provenance:
    """How a run was made and measured; None is what no file tells.

    recipe: {constant: value} of what shapes a model or its samples; mixture: what its training
    sets are made of, and N_train how many images; N_fixed: the real ones among them that never
    change, chosen by initial_seed. anchors: {"dataset", "index", "seed", "t", ...}. models: the
    hashes of its measured models.
    """

    folder: Path
    scenario: str | None = None
    control: bool | None = None
    init_from: str | None = None
    seed: int | None = None
    w: float | None = None
    dataset: str | None = None
    dataset_sha256: str | None = None
    recipe: Any = None
    mixture: Any = None
    N_train: Any = None
    N_fixed: int | None = None
    initial_seed: int | None = None
    N_eval: Any = None
    N_ref: int | None = None
    feature_network: str | None = None
    anchors: Any = None
    sample_anchors: Any = None
    models: frozenset = frozenset()

    def flat(self):
        """{name: value} of what is compared, the constants of recipe and mixture by their names."""
        found = {}
        for field in fields(self)[1:-1]:
            value = getattr(self, field.name)
            if field.name in ANCHORS:
                name = ANCHORS[field.name]
                found |= {f"{name}' {part}": each for part, each in (value or {}).items()}
            elif isinstance(value, dict):
                found |= value
            else:
                found[field.name] = value
        return found


def read(run):
    """The Provenance of a Run, from its record, its metrics and its spectra, as far as there are
    any. A run that other code made has no record: recipe and data are unknown then."""
    known = _from_record(run) if run.table("run", "json").exists() else {"w": run.w}
    rows = [row["N_eval"] for row in run.metrics() if row["generation"] != INITIAL]
    if rows:
        known["N_eval"] = rows[0] if len(set(rows)) == 1 else sorted(set(rows))
    if "feature_network" not in known and run.prmodel.exists():
        known["feature_network"] = storage.sha256(run.prmodel)
    if run.table(SPECTRA["test"], "npz").exists():
        arrays = storage.load_arrays(run.table(SPECTRA["test"], "npz"), "jacobian/spectra.py")
        known["anchors"] = _anchors(arrays, known.get("dataset"))
        if "images_sha256" in arrays:  # not in files of earlier versions
            known["anchors"]["images"] = str(arrays["images_sha256"])
        of_samples = run.table(SPECTRA["samples"], "npz")
        if of_samples.exists():
            arrays_of_samples = storage.load_arrays(of_samples, "jacobian/spectra.py")
            known["sample_anchors"] = _anchors(arrays_of_samples, known.get("dataset"))
        hashes = zip(arrays["generations"], arrays["checkpoint_sha256"], strict=True)
        known["models"] = frozenset(str(sha) for g, sha in hashes if g != INITIAL)
    return Provenance(run.folder, **known)


def of_record(run):
    """The Provenance of a Run by its record alone, which is there from the first moment on."""
    return Provenance(run.folder, **_from_record(run))


def as_json(provenance):
    """A Provenance without its folder, as what JSON can hold."""
    found = {**vars(provenance), "models": sorted(provenance.models)}
    del found["folder"]
    return found


def from_json(folder, found):
    """The Provenance that `as_json` made, of a folder or file."""
    found = {**found, "models": frozenset(found["models"])}
    for part in (found, found.get("anchors"), found.get("sample_anchors")):
        if part and "dataset" in part:  # in files of earlier versions a path
            part["dataset"] = kind_of_data(part["dataset"])
    return Provenance(folder, **found)


def recorded(run):
    """The record of a Run as it is in its file, or None where other code made the run."""
    path = run.table("run", "json")
    return storage.load_json(path, "main.py") if path.exists() else None


def _from_record(run):
    record = recorded(run)
    constants, inputs = {**PUBLISHED_DEFAULTS, **record["constants"]}, record["inputs"]
    scenario, *control = record["scenario"].split(" control")
    all_new = {"N_next", "N_initial"} & set(constants)  # in FullSynthetic and Fresh
    n_fixed = 0 if all_new else at_most_all(constants["N_real"], constants)
    initial_seed = record.get("initial_seed", constants["seed"])
    return {
        "scenario": scenario,
        "control": bool(control),
        "init_from": constants["init_from"],
        "seed": constants["seed"],
        "w": run.w,
        "dataset": kind_of_data(constants["dataset"]),
        "dataset_sha256": inputs["dataset"],
        "recipe": recipe(constants),
        "mixture": {name: constants[name] for name in MIXTURE if name in constants},
        "N_train": training_size(constants, growing=not control),
        "N_fixed": n_fixed,
        "initial_seed": initial_seed if n_fixed else None,
        "N_eval": constants["N_eval"],
        "N_ref": constants["N_ref"],
        "feature_network": inputs["prmodel.pth"],
    }


def _anchors(arrays, dataset):
    """What models were measured at; a file that does not name its dataset took that of the run."""
    return {
        "dataset": kind_of_data(str(arrays["dataset"])) if "dataset" in arrays else dataset,
        "seed": int(arrays["seed"]) if "seed" in arrays else None,
        "index": arrays["anchor_index"].tolist(),
        "t": arrays["t"].tolist(),
        "n_T": int(arrays["n_T"]),
        "sigma": [round(float(sigma), 5) for sigma in arrays["sigma"]],
        "n_held_out": int(arrays.get("n_held_out", N_HELD_OUT_BEFORE)),
    }


def recipe(constants):
    """{constant: value} of the constants that shape a model or its samples: those that are not
    named in APART. What another constant makes idle is left out: passes over the data when the
    steps are counted, and the settings of DDIM where it does not sample."""
    made = {**PUBLISHED_DEFAULTS, **constants}
    idle = {"n_epoch"} if made["n_step"] else set()
    if made["sampler"] == "ddpm":
        idle |= {"sample_steps", "eta", "clip_x0"}
    return {name: value for name, value in made.items() if name not in APART | idle}


def training_size(constants, growing=True):
    """How many images each generation of a loop trains on; a text where the number grows."""
    if "N_next" in constants:
        return constants["N_next"]
    if "N_initial" in constants:
        return constants["N_with_w"] + constants["N_real"]
    n_fixed = at_most_all(constants["N_real"], constants)
    if constants.get("accumulate") and growing:
        return f"{n_fixed} and {constants['N_with_w']} more in each generation (accumulate)"
    return n_fixed + constants["N_with_w"]


def at_most_all(n_real, constants):
    """n_real, or the number of training images where there are no more."""
    return min(n_real, n_training(constants["dataset"]))


def unknown(provenance):
    """What no file tells about a run, in words; "" when all is known."""
    names = [name for name, value in provenance.flat().items() if value is None]
    if not provenance.recipe:
        names.append("recipe")
    return ", ".join(name for name in names if name not in ("initial_seed", "mixture"))


def check_initial(constants, initial):
    """Refusal when a loop cannot go on from its initial model: {constant: value} of main.py (or of
    a loop's record) against those of initialmain.py in run_initial.json."""
    ours, made = {**PUBLISHED_DEFAULTS, **constants}, {**PUBLISHED_DEFAULTS, **initial}
    for name in USELESS:
        same = kind_of_data if name == "dataset" else lambda value: value
        if name in ours and name in made and same(ours[name]) != same(made[name]):
            raise Refusal(
                f"initialmain.py ran with {name} = {made[name]!r}, not {ours[name]!r}: "
                f"add --{name} {made[name]}, or take another save_dir"
            )
    drawn = ours["control"] or ours.get("resample_real") == "redraw"
    used = made["seed"], made.get("N_real")
    if "N_initial" in ours and not drawn and used != (ours["seed"], ours["N_initial"]):
        raise Refusal(
            f"initialmain.py ran with seed = {used[0]} and N_real = {used[1]}, not seed = "
            f"{ours['seed']} and N_initial = {ours['N_initial']}: give main.py the same seed, and "
            "N_initial = that N_real, or real images of the initial model would come back as fresh"
        )


def initial_differences(constants, initial):
    """One line on what changes from the initial model to the generations, or None: {constant:
    value} of main.py (or of a loop's record) against those of initialmain.py.

    Compared is all that shapes a model or its samples, and how many images it trains on. A
    control's generations owe nothing to the initial model.
    """
    if constants.get("control"):
        return None
    ours, made = recipe(constants), recipe(initial)
    found = [
        (name, made[name], value)
        for name, value in ours.items()
        if name in made and made[name] != value
    ]
    n_initial, n_train = at_most_all(initial["N_real"], initial), training_size(constants)
    if n_initial != n_train:
        found.append(("training-set size", n_initial, n_train))
    texts = [f"{name} (initial {old}, generations {new})" for name, old, new in found]
    n_wanted = constants.get("N_next", constants.get("N_with_w"))
    if initial["N_with_w"] < n_wanted:
        texts.append(f"synthetic images (generation 0 {initial['N_with_w']}, later {n_wanted})")
    return f"generation 0 contains a change of recipe: {', '.join(texts)}" if texts else None
