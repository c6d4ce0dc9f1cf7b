"""What is looked at before a loop begins, so that nothing is found missing or wrong after hours."""

from common import settings
from common.data import fingerprint
from common.machine import storage
from common.machine.errors import UserError
from common.run import provenance
from common.run.folder import Run
from common.run.record import at as record_at
from common.seeds import INITIAL, Seeds
from common.settings import number_text

MOST_OF_THE_REAL = 0.9  # a control that draws more of the real images has hardly a choice


def inputs(run, constants):
    """What initialmain.py makes and a loop needs; a control needs no samples."""
    samples = () if constants.control else run.samples(INITIAL)
    return [run.prmodel, run.model(INITIAL), *samples]


def check_inputs(weights, constants):
    """UserError that names all that is missing and the command that makes it; notes a training set
    that is less than a batch."""
    folder = constants.save_dir
    paths = {path: w for w in reversed(weights) for path in inputs(Run(folder, w), constants)}
    missing = [path for path in paths if not path.exists()]
    for path in paths:
        if path not in missing:
            storage.load_bytes(path)
    if missing:
        wall = sorted({paths[path] for path in missing})
        command = settings.initial_command(constants, map(number_text, wall))
        names = ", ".join(path.name for path in missing)
        raise UserError(
            f"{names} {'is' if len(missing) == 1 else 'are'} missing in {folder}: first run "
            f"{command}"
        )
    if hasattr(constants, "N_next") and constants.N_next < constants.batch_size:
        print(
            f"note: {constants.N_next} images for the next generation are less than one batch "
            f"({constants.batch_size}); the published setting is N_next = 60000, n_epoch = 40"
        )


def check_initial(constants):
    """UserError when the loop cannot go on from its initial model; notes what of the recipe changes
    there. Returns that model's seed."""
    record = constants.save_dir / "run_initial.json"
    if not record.exists():  # other code made the initial data
        return constants.seed
    made = storage.load_json(record)["constants"]
    provenance.check_initial(vars(constants), made)
    if text := provenance.initial_differences(vars(constants), made):
        print(f"note: {text}")
    return made["seed"]


def check_real_data(real, name, training_set, constants):
    """UserError when the real images do not last to the last generation, or are not those of the
    initial model; notes a control for which they are too few. A file of one's own may lie elsewhere
    now: then the initial model's record says where."""
    record = constants.save_dir / "run_initial.json"
    made = storage.load_json(record) if record.exists() else {}
    if made.get("inputs", {}).get("dataset", fingerprint(real)) != fingerprint(real):
        raise UserError(
            f"the images of {constants.dataset} are not those that initialmain.py trained on: "
            "bring them back, or take another save_dir"
        )
    if made and made != record_at(made, constants.dataset):
        storage.save_json(record_at(made, constants.dataset), record)
    last, none = constants.generation_number - 1, real.subset(slice(0))
    seeds = Seeds(constants.seed, name)
    data = training_set(last, real, lambda generation: none, constants, seeds)
    if constants.control and len(data.labels) > MOST_OF_THE_REAL * len(real.labels):
        print(
            f"note: {len(data.labels):,} of {len(real.labels):,} real images are hardly a new "
            "draw: this control carries the variation of training alone"
        )
