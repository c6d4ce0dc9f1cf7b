"""The self-consuming loop: what initialmain.py, main.py and mainall.py of every scenario run.

Stages are files: a stage whose file is there is skipped, so a stopped run continues where it
stopped. What differs between scenarios is the function `training_set` in their scenario.py.
"""

import contextlib
import shutil
import time

import torch
from tqdm import tqdm

from common import plots, run, storage
from common.data import LabelledImages, load_real
from common.ddpm import DDPM
from common.errors import UserError, one_line
from common.fid import calculate_frechet_distance, feature_statistics
from common.lenet import accuracy, extract_mnist_features, train_lenet
from common.prdc import compute_prdc_slice, nearest_radii
from common.run import Run
from common.sample import generate_samples
from common.seeds import INITIAL, Seeds
from common.settings import number_text
from common.train import train_ddpm
from common.unet import ContextUnet

N_TSNE = 10_000  # images of each kind in a t-SNE figure, at most

# Constants that only extend or batch a run: they may change when it continues.
FREE = ("generation_number", "max_c", "save_every", "save_dir", "save_dirs", "Wall", "w", "script")


def initialmain(training_set, constants):
    """Trains the initial model on real data and the feature network, and samples from the model.

    For every w in Wall it writes the initial synthetic data, in each of save_dirs.
    """
    with one_line():
        _use_device(constants)
        home, *others = constants.save_dirs
        names = ["run_initial.json", "prmodel.pth", "model_initial.pth"]
        names += [file.name for w in constants.Wall for file in Run(home, w).samples(INITIAL)]
        for folder in others:
            _share(names, folder, home)

        real = load_real(constants.dataset)
        run.record(
            home / "run_initial.json", _fixed(constants), {"dataset": _fingerprint(real)}, FREE
        )
        seeds = Seeds(constants.seed, _scenario(constants))
        _feature_network(Run(home, 0), constants, real, seeds)
        if Run(home, 0).model(INITIAL).exists():
            print(f"model_initial.pth is there: going on to its samples ({home})")
        else:
            data = training_set(INITIAL, real, None, constants, seeds)
            _train(Run(home, 0), INITIAL, data, constants, seeds)
        for w in constants.Wall:
            _sample(Run(home, w), INITIAL, constants.N_with_w, constants, w, seeds)

        for folder in others:
            _share(names, home, folder)
        print("initial data for w = " + ", ".join(map(number_text, constants.Wall)) + " in:")
        print("\n".join(f"  {folder}" for folder in constants.save_dirs))


def main(training_set, constants):
    """The loop over generations for one guidance weight w."""
    with one_line():
        _loops(training_set, constants, [constants.w])


def mainall(training_set, constants):
    """The loop over generations for every guidance weight in Wall, one after the other."""
    with one_line():
        _loops(training_set, constants, constants.Wall)
        paths = constants.save_dir.glob("metrics_w*.csv")  # those of other calls of mainall.py too
        weights = sorted(float(path.stem.removeprefix("metrics_w")) for path in paths)
        rows = {w: Run(constants.save_dir, w).metrics() for w in weights}
        path = constants.save_dir / "weights.png"
        storage.save_figure(plots.over_weights(rows, _scenario(constants)), path)
        print(f"all weights together: {path}")


def _loops(training_set, constants, weights):
    _use_device(constants)
    scenario, folder = _scenario(constants), constants.save_dir
    for w in weights:  # everything that is missing is reported before any work starts
        for path in _inputs(Run(folder, w)):
            if not path.exists():
                again = f" --Wall {number_text(w)}" if path.name.startswith("gen_") else ""
                raise UserError(
                    f"{path.name} is missing in {folder}: run initialmain.py{again} first"
                )
    if getattr(constants, "control", False):
        scenario += " control"
        folder = folder / f"control_seed{constants.seed}"
        names = [path.name for w in weights for path in _inputs(Run(constants.save_dir, w))]
        _share(names, constants.save_dir, folder)
    if _n_next(constants) < constants.batch_size:
        print(
            f"note: {_n_next(constants)} images for the next generation are less than one batch "
            f"({constants.batch_size}); the published setting is N_next = 60000, n_epoch = 40"
        )
    real = load_real(constants.dataset)
    _check_real_data(training_set, real, scenario, constants)
    for w in weights:
        Loop(Run(folder, w), scenario, training_set, real, constants)()


