"""The figures of a run. Each function returns a matplotlib Figure; nothing is ever shown."""

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from common.seeds import INITIAL

# Okabe & Ito's colours, distinguishable for colour-blind readers, with a marker each.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
PRDC_STYLES = {
    "precision": (BLUE, "o"),
    "recall": (ORANGE, "s"),
    "density": (GREEN, "^"),
    "coverage": (PURPLE, "D"),
}


def tsne(real, fake, random_state, title):
    """t-SNE (van der Maaten & Hinton 2008) of images uint8 (N, 1, 28, 28), real against fake.

    Pixels are reduced by PCA to 50 dimensions first; both sets are embedded together.
    """
    pixels = np.concatenate([real.numpy(), fake.numpy()]).reshape(len(real) + len(fake), -1) / 255
    components = min(50, len(pixels) - 1)
    reduced = PCA(components, random_state=random_state).fit_transform(pixels)
    perplexity = min(30, (len(pixels) - 1) / 3)
    points = TSNE(perplexity=perplexity, random_state=random_state).fit_transform(reduced)
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    size = float(np.clip(4000 / len(pixels), 1, 12))
    for part, colour, label in (
        (points[: len(real)], BLUE, f"real ({len(real):,})"),
        (points[len(real) :], ORANGE, f"synthetic ({len(fake):,})"),
    ):
        axes.scatter(*part.T, s=size, c=colour, alpha=0.6, linewidths=0, label=label)
    axes.set(title=title, xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    axes.legend(loc="upper right", markerscale=(30 / size) ** 0.5, framealpha=0.9)
    return figure


def sample_grid(images, labels, title):
    """The first 10 images of each class: one class per column; blank where there are fewer."""
    canvas = np.zeros((10 * 28, 10 * 28), dtype=np.uint8)
    for c in range(10):
        for row, image in enumerate(images[labels == c][:10]):
            canvas[row * 28 : (row + 1) * 28, c * 28 : (c + 1) * 28] = image[0]
    figure = Figure(figsize=(5, 5.3), layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=255)
    axes.set(title=title, xlabel="class", yticks=[])
    axes.set_xticks(14 + 28 * np.arange(10), labels=range(10))
    return figure


def strips(rows, title):
    """One row of images per generation, {generation: LabelledImages}, aligned so that each column
    shows the same class and starting noise in every generation."""
    figure = Figure(figsize=(9, 0.8 + 0.32 * len(rows)), layout="constrained")
    draw_strips(figure.subplots(), rows, title)
    return figure


def draw_strips(axes, rows, title):
    columns = min(len(row.labels) for row in rows.values())  # earlier versions made ten
    canvas = []
    for row in rows.values():
        by_class = row.labels[:columns].argsort(stable=True)
        canvas.append(np.concatenate(list(row.images[by_class, 0].numpy()), axis=1))
    axes.imshow(np.concatenate(canvas), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(title=title, xlabel="class", ylabel="generation")
    axes.set_xticks(28 * columns / 10 * (0.5 + np.arange(10)), labels=range(10))
    axes.set_yticks(14 + 28 * np.arange(len(rows)), labels=[generation_name(g) for g in rows])


def fid(rows, title, floor, controls):
    """FID over the generations; rows and those of control generations as in metrics_w{w}.csv,
    floor as in floor_w{w}.csv."""
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes = figure.subplots()
    draw_band(axes, controls, "fid")
    draw_fid(axes, rows, title)
    draw_floor(axes, float(floor["fid"]), BLUE, f"{floor['N']} real {floor['real']}")
    axes.legend(fontsize=8)
    return figure


def draw_fid(axes, rows, title):
    axes.plot(*_series(rows, "fid"), color=BLUE, marker="o", label="samples")
    axes.set(title=title, ylabel="FID (84 LeNet features)", ylim=(0, None))
    generation_axis(axes, rows)


def prdc(rows, title, floor):
    """Precision, recall, density and coverage over the generations; dotted: of real images."""
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes = figure.subplots()
    draw_prdc(axes, rows, title)
    for name, (colour, _) in PRDC_STYLES.items():
        draw_floor(axes, float(floor[name]), colour)
    return figure


def draw_floor(axes, value, colour, label=None):
    """A dotted line where real images are."""
    axes.axhline(value, color=colour, ls=":", lw=1.2, label=label)


def draw_prdc(axes, rows, title):
    for name, (colour, marker) in PRDC_STYLES.items():
        axes.plot(*_series(rows, name), color=colour, marker=marker, label=name)
    highest = max(row[name] for row in rows for name in PRDC_STYLES)
    axes.set(title=title, ylabel="PRDC (k = 5)", ylim=(0, 1.3 * max(highest, 0.5)))
    axes.legend(ncols=2, loc="upper right")
    generation_axis(axes, rows)


def together(runs, title, controls):
    """FID and PRDC over the generations of several runs: {label: rows of its metrics}, over the
    band of the rows of `controls`' generations, where there are any."""
    figure = Figure(figsize=(15, 3.6), layout="constrained")
    figure.suptitle(title)
    styles = [(colour, marker) for marker in "os^Dv" for colour in (BLUE, ORANGE, GREEN, PURPLE)]
    for axes, name in zip(figure.subplots(1, 5), ("fid", *PRDC_STYLES), strict=True):
        draw_band(axes, controls, name)
        for (colour, marker), (label, rows) in zip(styles, runs.items(), strict=False):
            axes.plot(*_series(rows, name), color=colour, marker=marker, ms=4, label=label)
        axes.set(title="FID" if name == "fid" else name, ylim=(0, None))
        generation_axis(axes, max(runs.values(), key=len))
        axes.set_xlabel("generation")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


def draw_band(axes, controls, name):
    """Between the least and the most of a metric in rows of control generations."""
    values = [row[name] for row in controls]
    if values:
        axes.axhspan(min(values), max(values), color="0.85", label=f"{len(values)} controls")


def losses(curves, title):
    """Training loss over the epochs, {generation: [loss of each epoch]}, one line each."""
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes = figure.subplots()
    shades = generation_colours(len(curves))
    for (generation, values), colour in zip(curves.items(), shades, strict=True):
        epochs = np.arange(1, len(values) + 1)
        axes.plot(epochs, values, color=colour, marker="." if len(values) < 30 else None)
        axes.annotate(generation_name(generation), (epochs[-1], values[-1]), fontsize=7)
    axes.set(title=title, xlabel="epoch", ylabel="mean squared error of the noise", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    return figure


def generation_colours(n):
    """n colours from early (dark) to late (light), ordered in brightness too."""
    return colormaps["viridis"](np.linspace(0, 0.9, n))


def _series(rows, name):
    return [row["generation"] for row in rows], [row[name] for row in rows]


def generation_axis(axes, rows):
    generations = [row["generation"] for row in rows]
    axes.set_xlabel(
        "generation (initial: trained on real data)" if INITIAL in generations else "generation"
    )
    step = max(1, len(generations) // 10)
    shown = [g for g in generations if g == INITIAL or g % step == 0]
    axes.set_xticks(shown, labels=[generation_name(g) for g in shown])
    axes.grid(alpha=0.3)


def generation_name(generation):
    return "initial" if generation == INITIAL else str(generation)
