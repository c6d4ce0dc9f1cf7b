"""One page per run, to be opened with a double click: report.html, all pictures inside it.

A folder with loops of several guidance weights has report_w{w}.html for each, and index.html.
"""

import json
import re
import time
from pathlib import Path
from urllib.parse import quote

from common import recipes
from common.machine import storage
from common.page import elements
from common.run import provenance
from common.run.folder import Run, guidance_weights, load_images
from common.seeds import INITIAL
from common.settings import number_text

SPECTRUM_FIGURES = {
    "eigenvalues": "Eigenvalues of JᵀJ against their index, a colour per generation",
    "densities": "Densities of the log eigenvalues",
    "sigmaJ": "Singular values of σJ; the dashed line is 1",
    "vectors": "Directions in pixel space to which the noise estimate reacts most",
    "statistics": "Statistics of the spectrum over the generations, with their spread over anchors",
    "onset": "Every stream over the generations",
}


def write(folder, w):
    """Writes the page of the loop with guidance weight w from the files in its folder.

    Returns the page's path, or None, saying so, when it cannot be
    written: a page must never stop a run.
    """
    try:
        weights = guidance_weights(folder)
        if not set(weights) - {w}:
            path = folder / "report.html"
        else:
            path = _path(folder, w)
            storage.delete(folder / "report.html")  # that of the first weight, alone until now
            for other in weights:
                if other != w and not _path(folder, other).exists():
                    storage.save_text(_page(Run(folder, other)), _path(folder, other))
        storage.save_text(_page(Run(folder, w)), path)
        if path.name != "report.html":
            index(folder)
        return path
    except Exception as error:
        return _failed(folder, error)


def index(folder):
    """Writes index.html over the guidance weights in a folder; returns its path, or None."""
    try:
        path, loops = folder / "index.html", {}
        for w in guidance_weights(folder):
            loops[f"w = {number_text(w)}"] = Run(folder, w)
        links = {name: quote(_path(folder, of.w).name) for name, of in loops.items()}
        if len(loops) == 1:
            links = dict.fromkeys(loops, "report.html")
        parts = _overview({name: of.metrics() for name, of in loops.items()}, links)
        with storage.lock(folder / "index.lock", wait=True):  # other weights' loops too
            storage.save_text(elements.document(f"Guidance weights in {folder.name}", parts), path)
        return path
    except Exception as error:
        return _failed(folder, error)


def comparison(folders, w):
    """Writes comparison_w{w}.html over runs {name: folder} to the first run's folder; returns its
    path, or None."""
    home = next(iter(folders.values()))
    try:
        path = home / f"comparison_w{number_text(w)}.html"
        runs = {name: Run(folder, w) for name, folder in folders.items()}
        parts = _overview({name: of.metrics() for name, of in runs.items()}, {})
        overlay = Run(home, w).figure("overlay")
        parts.append("<h2>Jacobian spectra together</h2>")
        parts.append(elements.figure(overlay, "Statistics of all runs over the generations"))
        for name, of in runs.items():
            parts += [f"<h2>{elements.escaped(name)}</h2>", f"<p>{elements.escaped(of.folder)}</p>"]
            parts += [_metrics_table(of), *_spectra(of)]
        storage.save_text(elements.document("Runs compared", parts), path)
        return path
    except Exception as error:
        return _failed(home, error)


def announce(path):
    """Prints where a page is, if it could be written."""
    if path:
        print(f"open {storage.shown(path)}")


def _failed(folder, error):
    text = str(error) or type(error).__name__
    print(f"note: the page of {folder} could not be written, the run goes on: {text}")


def _path(folder, w):
    return folder / f"report_w{number_text(w)}.html"


def _page(of):
    """The page of one loop, from the files that are there."""
    path, rows = of.table("run", "json"), of.metrics()
    record = storage.load_json(path) if path.exists() else {}  # {}: made by other code
    name = record.get("scenario", of.folder.name)
    parts = [f"<p>{elements.escaped(of.folder)}</p>"]
    if record:
        parts += [_status(of, record, rows), *_what_was_run(name, record)]
        parts += _change_of_recipe(of, record)
    if rows:
        parts += ["<h2>Metrics</h2>", *elements.curves({"": rows}), _metrics_table(of)]
        parts += [
            "<h2>Generations</h2>",
            '<p class="browse"><label for="slider">Generation (the arrow keys work too)</label>'
            '<input type="range" id="slider" min="0" value="0" step="1"></p>',
            *(_browser(of, r) for r in rows if of.figure("tsne", r["generation"]).exists()),
        ]
    loss = of.figure("loss")
    if storage.verify(loss):
        parts += ["<h2>Training losses</h2>", elements.figure(loss, "Mean loss per epoch")]
    parts += _spectra(of)
    if record:
        parts += ["<h2>Commands that make this page</h2>", f"<pre>{_commands(of, record)}</pre>"]
    parts += ["<h2>Files</h2>", _files(of)]
    if rows:
        parts.append(f"<script>{elements.SCRIPT}</script>")
    return elements.document(f"{name}, w = {number_text(of.w)}", parts)


