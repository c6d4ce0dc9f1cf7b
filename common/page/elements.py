"""The elements of a page: document, tables, pictures inside the page, vector charts.

Every text is escaped here, so that a folder named <script> is shown and not run.
"""

import base64
import html
import io

import numpy as np
from matplotlib.image import imsave
from torchvision.utils import make_grid

from common.machine import storage
from common.seeds import INITIAL

METRICS = {
    "fid": "FID",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}

STYLE = """
:root { color-scheme: light dark; --faint: #8888; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: auto; padding: 1rem; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid var(--faint); }
td:first-child, th:first-child { text-align: left; }
.record td, .record th { text-align: left; }
img { max-width: 100%; height: auto; background: white; }
img.pixels { image-rendering: pixelated; width: 100%; border: 1px solid var(--faint); }
.strip { position: sticky; top: 0; background: Canvas; padding: .3rem 0; z-index: 1; }
.strip img { max-width: 31rem; display: block; }
figure { margin: 0 0 1rem; }
figcaption { font-size: .85rem; }
.pair, .curves { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.pair figure { flex: 1 1 18rem; }
.curves svg { flex: 1 1 12rem; max-width: 20rem; }
svg { font: 13px system-ui, sans-serif; }
svg text { fill: currentColor; }
svg .axis { stroke: currentColor; fill: none; }
svg .line { fill: none; stroke-width: 2; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; }
p { overflow-wrap: anywhere; }
.status, .warning { border-left: .4rem solid #0072b2; padding-left: .6rem; }
.stopped, .warning { border-color: #d55e00; }
.browse { display: none; }
.browse input { width: 100%; }
.files { columns: 18rem; overflow-wrap: anywhere; }
@media print {
  .strip { position: static; }
  .generation { display: block !important; }
  .generation, figure, svg, tr { break-inside: avoid; }
  .browse { display: none !important; }
}
"""

# Shows one generation at a time; without JavaScript all are there, one below the other.
SCRIPT = """
const parts = [...document.querySelectorAll('.generation')];
const slider = document.getElementById('slider');
function show(n) {
  parts.forEach((part, i) => { part.style.display = i === n ? '' : 'none'; });
  slider.value = n;
  slider.setAttribute('aria-valuetext', parts[n].querySelector('h3').textContent);
}
if (parts.length) {
  slider.max = parts.length - 1;
  document.querySelector('.browse').style.display = 'block';
  slider.addEventListener('input', () => show(Number(slider.value)));
  document.addEventListener('keydown', event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    show(Math.min(parts.length - 1, Math.max(0, Number(slider.value) + step)));
  });
  show(parts.length - 1);
}
"""


class Html(str):
    """Text that is markup already."""


def escaped(value):
    """Any value as text of a page, escaped unless it is Html."""
    return value if isinstance(value, Html) else html.escape(str(value))


def document(title, parts):
    """A whole page with one heading and these parts, all markup."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escaped(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escaped(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def table(head, rows, kind="numbers"):
    """A table from column names and rows of cells."""
    cells = "".join(f'<th scope="col">{escaped(name)}</th>' for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'


def figure(path, text):
    """A PNG file with its caption."""
    picture = image(storage.load_bytes(path, "the script that draws it"), text)
    return f"<figure>{picture}<figcaption>{escaped(text)}</figcaption></figure>"


def pixels(images, text):
    """Images uint8 (N, 1, 28, 28) as one picture of ten columns, a pixel for a pixel."""
    grid, content = make_grid(images, nrow=10, padding=1, pad_value=128)[0], io.BytesIO()
    imsave(content, grid.numpy(), format="png", cmap="gray", vmin=0, vmax=255)
    return image(content.getvalue(), text, "pixels")


def image(content, text, kind="drawn"):
    """The bytes of a PNG file as a picture inside the page, with its alternative text."""
    data = base64.b64encode(content).decode()
    return f'<img class="{kind}" src="data:image/png;base64,{data}" alt="{escaped(text)}">'


# A colour that colour-blind readers can tell apart (Okabe & Ito) and a dash pattern per loop.
LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
DASHES = ["", "6 3", "2 3", "8 3 2 3", "12 4", "4 2 1 2"]


def curves(loops):
    """A vector chart over the generations for each metric, with a line for each of {name: rows}."""
    if not loops:
        return []
    sample = '<svg viewBox="0 0 34 10" style="width:34px" aria-hidden="true">'
    legend = [
        f"{sample}{_line([(0, 5), (34, 5)], i)}</svg> {escaped(name)}"
        for i, name in enumerate(loops)
    ]
    charts = [_chart(list(loops.values()), key) for key in METRICS]
    parts = [f'<div class="curves">{"".join(charts)}</div>']
    return [f"<p>{' &emsp; '.join(legend)}</p>", *parts] if len(loops) > 1 else parts


def _chart(loops, key):
    """The chart of one metric, of several loops' rows."""
    series = [[(row["generation"], row[key]) for row in rows] for rows in loops]
    g, values = np.concatenate([np.array(points, dtype=float) for points in series]).T
    first, last, low, high = g.min(), g.max(), values.min(), values.max()

    def place(point):
        x, y = (point[0] - first) / max(1, last - first), (point[1] - low) / ((high - low) or 1)
        return 60 + 200 * x, 130 - 100 * y

    lines = "".join(
        _line([place(point) for point in points], i)
        + "".join(
            _dot(place(point), i, f"generation {generation_name(point[0])}: {point[1]:.4g}")
            for point in points
        )
        for i, points in enumerate(series)
    )
    ticks = [
        (place((n, low))[0], 150, "middle", generation_name(n))
        for n in dict.fromkeys([first, last])
    ] + [(54, place((first, v))[1] + 4, "end", f"{v:.3g}") for v in dict.fromkeys([low, high])]
    ticks = "".join(
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
        for x, y, anchor, text in ticks
    )
    name = METRICS[key]
    label = f"{name} over the generations, between {low:.3g} and {high:.3g}; values in the table"
    return (
        f'<svg viewBox="0 0 280 170" role="img" aria-label="{escaped(label)}">'
        f'<text x="60" y="16" font-weight="bold">{escaped(name)}</text>'
        f'<polyline class="axis" points="60,25 60,135 265,135"/>{ticks}'
        f'<text x="160" y="166" text-anchor="middle">generation</text>{lines}</svg>'
    )


def _line(places, i):
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    style = f'stroke="{LINES[i % 6]}" stroke-dasharray="{DASHES[i % 6]}"'
    return f'<polyline class="line" {style} points="{points}"/>'


def _dot(place, i, text):
    x, y = place
    title = f"<title>{escaped(text)}</title>"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{LINES[i % 6]}">{title}</circle>'


def generation_name(generation):
    """A generation as users call it."""
    return "initial" if generation == INITIAL else str(int(generation))


def number(value):
    """Four digits, or a dash for None."""
    return "–" if value is None else f"{value:.4g}"
