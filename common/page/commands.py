"""The commands that make what a page shows, with every constant spelt out."""

import json
import re

from common.machine import storage
from common.run import comparable, provenance
from common.run.folder import SPECTRA
from common.settings import number_text

JACOBIAN = "../../jacobian/"  # from a scenario's folder


def commands(of, record):
    """The lines that make a Run with this record, the control loops beside it, and the analyses
    that their folders hold."""
    constants = constants_of(record)
    home = of.folder.parent if constants.get("control", False) else of.folder
    lines = [f"cd {_word(record['folder'])}"]
    initial = home / "run_initial.json"
    if initial.exists():
        made = constants_of(storage.load_json(initial))
        lines.append(_command("initialmain.py", {**made, "Wall": [of.w], "save_dirs": [home]}))
    loops = [of, *comparable.controls_beside(of)[0]]
    for each in loops:
        made = {**constants_of(provenance.recorded(each)), "w": each.w, "save_dir": home}
        lines.append(_command("main.py", made))
    return [*lines, *_spectra(loops, constants["dataset"]), *_comparisons(of)]


def _spectra(loops, dataset):
    """The commands that measured the spectra of Runs, with what their files say of them."""
    for of in loops:
        for anchors_from, kind in SPECTRA.items():
            path = of.table(kind, "npz")
            if path.exists():
                found = storage.load_arrays(path, "jacobian/spectra.py")
                words = {"run_dir": of.folder, "w": of.w, "dataset": dataset}
                words["n_anchors"] = len(found["anchor_index"])
                if "timesteps" in found:
                    words |= {"timesteps": found["timesteps"].tolist(), "seed": int(found["seed"])}
                yield _command(f"{JACOBIAN}spectra.py", {**words, "anchors_from": anchors_from})


def _comparisons(of):
    """The commands that drew and judged the spectra of a Run."""
    onset = of.table("onset", "json")
    if of.figure("eigenvalues").exists():
        yield _command(f"{JACOBIAN}compare.py", {"runs": [of.folder], "w": of.w})
    if onset.exists():
        found = storage.load_json(onset, "jacobian/detect.py")
        words = {"runs": [judged["folder"] for judged in found["runs"]]}
        if found["calibrated"]:
            words["controls"] = found["controls"]
        yield _command(f"{JACOBIAN}detect.py", {**words, "w": of.w, **found.get("constants", {})})


def constants_of(record):
    """Every constant of a run's record, those that may change when it continues as they are now."""
    free = ("generation_number", "max_c", "save_every")
    return {**record["constants"], **{name: record[name] for name in free if name in record}}


def _command(script, constants):
    words = ["python", script]
    for name, value in constants.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *map(_word, values)] if values else []
    return " ".join(words)


def _word(value):
    """A word of a command line, in quotes where a shell needs them."""
    text = number_text(value) if isinstance(value, float) else str(value)
    return text if re.fullmatch(r"[\w.+/\\:-]+", text) else json.dumps(text, ensure_ascii=False)
