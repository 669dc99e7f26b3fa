"""Draw the picture of README: `python experiments/picture.py runs/tiny/spac/seed-0 docs/report.png`.

Needs the tests' packages (`make test` installs them) and the system's Chromium.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from spac_repro.publish import report
from spac_repro.runs import files

WIDTH = 1000  # pixels
COLORS = 64  # of the palette: the page has few, and the file stays small


def main(run: Path, picture: Path) -> None:
    """Write the report of a run, and save its top, down to the scores, as a picture."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        report.write_report([run], page)
        screenshot = Image.open(io.BytesIO(_screenshot(page)))
    drawn = io.BytesIO()
    screenshot.convert("RGB").quantize(COLORS).save(drawn, "png", optimize=True)
    files.write_bytes(picture, drawn.getvalue())


def _screenshot(page: Path) -> bytes:
    """The top of a page, from Chromium, as PNG."""
    with sync_playwright() as play:
        # Chromium's sandbox does not start as root. The page is our own.
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": WIDTH, "height": 800})
        shown.goto(page.as_uri())
        scores = shown.locator("#scores").first.bounding_box()
        assert scores is not None, "a finished run has scores"
        height = scores["y"] + scores["height"]
        image = shown.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
        browser.close()
    return bytes(image)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
