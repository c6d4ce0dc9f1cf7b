"""The self-consuming loop: what main.py and mainall.py of every scenario run.

Stages are files: a stage whose file is there is skipped, so a stopped run continues where it
stopped. What differs between scenarios is the function `training_set` in their scenario.py.
"""

import contextlib
import time

import torch
from tqdm import tqdm

from common import settings
from common.data import fingerprint, load_real
from common.loop import scenarios, stages
from common.loop.forecast import announce_work
from common.machine import device, processes, storage
from common.machine.errors import UserError, one_line
from common.metrics import evaluation
from common.page import report
from common.run import plots, provenance
from common.run.folder import Run, control_rows, guidance_weights, load_images, load_lenet
from common.run.record import save_record
from common.seeds import INITIAL, Seeds
from common.settings import number_text

N_TSNE = 10_000  # images of each kind in a t-SNE figure, at most
PROGRESS = ("fid", "prdc", "strip", "loss")  # figures over the generations
N_STRIP = 30  # images in a generation's strip, three of each class
MOST_OF_THE_REAL = 0.9  # a control that draws more of the real images has hardly a choice


@processes.led
def main(constants):
    """The loop over generations for one guidance weight w."""
    with one_line():
        _loops(constants, [constants.w])


@processes.led
def mainall(constants):
    """The loop over generations for every guidance weight in Wall, one after the other."""
    with one_line():
        folder = _loops(constants, constants.Wall)
        weights = guidance_weights(folder)  # those of other calls of mainall.py too
        rows = {f"w = {number_text(w)}": Run(folder, w).metrics() for w in weights}
        rows = {name: found for name, found in rows.items() if found}
        path = folder / "weights.png"
        with storage.lock(path.with_suffix(".lock"), wait=True):  # other weights' loops too
            (floor,) = storage.load_rows(Run(folder, weights[0]).table("floor"))
            title = scenarios.name_of(constants)
            storage.save_figure(plots.together(rows, title, control_rows(folder), floor), path)
        print(f"all weights together: {storage.shown(path)}")
        report.announce(report.index(folder))


def _loops(constants, weights):
    """Runs a loop for each weight; returns the folder that they are in.

    A control trains on no sample, so it does not depend on the weight: it is run once, as w = 0.
    """
    device.use(constants.deterministic)
    name, folder = scenarios.name_of(constants), constants.save_dir
    if constants.control:
        weights, name = [0], f"{name} control"
        if getattr(constants, "accumulate", False):
            raise UserError("accumulate = True has no control: its training sets grow")
    _check_inputs(folder, weights, constants)
    if hasattr(constants, "N_next") and constants.N_next < constants.batch_size:
        print(
            f"note: {constants.N_next} images for the next generation are less than one batch "
            f"({constants.batch_size}); the published setting is N_next = 60000, n_epoch = 40"
        )
    initial = constants.save_dir / "run_initial.json"  # not there when other code made the data
    constants.initial_seed = constants.seed
    if initial.exists():
        constants.initial_seed = storage.load_json(initial)["constants"]["seed"]
    real = load_real(constants.dataset)
    _check_real_data(real, name, constants)
    if constants.control:
        folder = folder / f"control_seed{constants.seed}"
    for w in weights:
        of = Run(folder, w)
        with storage.lock(of.table("run", "lock")):
            names = [path.name for path in _inputs(of, constants)]
            if constants.control:
                scenarios.share(names, constants.save_dir, folder)
                if initial.exists():  # for the comparison with the initial model
                    storage.write(folder / initial.name, storage.read(initial))
            Loop(of, name, real, constants)()
    return folder


def _check_inputs(folder, weights, constants):
    """UserError, before any work, that names all that is missing and the command that makes it."""
    paths = {path: w for w in reversed(weights) for path in _inputs(Run(folder, w), constants)}
    missing = [path for path in paths if not path.exists()]
    for path in paths:
        if path not in missing:
            storage.read(path)
    if missing:
        wall = sorted({paths[path] for path in missing})
        command = settings.initial_command(constants, map(number_text, wall))
        names = ", ".join(path.name for path in missing)
        raise UserError(
            f"{names} {'is' if len(missing) == 1 else 'are'} missing in {folder}: first run "
            f"{command}"
        )