def _status(of, record, rows):
    """How far the run is, and how much time it took and needs."""
    done, total = sum(row["generation"] != INITIAL for row in rows), record["generation_number"]
    seconds = [
        (row["generation"], float(row["seconds"])) for row in storage.load_rows(of.table("timings"))
    ]
    spent = sum(value for _, value in seconds)
    stopped = record.get("stopped")
    of_generations = sum(value for generation, value in seconds if generation != "initial")
    if stopped:
        text = f"Stopped: {stopped}. "
    elif done >= total:
        text = "Complete. "
    else:
        text = "In progress, or ended since without a word. "
    text += f"{done} of {total} generations, {_duration(spent)} of work so far"
    if 0 < done < total:
        text += f", about {_duration(of_generations / done * (total - done))} to go"
    text += f" (written {time.strftime('%Y-%m-%d %H:%M')})."
    return f'<p class="status{" stopped" if stopped else ""}">{elements.escaped(text)}</p>'


def _what_was_run(scenario, record):
    shown = {**record["constants"], **record["versions"]}
    shown |= {key: record[key] for key in ("device", "threads", "commit")}
    shown |= {f"SHA-256 of {name}": value for name, value in record["inputs"].items()}
    table = elements.table(["what", "value"], shown.items(), "record")
    seed, device = record["constants"]["seed"], record["device"]
    return [
        "<h2>What was run</h2>",
        f"<p>{elements.escaped(_formula(scenario, record['constants']))}</p>",
        f"<p>{elements.escaped(_recipe(record))}</p>",
        f"<p>Seed {elements.escaped(seed)}, device {elements.escaped(device)}.</p>",
        f"<details><summary>Constants, versions, inputs</summary>{table}</details>",
    ]


def _change_of_recipe(of, record):
    """What changes between the initial model and the generations, if anything does."""
    initial = of.folder / "run_initial.json"
    if not initial.exists():
        return []
    made = storage.load_json(initial)["constants"]
    text = provenance.initial_differences(record["constants"], made)
    return [f'<p class="warning">{elements.escaped(text)}.</p>'] if text else []


def _recipe(record):
    """The recipe that was named and where the run differs from it."""
    name = record.get("recipe")
    if name is None:
        return "No recipe was named: each constant is in the list below."
    constants = _constants(record)
    script = Path(record["folder"]) / "main.py"
    meant = recipes.overrides(name, script, constants)
    others = [f"{key} = {constants[key]} (recipe: {value})" for key, value in meant.items()]
    others = [text for text, key in zip(others, meant, strict=True) if constants[key] != meant[key]]
    return f"Recipe {name}, " + (f"but {', '.join(others)}." if others else "without changes.")


def _formula(scenario, constants):
    """The training set of generation g, with S(g−1) the previous generation's samples."""
    get, before = constants.get, "S(g−1)"
    if scenario.endswith("control"):
        text = _control_formula(scenario, get)
    elif scenario.startswith("Fresh"):
        kind = "drawn anew" if get("resample_real") == "redraw" else "never used before"
        kind = kind if get("resample_real") else "always the same"
        text = f"{get('N_with_w'):,} of {before} ∪ {get('N_real'):,} real images, {kind}"
    elif scenario.startswith("Augmented"):
        before = "each of S(−1), …, S(g−1)" if get("accumulate") else before
        text = f"{get('N_real'):,} real images, always the same ∪ {get('N_with_w'):,} of {before}"
    else:
        text = f"{get('N_next'):,} of {before}"
    return (
        f"Generation g is trained on {text}; S(g) are samples of generation g's model, S(−1) those "
        "of the initial one, which was trained on real images only."
    )


def _control_formula(scenario, get):
    if scenario.startswith("Augmented"):
        return f"the same {get('N_real'):,} real images ∪ {get('N_with_w'):,} others, drawn anew"
    n = get("N_with_w") + get("N_real") if scenario.startswith("Fresh") else get("N_next")
    return f"{n:,} real images, drawn anew"


def _overview(metrics, links):
    """Curves of several loops {name: rows}, and a table of where each of them is."""
    table = []
    for name, rows in metrics.items():
        last, cell = rows[-1] if rows else {}, elements.escaped(name)
        cells = [elements.Html(f'<a href="{links[name]}">{cell}</a>') if name in links else name]
        cells.append(elements.generation_name(last["generation"]) if last else "–")
        table.append([*cells, *_numbers(last)])
    head = elements.table(["loop", "last generation", *elements.METRICS.values()], table)
    return [head, *elements.curves({name: rows for name, rows in metrics.items() if rows})]


def _numbers(row):
    return [elements.number(row.get(metric)) for metric in elements.METRICS]


