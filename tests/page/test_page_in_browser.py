"""Pages of runs in every state, in a real browser: nothing cut, hidden, or asked for elsewhere."""

import browser
import numpy as np
import pytest
from made_up_page import a_figure, a_run, analysed
from made_up_study import PRIMARY, a_study

from common.machine import storage
from common.page import report
from common.run.folder import Run, guidance_weights
from common.study import report as study_report

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def chrome():
    chrome = browser.start()
    yield chrome
    chrome.quit()


def mainall(folder):
    for w in (0, 0.25, 2):
        a_run(folder, w=w)
    storage.save_figure(a_figure("weights", (15, 4)), folder / "weights.png")
    report.write(folder, 0.25)
    return report.index(folder)


def with_controls(folder):
    a_run(folder, n=4)
    for seed in (7, 8):
        a_run(folder / f"control_seed{seed}", n=3, total=8, control=True)
    return report.write(analysed(folder), 0)


def compared(folder):
    folder.mkdir()
    folders = {f"run{n}": a_run(folder / f"run{n}", n=n) for n in (2, 3)}
    home = Run(folders["run2"], 0)
    for kind in ("together", "overlay"):
        storage.save_figure(a_figure(kind, (15, 4)), home.figure(kind))
    for of in folders.values():
        report.write(of, 0)
    return report.comparison(folders, 0)


def no_run(folder):
    folder.mkdir()
    return report.index(folder)


def a_loop_page(**state):
    return lambda folder: report.write(a_run(folder, **state), 0)


def study(folder):
    a_study(folder, n=6, n_dose=4, n_controls=8)
    study_report.write(folder, PRIMARY, 0.05, 5)
    return folder / "report.html"


EXTREME = {
    "fid": [1.234567e15, 3.2e-9, NAN, INF],
    "recall": [0, 1e-12, NAN, 1],
    "density": [123456.7, 1e-300, NAN, 0.5],
}
STATES = {
    "no run": no_run,
    "stopped at once": a_loop_page(n=None, total=4, stopped="CUDA out of memory, " * 6),
    "initial model only": a_loop_page(n=0, total=4),
    "running": a_loop_page(n=2, total=6),
    "stopped": a_loop_page(n=2, total=6, stopped=f"no {'x' * 90}/is/there: run it"),
    "finished without controls": a_loop_page(n=1),
    "with controls": with_controls,
    "20 generations": a_loop_page(n=20),
    "extreme values": a_loop_page(values=EXTREME),
    "other code's models": a_loop_page(record=False),
    "mainall": mainall,
    "comparison": compared,
    "study": study,
}


@pytest.fixture(scope="module", params=STATES)
def page(request, tmp_path_factory):
    """The page of a state, in a folder of its own."""
    path = STATES[request.param](tmp_path_factory.mktemp("state") / "run_of_a_long_name")
    assert path and path.exists()
    return path


@pytest.fixture(scope="module")
def axe(request):
    return browser.axe(request.config.cache.mkdir("axe-core"))


@pytest.mark.parametrize("width", [1280, 420])
def test_nothing_is_cut_hidden_or_asked_for_elsewhere(page, chrome, width):
    browser.look(chrome, width, "light")
    browser.opened(chrome, page)
    chrome.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
    assert chrome.execute_script(browser.FAULTS) == []


@pytest.mark.parametrize("theme", browser.THEMES)
def test_everybody_can_read_it(page, chrome, axe, theme):
    """axe-core finds no serious violation, and contrasts of at least 4.5 : 1, in both themes."""
    browser.look(chrome, 420, theme)
    browser.opened(chrome, page)
    chrome.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    chrome.execute_script(axe)
    assert chrome.execute_async_script(browser.AXE) == []


def test_the_checks_find_what_is_wrong(tmp_path, chrome, axe):
    path = tmp_path / "bad.html"
    path.write_text(
        '<!DOCTYPE html><html lang="en"><title>x</title><main>'
        '<p style="width:50px;overflow:hidden;white-space:nowrap">clipped as it is too long</p>'
        '<p style="position:absolute;left:1270px;white-space:nowrap">cut at the right</p>'
        '<p style="position:absolute;top:300px">one label</p>'
        '<p style="position:absolute;top:303px">another</p>'
        '<p style="color:#999">grey on white</p></main></html>',
        encoding="utf-8",
    )
    browser.look(chrome, 1280, "light")
    chrome.get(path.as_uri())
    found = " ".join(chrome.execute_script(browser.FAULTS))
    assert all(word in found for word in ("clipped: clipped", "cut: cut", "overlap: one label"))
    chrome.execute_script(axe)
    assert "color-contrast" in " ".join(chrome.execute_async_script(browser.AXE))