def _check_real_data(training_set, real, scenario, constants):
    """UserError, before any work, when the real images do not last to the last generation, or when
    those of the initial model could come back as fresh ones."""
    last = constants.generation_number - 1
    none = real.subset(slice(0))
    training_set(last, real, lambda generation: none, constants, Seeds(constants.seed, scenario))
    record = constants.save_dir / "run_initial.json"
    if hasattr(constants, "N_initial") and record.exists():
        made = storage.load_json(record)["constants"]
        if (made["seed"], made["N_real"]) != (constants.seed, constants.N_initial):
            raise UserError(
                f"initialmain.py ran with seed = {made['seed']} and N_real = {made['N_real']}: "
                "give main.py the same seed, and N_initial = that N_real, or real images of the "
                "initial model would come back as fresh ones"
            )


class Loop:
    """One loop: its generations, one after the other, in the folder of `run`."""

    def __init__(self, run_, scenario, training_set, real, constants):
        self.run, self.scenario, self.constants = run_, scenario, constants
        self.training_set, self.real = training_set, real
        self.lenet = run.load_lenet(run_.prmodel)
        inputs = {path.name: storage.sha256(path) for path in _inputs(run_)}
        inputs["dataset"] = _fingerprint(real)
        run.record(run_.table("run", "json"), _fixed(constants), inputs, FREE)
        self.reference = self._reference(inputs)

    def __call__(self):
        self.stages_done = 0
        generations = [INITIAL, *range(self.constants.generation_number)]
        name = f"{self.scenario} w = {number_text(self.run.w)}"
        for generation in tqdm(generations, desc=name, unit="generation", disable=None):
            if generation != INITIAL:
                self.train(generation)
                self.sample(generation)
            self.sample_evaluation(generation)
            self.evaluate(generation)
            self.draw(generation)
        if self.stages_done == 0:
            print(f"{name}: nothing to do, all {len(generations) - 1} generations are complete")
        tables = ", ".join(self.run.table(kind).name for kind in ("metrics", "timings"))
        figures = ", ".join(self.run.figure(kind).name for kind in ("fid", "prdc", "strip", "loss"))
        print(f"{name}: {tables}, {figures} and the figures of each generation are in")
        print(f"  {self.run.folder}")

    def train(self, generation):
        """Trains and saves this generation's model."""
        if _done(self.run.model(generation), self.run.training_state(generation)):
            return
        with self._stage("train", generation):
            seeds = self._seeds(generation)
            data = self.training_set(generation, self.real, self._synthetic, self.constants, seeds)
            start = (
                self.run.model(generation - 1) if self.constants.init_from == "previous" else None
            )
            _train(self.run, generation, data, self.constants, seeds, start)

    def sample(self, generation):
        """Samples the images that the next generation trains on, at guidance w."""
        if getattr(self.constants, "control", False):  # nothing would train on them
            return
        images, _ = self.run.samples(generation)
        if _done(images, _partial(images)):
            return
        with self._stage("sample", generation):
            seeds, w, n = self._seeds(generation), self.run.w, _n_next(self.constants)
            _sample(self.run, generation, n, self.constants, w, seeds)

    def sample_evaluation(self, generation):
        """Samples this generation's images for the metrics, at guidance 0, and its strip."""
        images, _ = files = self.run.evaluation(generation)
        if _done(images, _partial(images)) and self.run.strip(generation).exists():
            return
        with self._stage("sample for evaluation", generation):
            ddpm = run.load_ddpm(self.run.model(generation))
            common = {
                "max_c": self.constants.max_c,
                "save_every": self.constants.save_every,
                "partial_path": _partial(images),
                "name": f"generation {_name(generation)}: sampling",
            }
            if not images.exists():
                seeds, n = self._seeds(generation), self.constants.N_eval
                data = generate_samples(ddpm, n, 0, seeds=seeds, stage="evaluation", **common)
                run.save_images(data, files)
                _partial(images).unlink(missing_ok=True)
            seeds = self._seeds(INITIAL)  # the same noise in every generation
            strip = generate_samples(ddpm, 10, self.run.w, seeds=seeds, stage="strip", **common)
            storage.save(strip.images, self.run.strip(generation))

    def evaluate(self, generation):
        """Adds this generation's row to the metrics: FID and PRDC against the real data."""
        rows = self.run.metrics()
        if any(row["generation"] == generation for row in rows):
            return
        with self._stage("evaluate", generation):
            images, _ = run.load_images(self.run.evaluation(generation))
            fake = extract_mnist_features(images, self.lenet)
            real, radii = self.reference
            fid = calculate_frechet_distance(*feature_statistics(fake), *feature_statistics(real))
            prdc = compute_prdc_slice(real, fake, real_radii=radii)
            row = {
                "generation": generation,
                "model": storage.sha256(self.run.model(generation))[:16],
                "N_eval": len(images),
                "fid": fid,
                **prdc,
            }
            self.run.save_metrics([*rows, row])
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in prdc.items())
        tqdm.write(f"generation {_name(generation)}: FID {fid:.4g}, {numbers}")

    def draw(self, generation):
        """This generation's figures, and those over all generations so far."""
        tsne, grid = (self.run.figure(kind, generation) for kind in ("tsne", "grid"))
        if tsne.exists() and grid.exists():
            return
        with self._stage("draw", generation):
            data = run.load_images(self.run.evaluation(generation))
            title = (
                f"{self.scenario}, w = {number_text(self.run.w)}, generation {_name(generation)}"
            )
            storage.save_figure(plots.sample_grid(*data, title), grid)
            seeds = self._seeds(INITIAL)  # the same real images in every generation
            n = min(N_TSNE, len(data.images), len(self.real.images))
            choice = seeds.numpy_generator("tsne").permutation(len(self.real.images))[:n]
            figure = plots.tsne(
                self.real.images[torch.from_numpy(choice)],
                data.images[:n],
                seeds.number("tsne") % 2**32,
                title,
            )
            self.draw_progress()
            storage.save_figure(figure, tsne)

    def draw_progress(self):
        """The figures over the generations."""
        title = f"{self.scenario}, w = {number_text(self.run.w)}"
        rows = self.run.metrics()
        generations = [row["generation"] for row in rows]
        strips = {g: storage.load(self.run.strip(g)) for g in generations}
        losses = {
            g: [float(row["loss"]) for row in storage.load_rows(self.run.losses(g))]
            for g in generations
            if self.run.losses(g).exists()
        }
        storage.save_figure(plots.fid(rows, title), self.run.figure("fid"))
        storage.save_figure(plots.prdc(rows, title), self.run.figure("prdc"))
        storage.save_figure(plots.strips(strips, title), self.run.figure("strip"))
        if losses:
            storage.save_figure(plots.losses(losses, title), self.run.figure("loss"))

    def _seeds(self, generation):
        return Seeds(self.constants.seed, self.scenario, self.run.w, generation)

    def _synthetic(self, generation):
        return run.load_images(self.run.samples(generation), "main.py")

    def _reference(self, inputs):
        """The real data's features (N, 84) and PRDC radii (N,), computed once per folder."""
        path = self.run.folder / "real_features.pth"
        key = {name: inputs[name] for name in ("dataset", "prmodel.pth")}
        if path.exists():
            saved = storage.load(path, "main.py")
            if saved["key"] == key:
                return saved["features"], saved["radii"]
        features = extract_mnist_features(self.real.images, self.lenet)
        radii = nearest_radii(features)
        storage.save({"key": key, "features": features, "radii": radii}, path)
        return features, radii

    @contextlib.contextmanager
    def _stage(self, stage, generation):
        """Counts a stage that has work to do and notes its time in timings_w{w}.csv."""
        started = time.perf_counter()
        yield
        self.stages_done += 1
        seconds = f"{time.perf_counter() - started:.2f}"
        row = {"generation": _name(generation), "stage": stage, "seconds": seconds}
        path = self.run.table("timings")
        storage.save_rows([*storage.load_rows(path), row], path)


