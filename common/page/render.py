"""Templates beside this file to pages: every text escaped, every picture inside the page.

A folder named <script> is therefore shown and not run, and a page can be sent as one file.
"""

import base64
import io
import os
import struct
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.image import imsave
from torchvision.utils import make_grid

from common.machine import storage
from common.page import words
from common.run.folder import generation_name, model_name
from common.settings import number_text

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {"generation": generation_name, "model": model_name}
TEMPLATES.filters |= {"numbers": words.numbers, "w": number_text}
TEMPLATES.globals["words"] = words


class Picture(NamedTuple):
    """A PNG as the address of its own bytes, its size in pixels, and where its file and the same
    as PDF are, seen from the page ("" where there is none)."""

    src: str
    width: int
    height: int
    link: str = ""
    pdf: str = ""


class Link(NamedTuple):
    """A text of a page that leads somewhere."""

    text: str
    href: str


def text(template, **values):
    """The page that a template makes of these values."""
    return TEMPLATES.get_template(template).render(values)


def picture(path, home=None):
    """The Picture in a PNG file, for a page in the folder `home`, by default the file's own."""
    home, pdf = home or path.parent, path.with_suffix(".pdf")
    content = storage.load_bytes(path, "the script that draws it")
    links = address(path, home), address(pdf, home) if pdf.exists() else ""
    return _inside(content, *links)


def pixels(images):
    """A Picture of images uint8 (N, 1, 28, 28) in rows of ten, a pixel for a pixel."""
    grid, content = make_grid(images, nrow=10, padding=1, pad_value=128)[0], io.BytesIO()
    imsave(content, grid.numpy(), format="png", cmap="gray", vmin=0, vmax=255)
    return _inside(content.getvalue())


def _inside(content, *links):
    width, height = struct.unpack(">II", content[16:24])  # of the PNG's header, IHDR
    data = base64.b64encode(content).decode()
    return Picture(f"data:image/png;base64,{data}", width, height, *links)


def address(path, home):
    """Where a file is, seen from a page in the folder `home`."""
    try:
        return quote(Path(os.path.relpath(path, home)).as_posix())
    except ValueError:  # on another drive
        return path.absolute().as_uri()
