"""A run's page: what is on it, in a real browser too, and that it can never stop a run."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from test_detection import a_loop
from test_faults import TINY_SPECTRA
from tiny import FULL, ROOT, TINY_MAIN, constants_of, copied, initialmain, main

from common import recipes
from common.detect import verdict
from common.loop import loop, stages
from common.machine import storage
from common.machine.errors import UserError
from common.page import elements, report
from common.run.folder import Run
from common.seeds import INITIAL
from common.spectrum import compare, measure

JACOBIAN = ROOT / "jacobian"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with two generations, their spectra, and an uncalibrated verdict."""
    folder = tmp_path_factory.mktemp("run")
    initialmain(folder)
    main(folder)
    measure.main(constants_of(JACOBIAN / "spectra.py", **TINY_SPECTRA, run_dir=folder))
    compare.main(constants_of(JACOBIAN / "compare.py", runs=[folder]))
    verdict.main(constants_of(JACOBIAN / "detect.py", runs=[folder], primary_t=400))
    return folder


class Page(HTMLParser):
    """What a page holds: its text, headings, pictures, links, and external addresses."""

    def __init__(self, path):
        super().__init__()
        self.headings, self.pictures, self.links, self.loaded, self.text = [], [], [], [], ""
        self.svg, self.scripts, self.inside = 0, 0, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.pictures.append(attributes)
        if tag == "svg" and "role" in attributes:
            assert attributes["aria-label"]
            self.svg += 1
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


def test_everything_that_was_made_is_on_the_page(finished):
    page = Page(finished / "report.html")
    for row in Run(finished, 0).metrics():
        assert f"{row['fid']:.4g}" in page.text and f"{row['coverage']:.4g}" in page.text
    assert "FullSynthetic, w = 0" in page.text and "2 of 2 generations" in page.text
    assert "Complete." in page.text and "70 of S(g−1)" in page.text and "seed" in page.text
    assert "uncalibrated: without control loops" in page.text
    found = storage.load_json(finished / "run_w0.json")
    for value in (found["versions"]["torch"], found["device"], *found["inputs"].values()):
        assert str(value) in page.text
    assert page.svg == 5
    figures = [*report.SPECTRUM_FIGURES, "loss"]
    assert all((finished / f"{kind}_w0.png").exists() for kind in figures)
    assert len(page.pictures) == 3 * 3 + len(figures)
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:], strict=False))
    assert all(picture["alt"] for picture in page.pictures)


def test_it_needs_nothing_beside_it_and_links_to_what_is_there(finished):
    page = Page(finished / "report.html")
    assert page.loaded and all(address.startswith("data:") for address in page.loaded)
    assert "url(" not in elements.STYLE and "@import" not in elements.STYLE
    assert {"metrics_w0.csv", "model_1_w0.pth", "prmodel.pth"} <= set(page.links)
    assert all((finished / link).is_file() for link in page.links)


@pytest.mark.slow
def test_its_commands_make_the_same_run(finished):
    """Given again they find every stage done: the constants are those of the run."""
    text = Page(finished / "report.html").text
    text = text[text.index("\ncd ") :] if "\ncd " in text else text[text.index("cd FullSynth") :]
    lines = [line for line in text.splitlines() if line.startswith(("cd ", "python "))]
    assert [shlex.split(line)[1] for line in lines] == [
        "FullSynthetic/DDPM-MNIST",
        "initialmain.py",
        "main.py",
        *(f"../../jacobian/{name}.py" for name in ("spectra", "compare", "detect")),
    ]
    before = (finished / "onset_w0.json").read_bytes()
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
    assert (finished / "onset_w0.json").read_bytes() == before
    assert said.count(f"open {finished / 'report.html'}") == 4


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
    assert f"Generation g is trained on {formula}" in report._formula(scenario, constants)


def test_a_t_sne_is_said_to_be_of_what_it_is_of(finished, tmp_path, monkeypatch):
    folder = copied(finished, tmp_path / "run", leave_out=["tsne_1_w0.png"])
    whole, drawn = loop.plots.tsne, []
    monkeypatch.setattr(loop.plots, "tsne", lambda *given: drawn.append(given) or whole(*given))
    main(folder)
    ((real, fake, *_),) = drawn
    samples = storage.load(Run(folder, 0).evaluation(1)[0])
    assert real.shape == fake.shape == (45, 1, 28, 28) and torch.equal(fake, samples)
    text = Page(folder / "report.html").text
    assert re.findall("t-SNE of the (.*?) of real and synthetic", text) == ["pixels"] * 3


def test_the_recipe_is_named_with_what_differs_from_it():
    script = FULL / "main.py"
    constants = vars(constants_of(script))
    meant = recipes.overrides("laptop", script, constants)
    kept = {k: v for k, v in {**constants, **meant}.items() if k != "save_every"}
    record = {"folder": "FullSynthetic/DDPM-MNIST", "constants": kept, "save_every": 0}
    assert report._recipe(record).startswith("No recipe was named")
    assert report._recipe({**record, "recipe": "laptop"}) == "Recipe laptop, without changes."
    changed = {**record, "recipe": "laptop", "constants": {**kept, "n_feat": 32}}
    assert report._recipe(changed) == "Recipe laptop, but n_feat = 32 (recipe: 16)."


