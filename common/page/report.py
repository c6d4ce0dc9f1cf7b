"""One page per run, to be opened with a double click: report.html, all pictures inside it.

A folder with loops of several guidance weights has report_w{w}.html for each, and index.html.
"""

import time

from common.machine import storage
from common.page import loops, render
from common.page.commands import commands
from common.page.loops import Shown, path_of
from common.run import provenance
from common.run.folder import Run, guidance_weights
from common.settings import number_text

SPECTRUM_FIGURES = {
    "eigenvalues": "Eigenvalues of JᵀJ against their index, a colour per generation",
    "densities": "Densities of the log eigenvalues",
    "sigmaJ": "Singular values of σJ; the dashed line is 1",
    "statistics": "Statistics of the spectrum over the generations, as changes in per cent",
}


def write(folder, w):
    """Writes the page of the loop with guidance weight w from the files in its folder.

    Returns the page's path, or None, saying so, when it cannot be
    written: a page must never stop a run.
    """
    try:
        weights = {*guidance_weights(folder), w}
        if len(weights) > 1:
            storage.delete(folder / "report.html")  # that of the first weight, alone until now
        for other in sorted(weights):
            if other == w or not path_of(folder, other).exists():
                _write_page(Run(folder, other))
        if len(weights) > 1:
            index(folder)
        return path_of(folder, w)
    except Exception as error:
        return _failed(folder, error)


def index(folder):
    """Writes index.html over the loops in a folder, those of its guidance weights and its controls;
    returns its path, or None."""
    try:
        weights = [Run(folder, w) for w in guidance_weights(folder)]
        found = [Shown(of, f"{_kind(of)}, w = {number_text(of.w)}", folder) for of in weights]
        found += [of for run in weights[:1] for of in loops.controls(run)[0]]
        captions = {folder / "weights.png": "Metrics of all guidance weights"}
        with storage.lock(folder / "index.lock", wait=True):  # other weights' loops too
            return _write_overview(
                folder / "index.html",
                f"Loops in {folder.name}",
                found,
                captions,
            )
    except Exception as error:
        return _failed(folder, error)


def comparison(folders, w):
    """Writes comparison_w{w}.html over runs {name: folder} to the first run's folder; returns its
    path, or None."""
    home = next(iter(folders.values()))
    try:
        captions = {
            Run(home, w).figure("together"): "Metrics of all runs",
            Run(home, w).figure("overlay"): "Statistics of the spectra of all runs",
        }
        found = [Shown(Run(folder, w), name, home) for name, folder in folders.items()]
        tag, different = number_text(w), loops.differences(found)
        title = f"{len(found)} runs compared, w = {tag}"
        return _write_overview(home / f"comparison_w{tag}.html", title, found, captions, different)
    except Exception as error:
        return _failed(home, error)


def announce(path):
    """Prints where a page is, if it could be written."""
    if path:
        print(f"open {storage.shown(path)}")


def _failed(folder, error):
    text = str(error) or type(error).__name__
    print(f"note: the page of {folder} could not be written, the run goes on: {text}")


def _write_overview(path, title, found, captions, different=None):
    """A page over several Loops with the figures {path: caption} that are there."""
    text = render.text(
        "loops.html.j2",
        title=title,
        loops=found,
        common=loops.last_in_all(found),
        figures=[(render.picture(p), text) for p, text in captions.items() if storage.verify(p)],
        different=different,
    )
    storage.save_text(text, path)
    return path


def _write_page(of):
    """The page of one loop."""
    loop, onset = Shown(of, of.folder.name, of.folder), of.table("onset", "json")
    scenario = loop.record.get("scenario", of.folder.name)
    controls, left_out = loops.controls(of)
    text = render.text(
        "run.html.j2",
        title=f"{scenario}, w = {number_text(of.w)}",
        it=loop,
        above=list(_above(of)),
        of_formula=loop.of_formula(),
        controls=controls,
        left_out=left_out,
        spectra=[(loop.figure(kind), text) for kind, text in SPECTRUM_FIGURES.items()],
        onset=storage.load_json(onset, "jacobian/detect.py") if storage.verify(onset) else None,
        commands=commands(of, loop.record) if loop.record else [],
        written=time.strftime("%Y-%m-%d %H:%M"),
    )
    storage.save_text(text, path_of(of.folder, of.w))


def _kind(of):
    control = (provenance.recorded(of) or {}).get("constants", {}).get("control", False)
    return "control loop" if control else "self-consuming loop"


def _above(of):
    """Links from a loop's page to those above it."""
    if len(guidance_weights(of.folder)) > 1:
        yield render.Link("all loops of this folder", "index.html")  # which is written next
    if of.folder.name.startswith("control_seed"):
        for name in ("index.html", "report.html"):
            if (of.folder.parent / name).exists():
                yield render.Link("the loop of this control", f"../{name}")
