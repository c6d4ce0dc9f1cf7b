"""The rows of metrics_w{w}.csv, one of each generation, and that of real images, floor_w{w}.csv."""

import time

from tqdm import tqdm

from common.data import fingerprint, load_real
from common.loop import sources
from common.machine import records, storage
from common.metrics import evaluation
from common.rules import DATASETS
from common.run.folder import load_images, model_name
from common.seeds import INITIAL

SAID = ("precision", "recall", "accuracy")  # in the line of a generation, beside FID


def measure(loop, g, data):
    """Adds this generation's row to the metrics: those of `evaluation.scores`, for w > 0 also of
    the guided samples that the next generation trains on. data(): the training set. A row of an
    earlier version, which measured less, is made again."""
    rows, model = loop.run.metrics(), storage.sha256(loop.run.model(g))[:16]
    here = (row for row in rows if row["generation"] == g)
    if any(row["model"] == model and "entropy" in row for row in here):
        return
    with loop.stage("metrics", g):
        samples = load_images(loop.run.evaluation(g))
        training = None if g == INITIAL else data()
        row = {
            "generation": g,
            "model": model,
            "N_eval": len(samples.labels),
            **evaluation.scores(samples, loop.lenet, loop.reference, training),
        }
        if loop.run.w > 0:
            guided = loop.synthetic(g).subset(slice(loop.constants.N_eval))
            found = evaluation.scores(guided, loop.lenet, loop.reference, training)
            row["N_guided"] = len(guided.labels)
            row |= {f"{name}_guided": value for name, value in found.items()}
        others = [row for row in rows if row["generation"] != g]  # not of a model that is gone
        loop.run.save_metrics([*others, row])
    numbers = ", ".join(f"{name} {row[name]:.2f}" for name in SAID)
    seconds = time.perf_counter() - loop.started
    tqdm.write(
        f"{loop.title}, {model_name(g)}: FID {row['fid']:.4g}, {numbers}; {seconds:.0f} s so far"
    )


def measure_floor(run, constants, real, lenet, reference):
    """What real images score."""
    path = run.table("floor")
    measured = [constants.N_eval, constants.N_ref, storage.sha256(run.prmodel)]
    if constants.dataset not in DATASETS:  # whose images may change
        measured.append(fingerprint(load_real(constants.dataset, train=False)))
    source = records.digest(repr(tuple(measured)).encode())
    if not sources.reuse([path], source):
        records.save_source(path, source)
        sizes = constants.N_eval, constants.N_ref
        row = evaluation.floor(real, constants.dataset, lenet, reference, *sizes)
        storage.save_rows([row], path)


def drop(run, *generations):
    """Takes the metrics of samples that are made again out of the table."""
    rows = run.metrics()
    kept = [row for row in rows if row["generation"] not in generations]
    if len(kept) < len(rows):
        run.save_metrics(kept)


def drop_later(loop, total):
    """Takes generations that an earlier, longer loop made out of the metrics, from the first on
    whose model is not from the samples that are there now."""
    later = [row["generation"] for row in loop.run.metrics() if row["generation"] >= total]
    for g in later:
        made_from = loop.made_from(g)
        there = all(path.exists() for path in made_from)
        if not (there and records.is_from(loop.run.model(g), sources.source_of(made_from))):
            drop(loop.run, *range(g, later[-1] + 1))
            print(
                f"note: generations {g} to {later[-1]} were made from what is there no more; "
                f"generation_number = {later[-1] + 1} makes them again"
            )
            break
