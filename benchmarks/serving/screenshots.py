"""Pictures of the inspection page for docs/serving.md: a real server, a real browser, a trained model.

`python benchmarks/serving/screenshots.py MODEL IMAGES docs/images` with the model and the test images of the sample
line writes inspection-light.jpg, inspection-dark.jpg and inspection-api.png. Needs Chromium and Playwright.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

# Defect type and which of its images, the last one stays on the page.
SHOWN = (("good", 0), ("dent", 0), ("good", 3), ("heat_tint", 1), ("blocked_hole", 0), ("scratch", 2), ("stain", 1))
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
QUALITY = 90


@contextmanager
def server(model: Path) -> Iterator[str]:
    """`stlm serve` for the model; its address."""
    command = [sys.executable, "-c", "from stlm_core.cli import main; main()", "serve", "--model", str(model)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("STLM_")}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([*command, "--port", "0"], stderr=log, env=environment)
        try:
            yield f"http://127.0.0.1:{_port(process, Path(f'/proc/self/fd/{log.fileno()}'))}"
        finally:
            process.terminate()
            process.wait(40)


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    for _ in range(600):
        for line in log.read_text().splitlines():
            if '"listening"' in line:
                return int(json.loads(line)["port"])
        if process.poll() is not None:
            raise SystemExit(log.read_text())
        time.sleep(0.1)
    raise SystemExit("the server did not start in a minute")


def inspect(page: Page, images: Path) -> None:
    """Show the page one image after the other."""
    for kind, index in SHOWN:
        before = page.locator("#recent button").count()
        page.set_input_files("#file", sorted((images / kind).glob("*.png"))[index])
        while page.locator("#recent button").count() == before:
            page.wait_for_timeout(50)
    page.wait_for_timeout(1000)


def save(picture: bytes, path: Path) -> None:
    """Write a screenshot: photographs as JPEG, which is a quarter of a PNG, and text as PNG with a palette."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    if path.suffix == ".png":
        image.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    else:
        image.save(path, quality=QUALITY, optimize=True, subsampling=0)
    print(f"{path}: {image.width} x {image.height}, {path.stat().st_size // 1024} KB")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with server(arguments.model) as address, sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(color_scheme="light", viewport={"width": 1200, "height": 900})
        page.goto(address)
        page.wait_for_selector("#model[data-state=ready]")
        inspect(page, arguments.images)
        save(page.screenshot(full_page=True), arguments.out / "inspection-light.jpg")
        page.emulate_media(color_scheme="dark")
        page.locator("#recent button").nth(2).click()
        page.locator("#opacity").fill("90")
        page.wait_for_timeout(1000)
        save(page.screenshot(full_page=True), arguments.out / "inspection-dark.jpg")
        page.set_viewport_size({"width": 1000, "height": 760})
        page.emulate_media(color_scheme="light")
        page.goto(f"{address}/docs")
        page.locator("summary").first.click()
        page.wait_for_timeout(300)
        save(page.screenshot(), arguments.out / "inspection-api.png")
        browser.close()


if __name__ == "__main__":
    main()
