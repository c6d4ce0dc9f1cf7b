"""The figures of a run. Each function returns a matplotlib Figure; nothing is ever shown."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from common.metrics import NAMES
from common.run import embedding, style
from common.run.folder import generation_name

AT_MOST_1 = ("precision", "recall", "coverage")
# Of ten classes, for colour-blind readers: P. Tol's "muted" scheme and black.
CLASSES = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933")
CLASSES += ("#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000")


def tsne(real, fake, random_state, title):
    """t-SNE of the pixels of real images uint8 (N, 1, 28, 28) in grey and LabelledImages `fake` in
    the colours of their classes, by `embedding.embed`."""
    images, labels = (part.numpy() for part in fake)
    behind, front, alone = embedding.embed(real.numpy(), images, random_state)
    figure = Figure(figsize=(style.ONE, 3.6), layout="constrained")
    axes = figure.subplots()
    size = float(np.clip(4000 / len(behind), 1, 10))
    points = {"s": size, "linewidths": 0, "rasterized": True}
    axes.scatter(*behind.T, c="0.8", label=f"{len(real):,} real images", **points)
    for c in np.unique(labels):
        places = front[labels == c]
        axes.scatter(*places.T, c=CLASSES[c], alpha=0.7, **points)
        name = {"color": CLASSES[c], "size": 9, "weight": "bold", "ha": "center", "va": "center"}
        outline = withStroke(linewidth=2, foreground="white")
        axes.text(*np.median(places, axis=0), c, path_effects=[outline], **name)
    moved = f"real points are {embedding.moved(behind, alone):.1%} of their spread from where they"
    moved += "\nlie without samples (median)"
    axes.set(title=f"{title}\n{len(labels):,} samples by class, real images grey", xlabel=moved)
    low, high = alone.min(axis=0), alone.max(axis=0)
    centre, reach = (low + high) / 2, 0.6 * (high - low).max()  # the same in all generations,
    reach = max(reach, 1.02 * np.abs(front - centre).max())  # but where samples are outside
    for name, middle in zip("xy", centre, strict=True):
        axes.set(**{f"{name}lim": (middle - reach, middle + reach), f"{name}ticks": []})
    axes.set(aspect="equal")
    axes.spines[:].set_visible(False)
    return figure


def sample_grid(images, labels, title):
    """The first 10 images of each class: one class per column; blank where there are fewer."""
    canvas = np.zeros((10 * 28, 10 * 28), dtype=np.uint8)
    for c in range(10):
        for row, image in enumerate(images[labels == c][:10]):
            canvas[row * 28 : (row + 1) * 28, c * 28 : (c + 1) * 28] = image[0]
    figure = Figure(figsize=(style.ONE, 3.6), layout="constrained")
    axes = figure.subplots()
    _picture(axes, canvas, range(10))
    axes.set(title=title, yticks=[])
    return figure


def strips(rows, title):
    """One row of images per generation, {generation: LabelledImages}, aligned so that each column
    shows the same class and starting noise in every generation."""
    columns = _columns(rows)
    width = style.ONE if columns <= 10 else style.TWO
    height = 0.6 + (width - 0.8) / columns * len(rows)
    figure = Figure(figsize=(width, height), layout="constrained")
    draw_strips(figure.subplots(), rows, title)
    return figure


def _columns(rows):
    """How many images each row of strips has; earlier versions made ten."""
    return min(len(row.labels) for row in rows.values())


def draw_strips(axes, rows, title, classes=range(10)):
    columns, canvas = _columns(rows), []
    for row in rows.values():
        by_class = [i for c in classes for i in (row.labels[:columns] == c).nonzero()[:, 0]]
        canvas.append(np.concatenate(list(row.images[by_class, 0].numpy()), axis=1))
    _picture(axes, np.concatenate(canvas), classes)
    axes.set(title=title, ylabel="generation")
    axes.set_yticks(14 + 28 * np.arange(len(rows)), labels=map(generation_name, rows))


def _picture(axes, canvas, classes):
    """Images side by side, as many of each class, with the classes below."""
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    width = canvas.shape[1] / len(classes)
    axes.set_xticks(width * (0.5 + np.arange(len(classes))), labels=classes)
    axes.set_xlabel("class asked for")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def fid(rows, title, floor, controls=()):
    """FID over the generations; rows and those of control generations as in metrics_w{w}.csv,
    floor as in floor_w{w}.csv."""
    return _metric_panels(
        {"samples": rows}, f"{title}: FID of 84 LeNet features", ["fid"], controls, floor, 2.2
    )


def prdc(rows, title, floor, controls=()):
    """Precision, recall, density and coverage over the generations, as `fid`."""
    size = {"height": 1.4, "columns": 2, "width": style.ONE}
    return _metric_panels({"samples": rows}, title, list(NAMES)[1:], controls, floor, **size)


def together(runs, title, controls=(), floor=None):
    """FID and PRDC over the generations of several runs: {label: rows of its metrics}, as `fid`."""
    return _metric_panels(runs, title, list(NAMES), controls, floor, columns=3)


def _metric_panels(runs, title, names, controls, floor, height=1.6, columns=4, width=None):
    figure, panels = style.panels(len(names), title, height, columns, width)
    for axes, name in zip(panels, names, strict=True):
        draw_metric(axes, runs, name, controls, floor)
    style.label_below(panels, "generation")
    keys = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        keys |= dict(zip(labels, handles, strict=True))
    place = {"loc": "outside lower center", "ncols": 2 if width or len(names) == 1 else 4}
    figure.legend(keys.values(), keys.keys(), **place)
    return figure


def draw_metric(axes, runs, name, controls=(), floor=None):
    """One metric over the generations of {label: rows}, on the band of the rows of `controls`, over
    what real images have (`floor`); a cross for a generation where it is not finite."""
    beside = style.finite([row.get(name, np.nan) for row in controls])
    style.band(axes, beside, f"{len(beside)} control models")
    if floor:
        style.level(axes, float(floor[name]), f"{floor['N']} real images (best possible)")
    shown = [beside]
    for i, (label, rows) in enumerate(runs.items()):
        generations = np.array([row["generation"] for row in rows])
        values = np.array([row.get(name, np.nan) for row in rows], dtype=float)
        there, step = np.isfinite(values), 1 if len(runs) == 1 else -(-len(rows) // 10)
        values[~there] = np.nan
        axes.plot(generations, values, label=label, markevery=(i % step, step), **style.style(i))
        if not there.all():
            below = {"transform": axes.get_xaxis_transform(), "color": "black", "clip_on": False}
            axes.plot(generations[~there], 0 * generations[~there], "x", label="no number", **below)
        shown.append(values)
    top = max(name in AT_MOST_1, float(floor[name]) if floor else 0)
    style.honest_axis(axes, np.concatenate(shown), NAMES[name], top, logarithmic=name == "fid")
    style.generation_axis(axes, [row["generation"] for rows in runs.values() for row in rows])


def losses(curves, title):
    """Training loss over the epochs, {generation: [loss of each epoch]}, one line each."""
    figure, (axes,) = style.panels(1, title, 2.2)
    shades = style.generation_colours(len(curves))
    for values, colour in zip(curves.values(), shades, strict=True):
        epochs = np.arange(1, len(values) + 1)
        axes.plot(epochs, values, color=colour, marker="." if len(values) < 30 else None)
    axes.set(xlabel="epoch", ylabel="training loss (log axis)", yscale="log", xlim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    style.generation_bar(figure, axes, list(curves))
    return figure