def _check_real_data(real, name, constants):
    """UserError, before any work, when the real images do not last to the last generation, or
    when the loop cannot go on from its initial model; says what of the recipe changes there."""
    record = constants.save_dir / "run_initial.json"
    if record.exists():  # not when other code made the initial data
        made = storage.load_json(record)["constants"]
        provenance.check_initial(vars(constants), made)
        if text := provenance.initial_differences(vars(constants), made):
            print(f"note: {text}")
    last = constants.generation_number - 1
    none = real.subset(slice(0))
    training_set, seeds = (
        scenarios.training_set_of(constants.script.parent),
        Seeds(constants.seed, name),
    )
    data = training_set(last, real, lambda generation: none, constants, seeds)
    if constants.control and len(data.labels) > MOST_OF_THE_REAL * len(real.labels):
        print(
            f"note: {len(data.labels):,} of {len(real.labels):,} real images are hardly a new "
            "draw: this control carries the variation of training alone"
        )


class Loop:
    """One loop: its generations, one after the other, in the folder of `run`."""

    def __init__(self, run_, name, real, constants):
        self.run, self.scenario, self.constants = run_, name, constants
        self.training_set, self.real = scenarios.training_set_of(constants.script.parent), real
        self.lenet = load_lenet(run_.prmodel)
        inputs = {path.name: storage.sha256(path) for path in _inputs(run_, constants)}
        inputs["dataset"] = fingerprint(real)
        record = run_.table("run", "json")
        save_record(record, constants, name, inputs, run_.begun(), stopped=None)
        self.reference = evaluation.reference(
            real,
            self.lenet,
            constants.N_ref,
            run_.folder / "real_features.pth",
            {name: inputs[name] for name in ("dataset", "prmodel.pth")},
        )
        self._floor()
        for kind in ("metrics", "timings"):  # a damaged table is made anew
            storage.intact(run_.table(kind))
            storage.sweep(run_.table(kind))

    def __call__(self):
        try:
            self._generations()
        except BaseException as error:
            record = self.run.table("run", "json")
            stopped = {"stopped": str(error) or type(error).__name__}
            with contextlib.suppress(UserError):  # a full disk: the first error tells
                storage.save_json({**storage.load_json(record), **stopped}, record)
            report.announce(report.write(self.run.folder, self.run.w))
            raise
        report.announce(report.write(self.run.folder, self.run.w))

    def _generations(self):
        self.stages_done, self.started = 0, time.perf_counter()
        total, name = self.constants.generation_number, self._title()
        measured = {row["generation"]: row["model"] for row in self.run.metrics()}
        for g in (INITIAL, *range(total)):
            stages.adopt(self.run, g, self._made_from(g), measured.get(g, ""))
        missing = [g for g in range(total) if not self.run.model(g).exists()]
        if missing:
            n_images = len(self._data(0).labels)
            sampled = self.run.evaluation(INITIAL)[0].exists()
            n_more = 0 if sampled else self.constants.N_eval
            announce_work(name, self.constants, n_images, len(missing), n_more)
        bar = tqdm(total=total, desc=name, unit="generation", disable=None)
        for generation in (INITIAL, *range(total)):
            if generation != INITIAL:
                self.train(generation)
                self.sample(generation)
            self.sample_evaluation(generation)
            self.evaluate(generation)
            self.draw(generation)
            report.write(self.run.folder, self.run.w)
            bar.update(generation != INITIAL)
        bar.close()
        self._drop_later(total)
        if self.stages_done == 0:
            print(f"{name}: nothing to do, all {total} generations are complete")
        self.draw_progress()
        tables = ", ".join(self.run.table(kind).name for kind in ("metrics", "timings"))
        figures = ", ".join(self.run.figure(kind).name for kind in PROGRESS)
        print(f"{name}: {tables}, {figures} and the figures of each generation are in")
        print(f"  {storage.shown(self.run.folder)}")

    def _data(self, generation):
        """The training set of a generation."""
        seeds = self._seeds(generation)
        return self.training_set(generation, self.real, self._synthetic, self.constants, seeds)

    def _made_from(self, generation):
        """The files of synthetic images that a generation trains on, and that of the model that its
        weights start from."""
        earlier = [generation - 1]
        if getattr(self.constants, "accumulate", False):
            earlier = range(INITIAL, generation)
        if generation == INITIAL:
            return []
        paths = [] if self.constants.control else [self.run.samples(g)[0] for g in earlier]
        if self.constants.init_from == "previous":
            paths.append(self.run.model(generation - 1))
        return paths

    def train(self, generation):
        """Trains and saves this generation's model."""
        source = stages.source_of(self._made_from(generation))
        if stages.is_trained(self.run, generation, source):
            return
        with self._stage("training", generation):
            previous = self.constants.init_from == "previous"
            start = self.run.model(generation - 1) if previous else None
            data, seeds = self._data(generation), self._seeds(generation)
            stages.train(self.run, generation, data, self.constants, seeds, source, start)

    def sample(self, generation):
        """Samples the images that the next generation trains on, at guidance w."""
        files, n = self.run.samples(generation), _n_next(self.constants)
        if self.constants.control:  # nothing would train on them
            return
        if not stages.is_sampled(self.run, generation, files):
            self._drop_rows(generation)
            with self._stage("sampling", generation):
                self._sample(generation, files, n, self.run.w, "samples")

    def sample_evaluation(self, generation):
        """Samples this generation's images for the metrics, at guidance 0, and its strip: images of
        each class, at guidance w, from the same noise in every generation."""
        files, strip = self.run.evaluation(generation), self.run.strip(generation)
        if not stages.is_sampled(self.run, generation, files):
            self._drop_rows(generation)
            with self._stage("sampling for evaluation", generation):
                self._sample(generation, files, self.constants.N_eval, 0, "evaluation")
        if not stages.is_sampled(self.run, generation, strip):
            with self._stage("sampling the strip", generation):
                self._sample(generation, strip, N_STRIP, self.run.w, "strip", INITIAL)

    def _sample(self, generation, files, n, w, stage, noise_of=None):
        seeds = self._seeds(generation if noise_of is None else noise_of)
        stages.sample(self.run, generation, files, n, w, stage, self.constants, seeds)

    def _drop_rows(self, *generations):
        """Takes the metrics of samples that are made again out of the table."""
        rows = self.run.metrics()
        kept = [row for row in rows if row["generation"] not in generations]
        if len(kept) < len(rows):
            self.run.save_metrics(kept)

    def _drop_later(self, total):
        """Takes generations that an earlier, longer loop made out of the metrics, from the first on
        whose model is not from the samples that are there now."""
        later = [row["generation"] for row in self.run.metrics() if row["generation"] >= total]
        for g in later:
            made_from = self._made_from(g)
            there = all(path.exists() for path in made_from)
            if not (there and storage.is_from(self.run.model(g), stages.source_of(made_from))):
                self._drop_rows(*range(g, later[-1] + 1))
                print(
                    f"note: generations {g} to {later[-1]} were made from what is there no more; "
                    f"generation_number = {later[-1] + 1} makes them again"
                )
                break

    def evaluate(self, generation):
        """Adds this generation's row to the metrics: those of `evaluation.scores`, for w > 0 also
        of the guided samples that the next generation trains on. A row of an earlier version, which
        measured less, is made again."""
        rows, model = self.run.metrics(), storage.sha256(self.run.model(generation))[:16]
        here = (row for row in rows if row["generation"] == generation)
        if any(row["model"] == model and "entropy" in row for row in here):
            return
        rows = [row for row in rows if row["generation"] != generation]  # of a model that is gone
        with self._stage("metrics", generation):
            samples = load_images(self.run.evaluation(generation))
            training = None if generation == INITIAL else self._data(generation)
            row = {
                "generation": generation,
                "model": model,
                "N_eval": len(samples.labels),
                **evaluation.scores(samples, self.lenet, self.reference, training),
            }
            if self.run.w > 0:
                guided = self._synthetic(generation).subset(slice(self.constants.N_eval))
                found = evaluation.scores(guided, self.lenet, self.reference, training)
                row["N_guided"] = len(guided.labels)
                row |= {f"{name}_guided": value for name, value in found.items()}
            self.run.save_metrics([*rows, row])
        names = ("precision", "recall", "accuracy")
        numbers = ", ".join(f"{name} {row[name]:.2f}" for name in names)
        seconds = time.perf_counter() - self.started
        tqdm.write(
            f"{self._title()}, {stages.model_of(generation)}: FID {row['fid']:.4g}, "
            f"{numbers}; {seconds:.0f} s so far"
        )

    def _floor(self):
        """What real images score, in floor_w{w}.csv."""
        path, constants = self.run.table("floor"), self.constants
        measured = (constants.N_eval, constants.N_ref, storage.sha256(self.run.prmodel))
        source = storage.digest(repr(measured).encode())
        if not stages.is_done([path], source):
            storage.note_source(path, source)
            row = evaluation.floor(
                self.real,
                constants.dataset,
                self.lenet,
                self.reference,
                constants.N_eval,
                constants.N_ref,
            )
            storage.save_rows([row], path)

    def draw(self, generation):
        """This generation's figures, and those over all generations so far."""
        tsne, grid = (self.run.figure(kind, generation) for kind in ("tsne", "grid"))
        source = storage.sha256(self.run.evaluation(generation)[0])
        if stages.is_done([tsne, grid], source):
            return
        for path in (tsne, grid):
            storage.note_source(path, source)
        with self._stage("figures", generation):
            data = load_images(self.run.evaluation(generation))
            title = f"{self._title()}, generation {stages.name_of(generation)}"
            storage.save_figure(plots.sample_grid(*data, title), grid)
            seeds = self._seeds(INITIAL)  # the same real images in every generation
            n = min(N_TSNE, len(data.images), len(self.real.images))
            choice = seeds.numpy_generator("tsne").permutation(len(self.real.images))[:n]
            figure = plots.tsne(
                self.real.images[torch.from_numpy(choice)],
                data.subset(slice(n)),
                seeds.number("tsne") % 2**32,
                title,
            )
            self.draw_progress()
            storage.save_figure(figure, tsne)

    def draw_progress(self):
        """The figures over the generations, unless those of the same numbers and images are there.

        The rows can be those of a longer loop, of which some files are there no more.
        """
        title, rows = self._title(), self.run.metrics()
        generations = [row["generation"] for row in rows]
        strips = {
            g: load_images(self.run.strip(g))
            for g in generations
            if all([storage.intact(path) for path in self.run.strip(g)])
        }
        losses = {
            g: [float(row["loss"]) for row in storage.load_rows(self.run.losses(g))]
            for g in generations
            if storage.intact(self.run.losses(g))
        }
        (least,) = storage.load_rows(self.run.table("floor"))
        controls = control_rows(self.run.folder)
        figures = {
            "fid": lambda: plots.fid(rows, title, least, controls),
            "prdc": lambda: plots.prdc(rows, title, least, controls),
            "strip": lambda: plots.strips(strips, title),
            "loss": lambda: plots.losses(losses, title),
        }
        images = (data.images.numpy().tobytes() for data in strips.values())
        source = storage.digest(repr((rows, [*strips], losses, least, controls)).encode(), *images)
        for kind in figures if losses else PROGRESS[:-1]:
            path = self.run.figure(kind)
            if not storage.intact(path) or storage.noted(path) != source:
                storage.save_figure(figures[kind](), path)
                storage.note_source(path, source)  # last: until then it may be the old figure

    def _title(self):
        return f"{self.scenario}, w = {number_text(self.run.w)}"

    def _seeds(self, generation):
        return Seeds(self.constants.seed, self.scenario, self.run.w, generation)

    def _synthetic(self, generation):
        return load_images(self.run.samples(generation), "main.py")

    @contextlib.contextmanager
    def _stage(self, stage, generation):
        """Counts a stage that has work to do and notes its time in timings_w{w}.csv."""
        started = time.perf_counter()
        yield
        self.stages_done += 1
        seconds = f"{time.perf_counter() - started:.2f}"
        row = {"generation": stages.name_of(generation), "stage": stage, "seconds": seconds}
        path = self.run.table("timings")
        storage.save_rows([*storage.load_rows(path), row], path)


def _n_next(constants):
    """How many images a generation's model samples for the next."""
    return constants.N_next if hasattr(constants, "N_next") else constants.N_with_w


def _inputs(run_, constants):
    """What initialmain.py makes and a loop needs; a control needs no samples."""
    samples = () if constants.control else run_.samples(INITIAL)
    return [run_.prmodel, run_.model(INITIAL), *samples]
