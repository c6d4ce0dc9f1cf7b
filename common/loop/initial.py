"""The start of a loop: the initial model, trained on real data, and its samples for every w."""

import contextlib

from common.data import fingerprint, load_real
from common.loop import scenarios, sources, stages
from common.loop.forecast import announce_work
from common.machine import device, processes, storage
from common.machine.errors import one_line
from common.run.folder import Run, model_name
from common.run.record import save_record
from common.seeds import INITIAL, Seeds
from common.settings import number_text


@processes.led
def main(constants):
    """Trains the initial model on real data and the feature network, and samples from the model.

    For every w in Wall it writes the initial synthetic data, in each of save_dirs.
    """
    with one_line(), contextlib.ExitStack() as locks:
        constants.initial_seed = constants.seed
        for folder in constants.save_dirs:
            locks.enter_context(storage.lock(folder / "run_initial.lock"))
        device.use(constants.deterministic)
        home, *others = constants.save_dirs
        names = ["prmodel.pth", "model_initial.pth"]
        names += [file.name for w in constants.Wall for file in Run(home, w).samples(INITIAL)]
        real, name = load_real(constants.dataset), scenarios.name_of(constants)
        source = fingerprint(real)
        begun = {folder: Run(folder, 0).model(INITIAL).exists() for folder in constants.save_dirs}
        for folder in sorted(begun, key=begun.get, reverse=True):  # first those that bind
            record = folder / "run_initial.json"
            save_record(record, constants, name, {"dataset": source}, begun[folder])
        for folder in others:
            scenarios.share(names, folder, home)
        stages.train_feature_network(Run(home, 0), constants, real, source)
        seeds = Seeds(constants.seed, name)
        if sources.reuse_model(Run(home, 0), INITIAL, source):
            print("model_initial.pth is there: going on to its samples")
        else:
            data = scenarios.training_set_of(constants.script.parent)(
                INITIAL, real, None, constants, seeds
            )
            announce_work(model_name(INITIAL), constants, [len(data.labels)])
            stages.train(Run(home, 0), INITIAL, data, constants, seeds, source)
        for w in constants.Wall:
            run, seeds = Run(home, w), Seeds(constants.seed, name, w)
            sources.adopt(run, INITIAL, [])
            n, files = constants.N_with_w, run.samples(INITIAL)
            if not sources.reuse_samples(run, INITIAL, files):
                stages.sample(run, INITIAL, files, n, w, "samples", constants, seeds)

        for folder in others:
            scenarios.share(names, home, folder)
        print("initial data for w = " + ", ".join(map(number_text, constants.Wall)) + " in:")
        print("\n".join(f"  {storage.shown(folder)}" for folder in constants.save_dirs))
