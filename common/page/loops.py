"""What a page shows of one loop, from the files that are there."""

import re

from common.machine import storage
from common.page import render, words
from common.run import comparable, provenance
from common.run.folder import guidance_weights, load_images
from common.settings import number_text

N_SHOWN = 100  # samples of a generation


def path_of(folder, w):
    """Where the page of one loop is: report.html where it is alone in its folder."""
    alone = not set(guidance_weights(folder)) - {w}
    return folder / ("report.html" if alone else f"report_w{number_text(w)}.html")


class Shown:
    """A Run for a page in the folder `home`: its name, with a link to its own page, the rows of its
    metrics and of what real images score, its record and that of its initial model ({} where other
    code made them), and how far it is (None there)."""

    def __init__(self, run, name, home):
        self.run, self.home, self.rows = run, home, run.metrics()
        self.name = render.Link(name, render.address(path_of(run.folder, run.w), home))
        self.floor = [
            {key: value if key in ("real", "N") else float(value) for key, value in row.items()}
            for row in storage.load_rows(run.table("floor"))
        ]
        initial, timings = run.folder / "run_initial.json", run.table("timings")
        self.record = provenance.recorded(run) or {}
        self.initial = storage.load_json(initial) if initial.exists() else {}
        self.status = None
        if self.record:
            ended = timings.stat().st_mtime if timings.exists() else None
            self.status = words.status(self.record, self.rows, storage.load_rows(timings), ended)

    def at(self, generation):
        """The row of a generation, {} where there is none."""
        return next((row for row in self.rows if row["generation"] == generation), {})

    def figure(self, kind, generation=None):
        """The Picture of a figure, or None where it was not drawn."""
        path = self.run.figure(kind, generation)
        return render.picture(path, self.home) if storage.verify(path) else None

    def samples(self, generation):
        """A Picture of the first samples of a generation, or None."""
        paths = self.run.evaluation(generation)
        if not all(path.exists() for path in paths):
            return None
        return render.pixels(load_images(paths, "main.py").images[:N_SHOWN])

    def change(self):
        """What changes from the initial model to the generations, or None."""
        if self.record and self.initial:
            made = self.record["constants"], self.initial["constants"]
            return provenance.initial_differences(*made)

    def of_formula(self):
        """The constants that say what a generation is trained on: no more real images than there
        are."""
        constants = self.record.get("constants", {})
        if "N_real" not in constants:
            return constants
        return {**constants, "N_real": provenance.at_most_all(constants["N_real"], constants)}

    def files(self):
        """Links to the loop's files and to those that all loops in the folder share."""
        for path in sorted(self.run.folder.iterdir()):
            weight = re.search(r"_w(\d+(?:\.\d+)?)(?:\.[a-z]+\d*)*$", path.name)
            ours = weight is None or float(weight[1]) == self.run.w
            if ours and path.is_file() and path.suffix not in (".lock", ".html"):
                yield render.Link(path.name, render.address(path, self.home))


def controls(run):
    """The control loops beside a Run, and sentences on those that are none of this loop."""
    runs, left_out = comparable.controls_beside(run)
    shown = [of for of in runs if provenance.recorded(of)]  # not those of other code
    return [Shown(of, of.folder.name, run.folder) for of in shown], left_out


def last_in_all(loops):
    """The last generation that all of these Loops have that have any, or None."""
    found = [{row["generation"] for row in loop.rows} for loop in loops if loop.rows]
    return max(set.intersection(*found), default=None) if found else None


def differences(loops):
    """The constants in which Loops differ: rows of a name and its value in each."""
    made = [
        {"scenario": of.record.get("scenario"), **of.record.get("constants", {})} for of in loops
    ]
    for of, constants in zip(loops, made, strict=True):
        initial = of.initial.get("constants", {})
        constants |= {f"{name} of the initial model": value for name, value in initial.items()}
    names = dict.fromkeys(name for found in made for name in found)
    rows = [[name, *(str(found.get(name, "–")) for found in made)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]
