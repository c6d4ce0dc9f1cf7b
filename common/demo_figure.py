"""The summary figure of jacobian/demo.py: strips, FID, PRDC and the spectrum on one page."""

import numpy as np
from matplotlib.figure import Figure

from common import anchors, plots, storage
from common.run import Run, load_images
from common.spectrum import STATISTICS

PRIMARY = "posterior_variance"


def save(folder, w=0):
    """Writes summary.png for a finished run with spectra; returns its path."""
    run = Run(folder, w)
    rows, arrays = run.metrics(), anchors.load(run.table("spectra", "npz"))
    strips = {row["generation"]: load_images(run.strip(row["generation"])).images for row in rows}
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    figure.suptitle("A fully synthetic loop: each generation trains on the previous one's samples")
    panels = figure.subplots(2, 3)
    plots.draw_strips(panels[0, 0], strips, "same class and noise")
    plots.draw_fid(panels[0, 1], rows, "distance from the real data")
    plots.draw_prdc(panels[0, 2], rows, "quality and diversity")
    _draw_singular_values(panels[1, 0], arrays)
    _draw_statistic(panels[1, 1], arrays, PRIMARY)
    _draw_statistic(panels[1, 2], arrays, "effective_rank")
    path = folder / "summary.png"
    storage.save_figure(figure, path)
    return path


def _draw_singular_values(axes, arrays):
    values = np.sqrt(arrays["eigenvalues"][:, 0]).mean(axis=1) * arrays["sigma"][0]  # (G, D)
    names = [plots.generation_name(g) for g in arrays["generations"]]
    for row, colour, name in zip(values, plots.generation_colours(len(values)), names, strict=True):
        axes.plot(np.arange(1, len(row) + 1), row, color=colour, label=name)
    title = f"spectrum at t = {arrays['t'][0]} of {arrays['n_T']}"
    axes.axhline(1, color="black", ls="--", lw=1)
    axes.set(title=title, xlabel="index", ylabel="singular value of $\\sigma J$")
    axes.legend(fontsize=7, title="generation", title_fontsize=7)
    axes.grid(alpha=0.3)


def _draw_statistic(axes, arrays, name):
    values = anchors.statistics(arrays)[name][:, 0]  # (G, A)
    generations = arrays["generations"]
    for anchor in values.T:
        axes.plot(generations, anchor, color="0.75", lw=0.8)
    axes.plot(generations, values.mean(axis=1), color=plots.ORANGE, marker="o", label="mean")
    axes.plot([], [], color="0.75", label="one anchor")
    axes.set(title=STATISTICS[name], ylabel=name.replace("_", " "))
    axes.legend(fontsize=8)
    plots.generation_axis(axes, [{"generation": int(g)} for g in generations])