def test_a_change_of_recipe_at_generation_0_is_on_the_page(finished):
    text = Page(finished / "report.html").text
    assert "generation 0 contains a change of recipe: training-set size (initial 1500" in text


def test_the_table_has_guided_samples_and_the_floor(finished, tmp_path):
    page = Page(finished / "report.html")
    (floor,) = storage.load_rows(finished / "floor_w0.csv")
    assert "real: test images" in page.text and f"{float(floor['fid']):.4g}" in page.text
    assert "guided" not in page.text
    folder = copied(finished, tmp_path / "run")
    rows = Run(folder, 0).metrics()
    guided = [{**row, "N_guided": 45, "fid_guided": 12.5, "accuracy_guided": 0.5} for row in rows]
    Run(folder, 0).save_metrics(guided)
    report.write(folder, 0)
    assert "initial, guided, w = 0" in Page(folder / "report.html").text


# Runs that are not complete


def test_a_run_in_progress_says_how_far_it_is(finished, tmp_path):
    folder = copied(finished, tmp_path / "run", leave_out=["*.html"])
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
    assert "In progress" in text and "2 of 6 generations" in text
    assert "45 min of work so far, about 1 h 20 min to go" in text  # (600 + 1800) / 2 each


def test_why_a_loop_stopped_is_told_when_another_weights_page_is_written_too(
    finished, tmp_path, monkeypatch
):
    folder = copied(finished, tmp_path / "run")
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(loop.stages, "train", raising)
        main(folder, generation_number=3)
    assert "Stopped: the power went" in Page(folder / "report.html").text
    initialmain(folder, Wall=[0, 1])
    main(folder, w=1, generation_number=1)
    assert "Stopped: the power went" in Page(folder / "report_w0.html").text
    main(folder, generation_number=2)
    assert "Complete" in Page(folder / "report_w0.html").text


def raising(*arguments, **keywords):
    raise UserError("the power went")


def test_a_generation_that_is_not_drawn_yet_is_in_the_table_only(finished, tmp_path):
    folder = copied(finished, tmp_path / "run", leave_out=["tsne_1_w0.png"])
    page = Page(report.write(folder, 0))
    assert f"{Run(folder, 0).metrics()[-1]['fid']:.4g}" in page.text
    assert len(page.pictures) == 2 * 3 + len(report.SPECTRUM_FIGURES) + 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("the loss is nan in epoch 3, step 2"), "Stopped: the loss is nan in epoch 3"),
        (KeyboardInterrupt(), "Stopped: KeyboardInterrupt."),
        (RuntimeError("CUDA out of <memory>"), "Stopped: CUDA out of <memory>."),
    ],
)
def test_a_run_that_failed_says_why(finished, tmp_path, monkeypatch, capsys, error, words):
    folder = copied(finished, tmp_path / "run")

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(stages, "train", fails)
    with pytest.raises((SystemExit, RuntimeError)):
        main(folder, generation_number=3)
    text = Page(folder / "report.html").text
    assert words in text and "2 of 3 generations" in text
    assert f"open {folder / 'report.html'}" in capsys.readouterr().out


def test_a_page_that_cannot_be_written_never_stops_a_run(finished, tmp_path, monkeypatch, capsys):
    folder = copied(
        finished, tmp_path / "run", leave_out=["*_1_w0*", "*w1_w0", "metrics*", "*.html"]
    )

    def fails(title, parts):
        raise ValueError("no page today")

    monkeypatch.setattr(elements, "document", fails)
    main(folder)
    said = capsys.readouterr().out
    assert (
        f"note: the page of {folder} could not be written, the run goes on: no page today" in said
    )
    assert (folder / "model_1_w0.pth").exists() and not (folder / "report.html").exists()
    assert "open " not in said


def test_models_of_other_code_get_a_page_of_their_spectra(finished, tmp_path):
    folder = tmp_path / "public"
    folder.mkdir()
    for name in ("model_0_w0.pth", "model_1_w0.pth"):
        shutil.copy(finished / name, folder)
    measure.main(constants_of(JACOBIAN / "spectra.py", **TINY_SPECTRA, run_dir=folder))
    compare.main(constants_of(JACOBIAN / "compare.py", runs=[folder]))
    page = Page(folder / "report.html")
    assert "public, w = 0" in page.text and len(page.pictures) == 5
    assert "model_1_w0.pth" in page.links


# Several loops