# The slider


@pytest.fixture(scope="module")
def run_page(tmp_path_factory):
    return report.write(a_run(tmp_path_factory.mktemp("slider") / "run", n=3), 0)


def shown(chrome):
    """The headings of the generations that can be seen."""
    headings = chrome.find_elements("css selector", ".generation h3")
    return [each.text.split(":")[0] for each in headings if each.is_displayed()]


@pytest.mark.parametrize("width", [1280, 420])
def test_the_slider_shows_a_generation_beside_the_initial_model(run_page, chrome, width):
    from selenium.webdriver.common.keys import Keys

    browser.look(chrome, width, "light")
    browser.opened(chrome, run_page)
    slider, label = (chrome.find_element("css selector", x) for x in ("#slider", ".browse label"))
    assert shown(chrome) == ["Initial model", "Generation 2"]
    slider.send_keys(Keys.ARROW_LEFT)
    assert shown(chrome) == ["Initial model", "Generation 1"]
    slider.send_keys(Keys.HOME, Keys.ARROW_LEFT)  # the first one is the end
    assert shown(chrome) == ["Initial model", "Generation 0"]
    assert label.text.startswith("Generation 0: FID")
    assert slider.get_attribute("aria-valuetext") == label.text
    chrome.find_element("css selector", "body").send_keys(Keys.ARROW_RIGHT)  # not unseen
    assert shown(chrome) == ["Initial model", "Generation 0"]
    chosen = ".generation.chosen img.pixels"  # below the t-SNE
    chrome.execute_script(f"document.querySelector('{chosen}').scrollIntoView({{block: 'end'}})")
    top, bottom = chrome.execute_script(
        "const top = document.querySelector('.browse label').getBoundingClientRect().top;"
        f"return [top, document.querySelector('{chosen}').getBoundingClientRect().bottom]"
    )
    assert top >= 0 and bottom <= 801  # label and picture are in view together
    assert chrome.get_log("browser") == [] and browser.loaded(chrome) == []


def test_without_javascript_every_generation_is_there(run_page, chrome):
    chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chrome.get(run_page.as_uri())
        later = [f"Generation {name}" for name in range(3)]
        assert shown(chrome) == ["Initial model", *later]
        assert not chrome.find_element("css selector", "#slider").is_displayed()
    finally:
        chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_every_generation_is_printed_dark_on_white(run_page, chrome):
    browser.look(chrome, 1280, "dark")
    browser.opened(chrome, run_page)
    wish = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    try:
        assert len(shown(chrome)) == 4
        style = "return getComputedStyle(document.body)."
        assert chrome.execute_script(style + "backgroundColor") == "rgb(255, 255, 255)"
        assert np.array(chrome.execute_script(style + "color")[4:-1].split(","), int).max() < 60
    finally:
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_every_part_is_reached_by_the_keyboard(run_page, chrome):
    from selenium.webdriver.common.keys import Keys

    browser.look(chrome, 1280, "light")
    browser.opened(chrome, run_page)
    wanted = set(chrome.execute_script("return [...document.links].map(a => a.href)"))
    reached, sliders = set(), 0
    for _ in range(len(wanted) + 40):
        chrome.switch_to.active_element.send_keys(Keys.TAB)
        at = chrome.switch_to.active_element
        reached.add(at.get_attribute("href"))
        sliders += at.get_attribute("id") == "slider"
    assert wanted - reached == set() and sliders >= 1


def test_weights_lead_to_one_another(tmp_path, chrome):
    folder = tmp_path / "run"
    browser.opened(chrome, mainall(folder))
    for w in guidance_weights(folder):
        chrome.find_element("link text", f"self-consuming loop, w = {w:g}").click()
        assert f"w = {w:g}" in chrome.title
        chrome.find_element("partial link text", "all loops").click()
        assert chrome.title.startswith("Loops in")
