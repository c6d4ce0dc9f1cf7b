"""Headless Chromium for tests: what a page loads, says, and shows."""

import contextlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

THEMES = ("light", "dark")
# Texts that a box cuts off, or whose box lies across another's text, by element.
FAULTS = """
const texts = [], faults = [], walk = document.createTreeWalker(document.body, 4);
for (let node; node = walk.nextNode();) {
  const parent = node.parentElement, style = getComputedStyle(parent);
  if (!node.data.trim() || ['SCRIPT', 'STYLE'].includes(parent.tagName)) continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  const boxes = [...range.getClientRects()].filter(box => box.width > 1);
  if (!boxes.length || !parent.checkVisibility()) continue;
  const name = node.data.trim().slice(0, 40);
  for (const box of boxes) {
    if (box.left < -0.5 || box.right > innerWidth + 0.5) faults.push('cut: ' + name);
    texts.push([name, box]);
  }
  for (let at = parent; at; at = at.parentElement) {
    const hides = getComputedStyle(at).overflowX != 'visible';
    if (hides && at.scrollWidth > at.clientWidth + 1) faults.push('clipped: ' + name);
  }
}
texts.forEach(([name, a], i) => texts.slice(i + 1).forEach(([other, b]) => {
  const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  if (x > 2 && y > 5) faults.push('overlap: ' + name + ' | ' + other);
}));
return faults;
"""
AXE = """
const done = arguments[arguments.length - 1];
axe.run().then(found => done(found.violations
  .filter(each => ['serious', 'critical'].includes(each.impact) || each.id == 'color-contrast')
  .map(each => each.id + ': ' + each.nodes[0].html)));
"""


def start():
    """Chromium's driver; the test is skipped where there is none."""
    pytest.importorskip("selenium", reason="needs selenium")
    driver = shutil.which("chromedriver")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not driver or not chromium:
        pytest.skip("needs Chromium and its driver (Debian: chromium, chromium-driver)")
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Chrome(options=options, service=Service(driver))


def look(chrome, width, theme):
    """Sets the window's width and the theme that the reader prefers."""
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    wish = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)


def loaded(chrome):
    """The addresses that were asked for since the last call, those inside the page left out."""
    events = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [address for address in asked if not address.startswith("data:")]


def opened(chrome, path):
    """Opens a page; asserts that it asks for nothing else, says nothing, and shows its pictures."""
    chrome.get("about:blank")
    for kind in ("browser", "performance"):
        chrome.get_log(kind)
    chrome.get(Path(path).as_uri())
    assert loaded(chrome) == [Path(path).as_uri()]
    assert chrome.get_log("browser") == []
    assert chrome.execute_script(
        "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
    )


def axe(folder):
    """The source of axe-core, by npm in this folder; the test is skipped where there is none."""
    source, npm = folder / "node_modules" / "axe-core" / "axe.min.js", shutil.which("npm")
    if not source.exists() and npm:
        command = [npm, "install", "--silent", "--no-save", "--fetch-retries=0", "axe-core@4.14.1"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([*command, "--prefix", str(folder)], capture_output=True, timeout=120)
    if not source.exists():
        pytest.skip("needs axe-core: npm, and its registry")
    return source.read_text(encoding="utf-8")