def test_weights_in_one_folder_have_a_page_each_and_an_index(finished, tmp_path):
    folder = copied(finished, tmp_path / "run")
    initialmain(folder, Wall=[0.5, 1])
    constants = {**TINY_MAIN, "generation_number": 1, "save_dir": folder, "Wall": [0.5, 1]}
    loop.mainall(constants_of(FULL / "mainall.py", **constants))
    assert not (folder / "report.html").exists()
    index = Page(folder / "index.html")
    assert index.links == ["report_w0.html", "report_w0.5.html", "report_w1.html"]
    assert index.svg == 5
    for w in (0, 0.5, 1):
        rows = Run(folder, w).metrics()
        page = Page(folder / f"report_w{w}.html")
        assert f"w = {w}" in page.text and f"{rows[-1]['fid']:.4g}" in page.text
        assert f"{rows[-1]['fid']:.4g}" in index.text
        others = {"0", "0.5", "1"} - {str(w)}
        assert f"fid_w{w}.png" in page.links and "prmodel.pth" in page.links
        assert not {f"fid_w{other}.png" for other in others} & set(page.links)


def test_several_runs_have_one_page_that_compares_them(tmp_path):
    folders = [a_loop(tmp_path / f"run{seed}", seed, n=3, shift_at=1) for seed in (1, 2)]
    compare.main(constants_of(JACOBIAN / "compare.py", runs=folders))
    page = Page(folders[0] / "comparison_w0.html")
    for folder in folders:
        assert folder.name in page.text
        assert f"{Run(folder, 0).metrics()[-1]['fid']:.4g}" in page.text
    assert page.svg == 5 and len(page.pictures) == 1 + 2 * 5
    assert page.loaded and all(address.startswith("data:") for address in page.loaded)


def test_twenty_generations_of_ten_thousand_samples_are_small_and_quick(finished, tmp_path):
    """With pictures of the size that full runs have: t-SNE of 20,000 points is about 220 kB."""
    folder = copied(finished, tmp_path / "run")
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
    assert len(Page(page).pictures) == 21 * 3 + 7


# In a browser


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium that records what a page loads and says."""
    selenium = pytest.importorskip("selenium", reason="needs selenium")
    driver = shutil.which("chromedriver")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not driver or not chromium:
        pytest.skip("needs Chromium and its driver (Debian: chromium, chromium-driver)")
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    assert selenium
    options = Options()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


def loaded(browser):
    """The addresses that were asked for since the last call, those inside the page left out."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [address for address in asked if not address.startswith("data:")]


def shown(browser):
    """The pictures of samples, strips and t-SNE that can be seen."""
    pictures = browser.find_elements("css selector", ".generation img")
    return [picture.get_attribute("src") for picture in pictures if picture.is_displayed()]


def opened(browser, path):
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(Path(path).as_uri())
    assert loaded(browser) == [Path(path).as_uri()]
    assert browser.get_log("browser") == []
    assert browser.execute_script(
        "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
    )


def test_the_slider_and_the_arrow_keys_change_the_pictures(finished, browser):
    from selenium.webdriver.common.keys import Keys

    opened(browser, finished / "report.html")
    body, slider = (browser.find_element("css selector", name) for name in ("body", "#slider"))
    last = shown(browser)
    assert len(last) == 3 and slider.get_attribute("value") == "2"
    seen = [last]
    for _ in range(2):
        body.send_keys(Keys.ARROW_LEFT)
        seen.append(shown(browser))
    body.send_keys(Keys.ARROW_LEFT)
    assert shown(browser) == seen[-1]  # the first one is the end
    assert all(len(pictures) == 3 for pictures in seen)
    assert len({picture for pictures in seen for picture in pictures}) == 9  # all different
    slider.send_keys(Keys.ARROW_RIGHT)
    assert shown(browser) == seen[1] and slider.get_attribute("value") == "1"
    browser.execute_script(
        "arguments[0].value = 2; arguments[0].dispatchEvent(new Event('input'))", slider
    )
    assert shown(browser) == last
    assert "Generation 1" in slider.get_attribute("aria-valuetext")
    assert browser.get_log("browser") == [] and loaded(browser) == []


def test_without_javascript_every_generation_is_there(finished, browser):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get((finished / "report.html").as_uri())
        pictures = browser.find_elements("css selector", "img")
        assert len(pictures) == 3 * 3 + 7
        assert all(p.is_displayed() and int(p.get_property("naturalWidth")) > 0 for p in pictures)
        assert not browser.find_element("css selector", "#slider").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids these characters")
def test_names_of_folders_are_shown_as_text(finished, tmp_path, browser):
    name = "a \"b\" 'c' & <script>document.title = 1<img src=x> é 世界 #1 100%"
    folder = copied(finished, tmp_path / name)
    assert report.write(folder, 0)
    storage.save_json(
        {**storage.load_json(folder / "run_w0.json"), "scenario": name}, folder / "run_w0.json"
    )
    opened(browser, report.write(folder, 0))
    assert browser.title == f"{name}, w = 0"
    assert browser.find_element("css selector", "h1").text == f"{name}, w = 0"
    assert str(folder) in browser.find_element("css selector", "body").text
    link = browser.find_element("link text", "metrics_w0.csv").get_attribute("href")
    assert link == (folder / "metrics_w0.csv").as_uri()
    pages = report.comparison({name: folder}, 0), report.index(folder)
    assert pages[0] is None  # no overlay was drawn for a single run
    opened(browser, pages[1])


@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_is_wider_than_the_window(finished, browser, width):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    opened(browser, finished / "report.html")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
