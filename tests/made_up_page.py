"""Folders of runs in every state that a page can meet, with pictures, made without training."""

import torch
from made_up import a_loop, a_record
from matplotlib.figure import Figure

from common.data import LabelledImages, load_real
from common.machine import storage
from common.page.report import SPECTRUM_FIGURES
from common.run.folder import Run, save_images
from common.seeds import INITIAL

FIGURES = {"strip": (9, 3), "fid": (5, 4), "prdc": (5, 4), "loss": (5, 4)}
ONSET = "log posterior variance t=40"


def a_run(folder, n=3, w=0, record=True, stopped=None, total=None, control=False, values=None):
    """A loop with n generations beside the initial model, none where n is None. total:
    generation_number; values: {metric: [value of each generation]} in place of noise."""
    run = Run(folder, w)
    if not (folder / "metrics_w0.csv").exists():
        a_loop(folder, 1, n=n or 0, control=control)
        (folder / "spectra_w0.npz").unlink()  # the commands would need a run of the scripts
    rows = [] if n is None else Run(folder, 0).metrics()[: n + 1]
    for i, row in enumerate(rows):
        row |= {name: each[i] for name, each in (values or {}).items()}
        _pictures(run, row["generation"])
    run.save_metrics(rows)
    for kind, size in FIGURES.items() if rows else ():
        storage.save_figure(a_figure(kind, size), run.figure(kind))
    if record:
        a_record(folder, 1, w=w, control=control)
        made = storage.load_json(run.table("run", "json"))
        storage.save_json(
            {**made, "generation_number": total or n, "stopped": stopped}, run.table("run", "json")
        )
    elif run.table("run", "json").exists():
        run.table("run", "json").unlink()
    return folder


def a_figure(text, size):
    """A picture that stands for a figure of a run."""
    figure = Figure(figsize=size)
    figure.subplots().set_title(text)
    return figure


def _pictures(run, generation):
    images = load_real("digits").subset(slice(100)).images
    data = LabelledImages(images, torch.arange(100) % 10)
    save_images(data, run.evaluation(generation))
    tag = "initial" if generation == INITIAL else generation
    storage.save_figure(a_figure(f"t-SNE, {tag}", (5, 5)), run.figure("tsne", generation))


def analysed(folder):
    """Adds figures of the spectrum and a calibrated verdict to a run's folder."""
    run = Run(folder, 0)
    for kind in (*SPECTRUM_FIGURES, "onset"):
        storage.save_figure(a_figure(kind, (12, 4)), run.figure(kind))
    names = [
        ONSET,
        "log FID",
        *(f"stable rank of a stream with a long name t={t}" for t in range(9)),
    ]
    stream = {"monitored": True, "direction": "down", "threshold": 2.86, "method": "Gaussian"}
    stream |= {"control_alarms": 1, "certified_rate": 0.78}
    at = {"generation": 1, "direction": "down"}
    verdict = f"Judged are the first 3 generations.\n{folder}: {ONSET} (primary) first."
    found = {
        "calibrated": True,
        "horizon": 3,
        "primary": ONSET,
        "reference": "log FID",
        "streams": dict.fromkeys(names, stream),
        "controls": [str(folder / "control_seed7"), str(folder / "control_seed8")],
        "n_control_generations": 6,
        "runs": [{"folder": str(folder), "onsets": {**dict.fromkeys(names), ONSET: at}}],
        "verdict": verdict,
    }
    storage.save_json(found, run.table("onset", "json"))
    return folder
