"""The summary figure of jacobian/demo.py, and what happened in the demo, in words."""

import numpy as np
from matplotlib.figure import Figure

from common.machine import storage
from common.metrics import NAMES
from common.run import plots, style
from common.run.folder import Run, load_images
from common.seeds import INITIAL
from common.spectrum import measure

FREE_END = 50  # the smallest singular values, of directions in which the model is uncertain


def save(folder, controls, w=0):
    """Writes summary.png for a finished loop and its control loops (folders), all with spectra;
    returns its path and two or three sentences of computed numbers."""
    run, beside = Run(folder, w), [Run(control, 0) for control in controls]
    rows, (floor,) = run.metrics(), storage.load_rows(run.table("floor"))
    real = [row for of in beside for row in of.metrics() if row["generation"] != INITIAL]
    strips = {row["generation"]: load_images(run.strip(row["generation"])) for row in rows}
    figure = Figure(figsize=(style.TWO, 5), layout="constrained")
    figure.suptitle("A fully synthetic loop: each generation trains on the previous one's samples")
    panels = figure.subplot_mosaic("SSS;FRJ", height_ratios=(1, 1))
    title = "samples from the same noise in every row, half of the classes"
    plots.draw_strips(panels["S"], strips, title, range(5))
    for name, key, better in (("F", "fid", "lower"), ("R", "recall", "higher")):
        plots.draw_metric(panels[name], {"self-consuming loop": rows}, key, real, floor)
        title = f"{NAMES[key]} ({better} is better)"
        panels[name].set(title=title, xlabel="generation", ylabel="")
        panels[name].grid()
    _draw_free_end(panels["J"], run, beside)
    keys = panels["F"].get_legend_handles_labels()
    figure.legend(*keys, loc="outside lower left", ncols=3)
    style.generation_bar(figure, panels["J"], [row["generation"] for row in rows])
    path = folder / "summary.png"
    storage.save_figure(figure, path)
    return path, _sentences(rows, real, floor)


def _draw_free_end(axes, run, controls):
    """The smallest singular values of sigma J, mean over the anchors, relative to what the
    controls' generations have (geometric mean)."""

    def curves(of):
        arrays = measure.load(of.table("spectra", "npz"))
        values = np.sqrt(arrays["eigenvalues"][:, 0]).mean(axis=1) * arrays["sigma"][0]
        rows = values[:, ::-1][:, :FREE_END]
        return arrays, dict(zip(arrays["generations"].tolist(), rows, strict=True))

    arrays, ours = curves(run)
    real = np.stack([row for of in controls for g, row in curves(of)[1].items() if g >= 0])
    usual = np.exp(np.log(real).mean(axis=0))
    rank = np.arange(1, FREE_END + 1)
    low, high = real.min(axis=0) / usual, real.max(axis=0) / usual
    axes.fill_between(rank, low, high, color=style.BAND, lw=0)
    for row, colour in zip(ours.values(), style.generation_colours(len(ours)), strict=True):
        axes.plot(rank, row / usual, color=colour)
    axes.set(
        title=f"singular values of $\\sigma_t\\,J$ at t = {arrays['t'][0]}\n(higher: less doubt)",
        xlabel="rank from the smallest (log axis)",
        xscale="log",
        ylabel="ratio to control models",
    )
    axes.set_xticks((1, 2, 5, 10, 20, FREE_END), map(str, (1, 2, 5, 10, 20, FREE_END)))
    axes.xaxis.minorticks_off()
    axes.grid()


def _sentences(rows, real, floor):
    first, last = rows[0], rows[-1]

    def span(key, digits):
        values = [row[key] for row in real]
        return f"{min(values):.{digits}f} to {max(values):.{digits}f}"

    rose = "rose" if last["fid"] > first["fid"] else "fell"
    fell = "fell" if last["recall"] < first["recall"] else "rose"
    return (
        f"In {last['generation'] + 1} generations without real images FID {rose} from "
        f"{first['fid']:.0f} to {last['fid']:.0f} and recall {fell} from {first['recall']:.2f} to "
        f"{last['recall']:.2f}; {len(real)} models that were trained on real images instead have "
        f"FID {span('fid', 0)} and recall {span('recall', 2)}, and {floor['N']} real images have "
        f"FID {float(floor['fid']):.1f}.\n"
        f"The initial model puts {100 * first['accuracy']:.0f} % of its samples into the class "
        f"that was asked for, the last one {100 * last['accuracy']:.0f} %.\n"
        "The sampler's 25 steps lose variance by themselves, which a loop compounds and controls "
        "do not; recall falls as much with 500 steps (jacobian/README.md).\n"
        "One loop is one observation: it does not show whether the spectrum is earlier than FID. "
        "For that many loops are needed: see jacobian/study/README.md."
    )
