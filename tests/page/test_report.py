"""A run's page: what is on it, and that it can never stop a run."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from made_up import a_loop
from tiny import FULL, ROOT, TINY_MAIN, constants_of, copied, initialmain, main, spectra

from common import recipes
from common.detect import verdict
from common.loop import loop, stages
from common.machine import storage
from common.machine.errors import UserError
from common.page import render, report, words
from common.page.commands import commands
from common.run import provenance
from common.run.folder import Run
from common.seeds import INITIAL
from common.spectrum import compare

JACOBIAN = ROOT / "jacobian"


@pytest.fixture(scope="module")
def judged(finished, tmp_path_factory):
    """A folder with two generations, their spectra, and an uncalibrated verdict."""
    folder = copied(finished, tmp_path_factory.mktemp("run") / "judged")
    spectra(folder)
    compare.main(constants_of(JACOBIAN / "compare.py", runs=[folder]))
    verdict.main(constants_of(JACOBIAN / "detect.py", runs=[folder], primary_t=400))
    return folder


class Page(HTMLParser):
    """What a page holds: its text, headings, pictures, links, and external addresses."""

    def __init__(self, path):
        super().__init__()
        self.headings, self.pictures, self.links, self.loaded, self.text = [], [], [], [], ""
        self.scripts, self.inside = 0, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.pictures.append(attributes)
        if tag == "a":
            self.links.append(attributes["href"])
        self.scripts += tag == "script"
        self.loaded += [attributes[name] for name in ("src",) if name in attributes]
        self.loaded += [attributes["href"]] if tag == "link" else []
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.inside):
            self.text += data


def test_everything_that_was_made_is_on_the_page(judged):
    page = Page(judged / "report.html")
    for row in Run(judged, 0).metrics():
        assert f"{row['fid']:.4g}" in page.text and f"{row['coverage']:.4g}" in page.text
    assert "FullSynthetic, w = 0" in page.text and "Finished: 2 of 2 generations" in page.text
    assert "70 of S(g−1)" in page.text and "Over two generations FID" in page.text
    assert "uncalibrated: without control loops" in page.text
    record, initial = (storage.load_json(judged / f"run_{n}.json") for n in ("w0", "initial"))
    made = (record["versions"]["torch"], record["device"], *record["inputs"].values())
    for value in (*made, *initial["constants"], *record["constants"]):
        assert str(value) in page.text
    figures = [*report.SPECTRUM_FIGURES, "onset", "strip", "fid", "prdc", "loss"]
    assert all((judged / f"{kind}_w0.png").exists() for kind in figures)
    assert len(page.pictures) == 3 * 2 + len(figures)
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:], strict=False))
    assert all(picture["alt"] for picture in page.pictures)


def test_it_needs_nothing_beside_it_and_links_to_what_is_there(judged):
    path = judged / "report.html"
    page, source = Page(path), path.read_text(encoding="utf-8")
    assert page.loaded and all(address.startswith("data:") for address in page.loaded)
    assert not re.search(r"url\(|@import", source[: source.index("</style>")])
    links = [link for link in page.links if not link.startswith("#")]
    assert {"metrics_w0.csv", "model_1_w0.pth", "prmodel.pth", "fid_w0.png"} <= set(links)
    assert all((judged / link).is_file() for link in links)
    parts = {link[1:] for link in page.links if link.startswith("#")}
    assert len(parts) == 8 and all(f'id="{part}"' in source for part in parts)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids these characters")
def test_names_of_folders_are_shown_as_text(judged, tmp_path):
    name = "a \"b\" 'c' & <script>document.title = 1<img src=x> {{ 7 * 7 }} é 世界 #1 100%"
    folder = copied(judged, tmp_path / name)
    record = storage.load_json(folder / "run_w0.json")
    storage.save_json({**record, "scenario": name}, folder / "run_w0.json")
    for path in (
        report.write(folder, 0),
        report.index(folder),
        report.comparison({name: folder}, 0),
    ):
        page = Page(path)
        assert str(folder) in page.text and page.scripts <= 1
        assert all(address.startswith("data:") for address in page.loaded)
        here = [link for link in page.links if not link.startswith("#")]
        assert all((folder / unquote(link)).is_file() for link in here)


@pytest.mark.slow
def test_its_commands_make_the_same_run(judged, tmp_path):
    """Given again they find every stage done: the constants are those of the run."""
    judged = copied(judged, tmp_path / "run")
    main(judged, generation_number=1, control=True, seed=5)
    spectra(judged / "control_seed5")
    verdict.main(constants_of(JACOBIAN / "detect.py", runs=[judged], primary_t=400))
    before = (judged / "onset_w0.json").read_bytes()
    text = Page(judged / "report.html").text
    text = text[text.index("\ncd ") :] if "\ncd " in text else text[text.index("cd FullSynth") :]
    lines = [line for line in text.splitlines() if line.startswith(("cd ", "python "))]
    assert [shlex.split(line)[1] for line in lines] == [
        "FullSynthetic/DDPM-MNIST",
        "initialmain.py",
        "main.py",
        "main.py",
        *(f"../../jacobian/{name}.py" for name in ("spectra", "spectra", "compare", "detect")),
    ]
    said = ""
    for line in lines[1:]:
        _, *words = shlex.split(line)
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT / lines[0][3:], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout
    assert "model_initial.pth is there" in said and "nothing to do" in said
    assert "all 3 checkpoints were measured before" in said
    assert (judged / "onset_w0.json").read_bytes() == before
    assert said.count(f"open {judged / 'report.html'}") == 4
    assert "all 2 checkpoints were measured before" in said


def test_its_commands_are_those_of_samples_too(tmp_path):
    folder = a_loop(tmp_path / "run", 0, n=2)
    shutil.copy(folder / "spectra_w0.npz", folder / "spectra_of_samples_w0.npz")
    lines = commands(Run(folder, 0), provenance.recorded(Run(folder, 0)))
    kinds = [line.rpartition(" ")[2] for line in lines if "spectra.py" in line]
    assert kinds == ["test", "samples"]


@pytest.mark.parametrize(
    ("scenario", "constants", "formula"),
    [
        ("FullSynthetic", {"N_next": 60000}, "60,000 of S(g−1);"),
        ("FullSynthetic control", {"N_next": 70}, "70 real images, drawn anew"),
        (
            "Fresh",
            {"N_with_w": 5000, "N_real": 1000, "resample_real": True},
            "5,000 of S(g−1) ∪ 1,000 real images, never used before",
        ),
        (
            "Fresh",
            {"N_with_w": 5000, "N_real": 1000, "resample_real": False},
            "5,000 of S(g−1) ∪ 1,000 real images, always the same",
        ),
        (
            "Fresh",
            {"N_with_w": 900, "N_real": 100, "resample_real": "redraw"},
            "900 of S(g−1) ∪ 100 real images, drawn anew",
        ),
        ("Fresh control", {"N_with_w": 900, "N_real": 100}, "1,000 real images, drawn anew"),
        ("My control", {"N_with_w": 900, "N_real": 100}, "what its scenario.py says"),
        (
            "AugmentedSynthetic control",
            {"N_with_w": 500, "N_real": 400},
            "the same 400 real images ∪ 500 others, drawn anew",
        ),
        (
            "AugmentedSynthetic",
            {"N_with_w": 60000, "N_real": 60000, "accumulate": True},
            "60,000 real images, always the same ∪ 60,000 of each of S(−1), …, S(g−1);",
        ),
    ],
)
def test_the_training_set_is_stated_as_a_formula(scenario, constants, formula):
    module = render.TEMPLATES.get_template("formula.html.j2").module
    assert f"Generation g is trained on {formula}" in module.formula(scenario, constants)


def test_a_t_sne_is_said_to_be_of_what_it_is_of(judged, tmp_path, monkeypatch):
    folder = copied(judged, tmp_path / "run", leave_out=["tsne_1_w0.png"])
    whole, drawn = loop.plots.tsne, []
    monkeypatch.setattr(loop.plots, "tsne", lambda *given: drawn.append(given) or whole(*given))
    main(folder)
    ((real, fake, *_),) = drawn
    samples = storage.load(Run(folder, 0).evaluation(1)[0])
    assert real.shape == fake.images.shape == (45, 1, 28, 28)
    assert torch.equal(fake.images, samples)
    text = Page(folder / "report.html").text
    assert re.findall("t-SNE of the (.*?) of real and synthetic", text) == ["pixels"] * 3


def test_the_recipe_is_named_with_what_differs_from_it():
    script = FULL / "main.py"
    constants = vars(constants_of(script))
    meant = recipes.overrides("laptop", script, constants)
    kept = {k: v for k, v in {**constants, **meant}.items() if k != "save_every"}
    record = {"folder": "FullSynthetic/DDPM-MNIST", "constants": kept, "save_every": 0}
    assert words.recipe(record).startswith("No recipe was named")
    assert words.recipe({**record, "recipe": "laptop"}) == "Recipe laptop, without changes."
    changed = {**record, "recipe": "laptop", "constants": {**kept, "n_feat": 32}}
    assert words.recipe(changed) == "Recipe laptop, but n_feat = 32 (recipe: 16)."


def test_a_change_of_recipe_at_generation_0_is_on_the_page(judged):
    text = Page(judged / "report.html").text
    assert "generation 0 contains a change of recipe: training-set size (initial 320" in text


def test_the_table_has_guided_samples_and_the_floor(judged, tmp_path):
    page = Page(judged / "report.html")
    (floor,) = storage.load_rows(judged / "floor_w0.csv")
    assert "real: test images" in page.text and f"{float(floor['fid']):.4g}" in page.text
    assert "guided" not in page.text
    folder = copied(judged, tmp_path / "run")
    rows = Run(folder, 0).metrics()
    guided = [{**row, "N_guided": 45, "fid_guided": 12.5, "accuracy_guided": 0.5} for row in rows]
    Run(folder, 0).save_metrics(guided)
    report.write(folder, 0)
    assert "initial, guided, w = 0" in Page(folder / "report.html").text


# The sentence that says what happened


def row(generation, fid, recall):
    return {"generation": generation, "fid": fid, "recall": recall}


LOOP = [row(INITIAL, 18.22, 0.889), row(0, 37.8, 0.728), row(1, 86.88, 0.218)]


@pytest.mark.parametrize(
    ("rows", "controls", "sentence"),
    [
        ([], [], "No generation has been measured yet."),
        (LOOP[:1], [], "So far the initial model alone: FID 18, recall 0.89."),
        (
            LOOP,
            [],
            "Over two generations FID rose from 18 to 87 and recall fell from 0.89 to 0.22.",
        ),
        (
            LOOP,
            [[row(INITIAL, 500, 0), row(0, 8.35, 0.9)], [row(0, 21, 0.804)], [row(INITIAL, 1, 1)]],
            "Over two generations FID rose from 18 to 87 and recall fell from 0.89 to 0.22; two "
            "control loops, on real images only, are at FID 8.3 to 21 and recall 0.80 to 0.90.",
        ),
        (
            [row(INITIAL, 18.4, 0.5), row(0, 18.3, 0.504)],
            [[row(0, float("nan"), 0.3)]],
            "Over one generation FID stayed at 18 and recall stayed at 0.50.",
        ),
        (
            [row(INITIAL, 20, 0.71), row(0, 21.9, 0.63)],
            [],
            "Over one generation FID went from 20 to 22 and recall fell from 0.71 to 0.63.",
        ),
        (
            [row(2, 3e9, 0.5), row(3, float("nan"), 0)],
            [],
            "From generation 2 to 3 FID went from 3e+09 to not a number and recall fell from 0.50 "
            "to 0.00. Not a finite number: FID or recall of generation 3.",
        ),
        (
            [row(INITIAL, 1234.5, 0), row(0, float("inf"), float("nan")), row(1, 99, 0.1)],
            [],
            "Over two generations FID fell from 1,234 to 99 and recall rose from 0.00 to 0.10. Not "
            "a finite number: FID or recall of generation 0.",
        ),
    ],
)
def test_the_first_sentence_says_what_happened(rows, controls, sentence):
    assert words.happened(rows, controls) == sentence


def test_the_alarms_are_said_with_what_they_rest_on():
    at = {"generation": 2, "direction": "up"}
    rates = {"x t=50": 0.632, "log FID": 0.527, "log denoising loss t=50": 0.527}
    found = {
        "primary": "x t=50",
        "reference": "log FID",
        "horizon": 4,
        "controls": ["a", "b", "c"],
        "streams": {name: {"certified_rate": rate} for name, rate in rates.items()},
        "runs": [{"onsets": {"x t=50": at, "log FID": None, "log denoising loss t=50": at}}],
    }
    assert words.alarms(found) == (
        "First alarm in generations 0 to 3: the spectrum (x t=50) at generation 2, log FID never, "
        "log denoising loss at generation 2; three control loops certify no rate of false alarms "
        "below 63% for each."
    )


# Runs that are not complete


def test_a_run_in_progress_says_how_far_it_is(judged, tmp_path):
    folder = copied(judged, tmp_path / "run", leave_out=["*.html"])
    storage.save_json(
        {**storage.load_json(folder / "run_w0.json"), "generation_number": 6},
        folder / "run_w0.json",
    )
    timings = [
        {"generation": g, "stage": "training", "seconds": s}
        for g, s in (("initial", 300), (0, 600), (1, 1800))
    ]
    storage.save_rows(timings, folder / "timings_w0.csv")
    text = Page(report.write(folder, 0)).text
    text = " ".join(text.split())
    assert re.search(r"In progress, as of 20\d\d-\d\d-\d\d \d\d:\d\d: 2 of 6 generations", text)
    assert "45 min of work so far, about 1 h 20 min to go" in text  # (600 + 1800) / 2 each


def test_a_loop_that_was_longer_is_finished(judged, tmp_path):
    folder = copied(judged, tmp_path / "run", leave_out=["*.html"])
    main(folder, generation_number=1)
    assert "Finished: 2 of 2 generations" in Page(folder / "report.html").text


def test_why_a_loop_stopped_is_told_when_another_weights_page_is_written_too(
    judged, tmp_path, monkeypatch
):
    folder = copied(judged, tmp_path / "run")
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(loop.stages, "train", raising)
        main(folder, generation_number=3)
    text = Page(folder / "report.html").text
    assert "Stopped after generation 1: the power went." in text
    assert "The same command continues it." in " ".join(text.split())
    initialmain(folder, Wall=[0, 1])
    main(folder, w=1, generation_number=1)
    assert "the power went." in Page(folder / "report_w0.html").text
    main(folder, generation_number=2)
    assert "Finished" in Page(folder / "report_w0.html").text


def raising(*arguments, **keywords):
    raise UserError("the power went")


def test_a_generation_that_is_not_drawn_yet_has_its_samples_there(judged, tmp_path):
    folder = copied(judged, tmp_path / "run", leave_out=["tsne_1_w0.png"])
    page = Page(report.write(folder, 0))
    assert f"{Run(folder, 0).metrics()[-1]['fid']:.4g}" in page.text
    assert len(page.pictures) == 3 * 2 - 1 + len(report.SPECTRUM_FIGURES) + 5


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            UserError("the loss is nan in epoch 3, step 2"),
            "Stopped after generation 1: the loss is nan in epoch 3",
        ),
        (KeyboardInterrupt(), "Stopped after generation 1: KeyboardInterrupt."),
        (RuntimeError("CUDA out of <memory>"), "Stopped after generation 1: CUDA out of <memory>."),
    ],
)
def test_a_run_that_failed_says_why(judged, tmp_path, monkeypatch, capsys, error, words):
    folder = copied(judged, tmp_path / "run")

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(stages, "train", fails)
    with pytest.raises((SystemExit, RuntimeError)):
        main(folder, generation_number=3)
    text = Page(folder / "report.html").text
    assert words in text and "2 of 3 generations" in text
    assert f"open {folder / 'report.html'}" in capsys.readouterr().out


def test_a_page_that_cannot_be_written_never_stops_a_run(judged, tmp_path, monkeypatch, capsys):
    folder = copied(judged, tmp_path / "run", leave_out=["*_1_w0*", "*w1_w0", "metrics*", "*.html"])

    def fails(template, **values):
        raise ValueError("no page today")

    monkeypatch.setattr(render, "text", fails)
    main(folder)
    said = capsys.readouterr().out
    assert (
        f"note: the page of {folder} could not be written, the run goes on: no page today" in said
    )
    assert (folder / "model_1_w0.pth").exists() and not (folder / "report.html").exists()
    assert "open " not in said


def test_models_of_other_code_get_a_page_of_their_spectra(judged, tmp_path):
    folder = tmp_path / "public"
    folder.mkdir()
    for name in ("model_0_w0.pth", "model_1_w0.pth"):
        shutil.copy(judged / name, folder)
    spectra(folder)
    compare.main(constants_of(JACOBIAN / "compare.py", runs=[folder]))
    page = Page(folder / "report.html")
    assert "public, w = 0" in page.text and len(page.pictures) == 4
    assert "model_1_w0.pth" in page.links


# Several loops


def test_weights_in_one_folder_have_a_page_each_and_an_index(judged, tmp_path):
    folder = copied(judged, tmp_path / "run")
    initialmain(folder, Wall=[0.5, 1])
    constants = {**TINY_MAIN, "generation_number": 1, "save_dir": folder, "Wall": [0.5, 1]}
    loop.mainall(constants_of(FULL / "mainall.py", **constants))
    assert not (folder / "report.html").exists()
    index = Page(folder / "index.html")
    pages = [f"report_w{w}.html" for w in (0, 0.5, 1)]
    assert list(dict.fromkeys(index.links[:3])) == pages and "weights.png" in index.links
    assert len(index.pictures) == 1 + 3 and index.text.count("Finished") == 3
    assert "At generation 0, FID is lowest in self-consuming loop, w = " in index.text
    for w in (0, 0.5, 1):
        rows = Run(folder, w).metrics()
        page = Page(folder / f"report_w{w}.html")
        assert f"w = {w}" in page.text and f"{rows[-1]['fid']:.4g}" in page.text
        assert f"{rows[-1]['fid']:.4g}" in index.text and "index.html" in page.links
        others = {"0", "0.5", "1"} - {str(w)}
        assert f"fid_w{w}.png" in page.links and "prmodel.pth" in page.links
        assert not {f"fid_w{other}.png" for other in others} & set(page.links)


def test_an_index_compares_loops_at_a_generation_that_all_have(tmp_path):
    folder = a_loop(tmp_path / "run", 1, n=3, fid_at=2)
    a_loop(folder / "control_seed7", 7, n=2, control=True)
    text = Page(report.index(folder)).text
    loop_, control = (Run(path, 0).metrics() for path in (folder, folder / "control_seed7"))
    cells = re.search(r"w = 0running(.*)control_seed7running(.*)", text.replace("\n", ""))
    assert cells[1].startswith(
        f"{loop_[2]['fid']:.4g}{loop_[2]['recall']:.4g}2{loop_[3]['fid']:.4g}"
    )
    assert cells[2].startswith(f"{control[2]['fid']:.4g}{control[2]['recall']:.4g}1")
    report.write(folder, 0)
    page = Page(report.write(folder / "control_seed7", 0))
    assert "../report.html" in page.links and "../index.html" in page.links
    assert "control_seed7/report.html" in Page(folder / "report.html").links
    assert "one control loop, on real images only" in Page(folder / "report.html").text


def test_a_folder_without_a_loop_has_an_index_that_says_what_to_do(tmp_path):
    assert "run initialmain.py, then main.py" in Page(report.index(tmp_path)).text


def test_several_runs_have_one_page_that_compares_them(tmp_path):
    changes = {1: {"lrate": 1e-3}, 2: {"lrate": 0.0625}}
    folders = [
        a_loop(tmp_path / f"run{seed}", seed, n=3, shift_at=1, **changes[seed]) for seed in (1, 2)
    ]
    images = torch.randint(0, 256, (100, 1, 28, 28), dtype=torch.uint8)
    for paths in (Run(folder, 0).evaluation(2) for folder in folders):
        storage.save(images, paths[0])
        storage.save(torch.arange(100) % 10, paths[1])
    compare.main(constants_of(JACOBIAN / "compare.py", runs=folders))
    page = Page(folders[0] / "comparison_w0.html")
    for folder in folders:
        assert folder.name in page.text
        assert f"{Run(folder, 0).metrics()[-1]['fid']:.4g}" in page.text
    assert {"report.html", "../run2/report.html", "overlay_w0.png"} <= set(page.links)
    assert len(page.pictures) == 2 + 2  # two figures, and samples side by side
    text = page.text.replace("\n", "")
    assert "lrate0.0010.0625" in text and "seed12" in text and "batch_size" not in text
    assert page.loaded and all(address.startswith("data:") for address in page.loaded)


def test_twenty_generations_of_ten_thousand_samples_are_small_and_quick(judged, tmp_path):
    """With pictures of the size that full runs have: t-SNE of 20,000 points is about 220 kB."""
    folder = copied(judged, tmp_path / "run")
    run, numbers = Run(folder, 0), np.random.default_rng(0)
    images = torch.from_numpy(numbers.integers(0, 256, (10_000, 1, 28, 28), dtype=np.uint8))
    rows, (first, *_) = [], run.metrics()
    tsne = (folder / "tsne_0_w0.png").read_bytes()
    for g in (INITIAL, *range(20)):
        storage.save(images, run.evaluation(g)[0])
        storage.save(torch.arange(10_000) % 10, run.evaluation(g)[1])
        for ours, source in zip(run.strip(g), run.strip(INITIAL), strict=True):
            storage.save_bytes(source.read_bytes(), ours)
        padding = numbers.bytes(220_000 - len(tsne))
        storage.save_bytes(tsne + padding, run.figure("tsne", g))
        rows.append({**first, "generation": g})
    run.save_metrics(rows)
    started = time.perf_counter()
    page = report.write(folder, 0)
    assert time.perf_counter() - started < 2 * 20  # of 21 pages one is written per generation
    assert 5e6 < page.stat().st_size < 16e6
    assert len(Page(page).pictures) == 21 * 2 + 9