def _metrics_table(of):
    """The metrics of the evaluation samples; then, for w > 0, of the guided samples that the next
    generation trains on; then of real images, the least that samples can reach."""
    head, body = ["generation", "images", *elements.METRICS.values(), "class accuracy"], []
    for kind in ("", "_guided"):
        for row in of.metrics():
            if f"fid{kind}" in row:
                name = elements.generation_name(row["generation"])
                n = row["N_guided"] if kind else row["N_eval"]
                found = {metric: row.get(f"{metric}{kind}") for metric in elements.METRICS}
                right = elements.number(row.get(f"accuracy{kind}"))
                name += f", guided, w = {number_text(of.w)}" if kind else ""
                body.append([name, int(n), *_numbers(found), right])
    for row in storage.load_rows(of.table("floor")):
        found = {metric: float(row[metric]) for metric in elements.METRICS}
        body.append([f"real: {row['real']}", row["N"], *_numbers(found), "–"])
    return elements.table(head, body)


def _browser(of, row):
    """One generation: its strip, its samples and its t-SNE."""
    g, made_by = row["generation"], "main.py"
    name = f"Generation {elements.generation_name(g)}: FID {row['fid']:.4g}"
    strip = load_images(of.strip(g), made_by).images
    samples = load_images(of.evaluation(g), made_by).images[:100]
    what = "images of each class, from the same noise in every generation"
    pair = elements.pixels(samples, f"{name}, samples") + "<figcaption>Samples, a column per class"
    tsne = elements.image(storage.load_bytes(of.figure("tsne", g), made_by), f"{name}, t-SNE")
    return (
        f'<section class="generation"><h3>{elements.escaped(name)}</h3>'
        f'<div class="strip">{elements.pixels(strip, f"{name}, {what}")}</div><div class="pair">'
        f"<figure>{pair}</figcaption></figure><figure>{tsne}<figcaption>t-SNE of the pixels of "
        "real and synthetic images</figcaption></figure></div></section>"
    )


def _spectra(of):
    """The figures of the Jacobian spectrum and the verdict on the onset, as far as they exist."""
    parts, onset = [], of.table("onset", "json")
    if storage.verify(onset):
        found = storage.load_json(onset, "jacobian/detect.py")
        kind = "status" if found["calibrated"] else "warning"
        verdict = elements.escaped(found["verdict"]).replace("\n", "<br>")
        parts.append(f'<p class="{kind}">{verdict}</p>')
    for kind, text in SPECTRUM_FIGURES.items():
        if storage.verify(of.figure(kind)):
            parts.append(elements.figure(of.figure(kind), text))
    return ["<h2>Jacobian spectrum</h2>", *parts] if parts else []


def _commands(of, record):
    """The commands that make what the page shows, with every constant spelt out."""
    constants = _constants(record)
    control = constants.get("control", False)
    home = of.folder.parent if control else of.folder
    lines = [f"cd {_word(record['folder'])}"]
    initial = home / "run_initial.json"
    if initial.exists():
        made = storage.load_json(initial)
        words = {**_constants(made), "Wall": [of.w], "save_dirs": [home]}
        lines.append(_command("initialmain.py", words))
    lines.append(_command("main.py", {**constants, "w": of.w, "save_dir": home}))
    spectra, where = of.table("spectra", "npz"), "../../jacobian/"
    if spectra.exists():
        found = storage.load_arrays(spectra, "jacobian/spectra.py")
        words = {"run_dir": of.folder, "w": of.w, "dataset": constants["dataset"]}
        words["n_anchors"] = len(found["anchor_index"])
        if "timesteps" in found:
            words |= {"timesteps": found["timesteps"].tolist(), "seed": int(found["seed"])}
        lines.append(_command(where + "spectra.py", words))
    if of.figure("eigenvalues").exists():
        lines.append(_command(where + "compare.py", {"runs": [of.folder], "w": of.w}))
    if of.table("onset", "json").exists():
        found = storage.load_json(of.table("onset", "json"), "jacobian/detect.py")
        words = {"runs": [judged["folder"] for judged in found["runs"]]}
        if found["calibrated"]:
            words["controls"] = found["controls"]
        words = {**words, "w": of.w, **found.get("constants", {})}
        lines.append(_command(where + "detect.py", words))
    return elements.escaped("\n".join(lines))


def _constants(record):
    """Every constant of a run's record, those that may change as they are now."""
    return {**record["constants"], **_free(record)}


def _free(record):
    """The constants that may change when a run continues, as they are now."""
    names = ("generation_number", "max_c", "save_every")
    return {name: record[name] for name in names if name in record}


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


def _files(of):
    """Links to the loop's files and to those that all loops in the folder share."""
    links = []
    for name in sorted(path.name for path in of.folder.iterdir() if path.is_file()):
        weight = re.search(r"_w(\d+(?:\.\d+)?)(?:\.[a-z]+\d*)*$", name)
        if (weight is None or float(weight[1]) == of.w) and not name.endswith((".lock", ".html")):
            links.append(f'<li><a href="{quote(name)}">{elements.escaped(name)}</a></li>')
    return f'<ul class="files">{"".join(links)}</ul>'


def _duration(seconds):
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
