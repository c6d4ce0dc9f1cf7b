"""The figures of a loop: those of each generation, and those over its generations so far."""

import torch

from common.loop import sources
from common.machine import records, storage
from common.run import comparable, plots
from common.run.folder import generation_name, load_images
from common.seeds import INITIAL

N_TSNE = 10_000  # images of each kind in a t-SNE figure, at most
PROGRESS = ("fid", "prdc", "strip", "loss")  # figures over the generations


def draw(loop, g):
    """This generation's figures, and those over all generations so far."""
    tsne, grid = (loop.run.figure(kind, g) for kind in ("tsne", "grid"))
    source = storage.sha256(loop.run.evaluation(g)[0])
    if sources.reuse([tsne, grid], source):
        return
    for path in (tsne, grid):
        records.save_source(path, source)
    with loop.stage("figures", g):
        data = load_images(loop.run.evaluation(g))
        title = f"{loop.title}, generation {generation_name(g)}"
        storage.save_figure(plots.sample_grid(*data, title), grid)
        seeds = loop.seeds(INITIAL)  # the same real images in every generation
        n = min(N_TSNE, len(data.images), len(loop.real.images))
        choice = seeds.numpy_generator("tsne").permutation(len(loop.real.images))[:n]
        figure = plots.tsne(
            loop.real.images[torch.from_numpy(choice)],
            data.subset(slice(n)),
            seeds.number("tsne") % 2**32,
            title,
        )
        draw_progress(loop)
        storage.save_figure(figure, tsne)


def draw_progress(loop):
    """The figures over the generations, unless those of the same numbers and images are there.

    The rows can be those of a longer loop, of which some files are there no more.
    """
    run, rows = loop.run, loop.run.metrics()
    generations = [row["generation"] for row in rows]
    strips = {
        g: load_images(run.strip(g))
        for g in generations
        if all([storage.verify(path) for path in run.strip(g)])
    }
    losses = {
        g: [float(row["loss"]) for row in storage.load_rows(run.losses(g))]
        for g in generations
        if storage.verify(run.losses(g))
    }
    (floor,) = storage.load_rows(run.table("floor"))
    controls = comparable.control_rows(run)
    figures = {
        "fid": lambda: plots.fid(rows, loop.title, floor, controls),
        "prdc": lambda: plots.prdc(rows, loop.title, floor, controls),
        "strip": lambda: plots.strips(strips, loop.title),
        "loss": lambda: plots.losses(losses, loop.title),
    }
    images = (data.images.numpy().tobytes() for data in strips.values())
    source = records.digest(repr((rows, [*strips], losses, floor, controls)).encode(), *images)
    for kind in figures if losses else PROGRESS[:-1]:
        path = run.figure(kind)
        if not storage.verify(path) or records.source_of(path) != source:
            storage.save_figure(figures[kind](), path)
            records.save_source(path, source)  # last: until then it may be the old figure