def _train(run_, generation, data, constants, seeds, start=None):
    """Trains a DDPM on LabelledImages and saves its losses, then the model."""
    ddpm = seeds.initialised(
        lambda: DDPM(
            ContextUnet(1, constants.n_feat, constants.n_classes),
            (constants.beta1, constants.beta2),
            constants.n_T,
        )
    )
    if start is not None:
        ddpm.load_state_dict(storage.load(start))
    losses = train_ddpm(
        ddpm.to(run.device()),
        LabelledImages(*data).to(run.device()),
        n_epoch=constants.n_epoch,
        batch_size=constants.batch_size,
        lrate=constants.lrate,
        seeds=seeds,
        state_path=run_.training_state(generation),
        save_every=constants.save_every,
        name=f"generation {_name(generation)}: training on {len(data.labels):,} images",
    )
    rows = [{"epoch": epoch + 1, "loss": loss} for epoch, loss in enumerate(losses)]
    storage.save_rows(rows, run_.losses(generation))
    storage.save(ddpm.state_dict(), run_.model(generation))
    run_.training_state(generation).unlink(missing_ok=True)


def _sample(run_, generation, n, constants, w, seeds):
    """Samples n images from the saved model at guidance w, unless they are there."""
    images, _ = files = run_.samples(generation)
    if _done(images, _partial(images)):
        return
    data = generate_samples(
        run.load_ddpm(run_.model(generation)),
        n,
        w,
        max_c=constants.max_c,
        seeds=Seeds(seeds.seed, seeds.scenario, w, generation),
        stage="samples",
        partial_path=_partial(images),
        save_every=constants.save_every,
        name=f"generation {_name(generation)}: sampling for the next",
    )
    run.save_images(data, files)
    _partial(images).unlink(missing_ok=True)


def _feature_network(run_, constants, real, seeds):
    if run_.prmodel.exists():
        return
    print("training the feature network prmodel.pth ...")
    network = train_lenet(real.to(run.device()), seeds)
    storage.save(network.state_dict(), run_.prmodel)
    percent = 100 * accuracy(network, load_real(constants.dataset, train=False))
    print(f"prmodel.pth classifies {percent:.2f} % of the test images correctly")


def _n_next(constants):
    """How many images a generation's model samples for the next."""
    return constants.N_next if hasattr(constants, "N_next") else constants.N_with_w


def _done(path, leftover):
    """Whether a stage's file is there; if so, removes what a stop just after it left behind."""
    if path.exists():
        leftover.unlink(missing_ok=True)
    return path.exists()


def _partial(images):
    return images.with_name(images.name + ".part")


def _inputs(run_):
    """What initialmain.py makes and a loop needs."""
    return [run_.prmodel, run_.model(INITIAL), *run_.samples(INITIAL)]


def _share(names, source, target):
    """Copies these files of the folder source to target; those that are there must be the same."""
    for name in names:
        if not (source / name).exists():
            continue
        if not (target / name).exists():
            with storage.atomic(target / name) as file, open(source / name, "rb") as original:
                shutil.copyfileobj(original, file)
        elif storage.sha256(source / name) != storage.sha256(target / name):
            raise UserError(f"{name} differs between {source} and {target}: keep one of the two")


def _fixed(constants):
    """The constants that a continued run must not change."""
    return {name: value for name, value in vars(constants).items() if name not in FREE}


def _fingerprint(data):
    """A hash of LabelledImages' content."""
    return storage.digest(*(part.numpy().tobytes() for part in data))


def _scenario(constants):
    return constants.script.parents[1].name


def _use_device(constants):
    """Announces the device; with `deterministic`, CUDA uses only reproducible kernels."""
    device = run.device()
    if device.type == "cuda":
        torch.use_deterministic_algorithms(constants.deterministic)
        torch.backends.cudnn.benchmark = not constants.deterministic
        print(f"device: {torch.cuda.get_device_name()}")
    else:
        print(f"device: CPU, {torch.get_num_threads()} threads")


def _name(generation):
    return "initial" if generation == INITIAL else str(generation)
