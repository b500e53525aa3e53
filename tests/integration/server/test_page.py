"""The page in a real browser: what a quality engineer does with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from serving import KEY, OVERFLOWING, Server, detector, encoded, png, register, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
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
pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def server(registry_root: Path) -> Iterator[Server]:
    """Two lines from a registry."""
    register(registry_root, detector("r1"), image_auroc="0.9312", promoted_by="quality")
    register(registry_root, detector("o1", line="other"), line="other")
    with serving(registry_root, "--line", "tiny", "--line", "other", "--poll-seconds", "600") as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page, ready; an error or a message of the content security policy in its console fails the test."""
    context = browser.new_context(color_scheme="light", viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    said: list[str] = []
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    opened.goto(f"{server.url}/")
    opened.wait_for_selector("#model[data-state=ready]")
    yield opened
    context.close()
    assert [text for text in said if "status of 422" not in text] == []


def drop(page: Page, content: bytes, name: str = "part.png") -> None:
    """Drag a file onto the page."""
    page.evaluate(
        """([bytes, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
            for (const kind of ["dragenter", "dragover", "drop"]) {
                document.getElementById("stage").dispatchEvent(
                    new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
            }
        }""",
        [list(content), name],
    )


def wait(page: Page, expression: str) -> None:
    """Until an expression is true. The page forbids what Playwright's own waiting would do (``unsafe-eval``)."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(expression)


def wait_for_score(page: Page, score: float) -> None:
    """Until the gauge shows a score."""
    wait(page, f"Math.abs(document.getElementById('gauge').getAttribute('aria-valuenow') - {score}) < 1e-3")


def background(page: Page) -> tuple[int, ...]:
    """The page's colour."""
    text = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return tuple(int(part) for part in text.removeprefix("rgb(").removesuffix(")").split(","))


def test_an_image_is_dropped_in_and_judged(page: Page, tmp_path: Path) -> None:
    assert page.locator("#word").inner_text() == "No image yet"
    page.locator("#line").select_option("tiny")
    drop(page, png(brightness=40, spot=204))
    wait_for_score(page, 0.8)
    assert page.locator("#word").inner_text() == "Anomalous"
    assert page.locator("#reason").inner_text() == "Score 0.800 is above the threshold 0.500: have this part looked at."
    assert page.locator("#verdict").get_attribute("data-verdict") == "anomalous"
    assert page.locator("#gauge").get_attribute("aria-valuetext") == "score 0.800, threshold 0.500, anomalous"
    assert page.locator("#fact-line").inner_text() == "tiny, version 1"
    assert page.locator("#fact-peak").inner_text() == "x 7, y 5"
    assert page.locator("#drop").is_hidden()
    page.reload()
    page.wait_for_selector("#model[data-state=ready]")
    assert page.locator("#line").input_value() == "tiny", "the line is remembered"
    page.locator("#recent button").first.click()
    wait_for_score(page, 0.8)
    image, heat, peak = (page.locator(name).bounding_box() for name in ("#image", "#heat", "#peak"))
    assert image == heat
    assert image is not None
    assert peak is not None
    assert peak["x"] + peak["width"] / 2 == pytest.approx(image["x"] + image["width"] * 7.5 / 40, abs=1.5)
    assert peak["y"] + peak["height"] / 2 == pytest.approx(image["y"] + image["height"] * 5.5 / 30, abs=1.5)
    assert page.evaluate("document.getElementById('heat').naturalWidth") == 40


def test_a_picture_unlike_the_others_points_to_the_camera(page: Page) -> None:
    page.locator("#line").select_option("tiny")
    drop(page, png(brightness=10, spot=153))
    wait_for_score(page, 0.6)
    told = "The picture is not like the line's own: too dark. Look at the camera, too."
    assert page.locator("#camera").inner_text() == told
    drop(page, png(brightness=40, spot=204))
    wait_for_score(page, 0.8)
    assert page.locator("#camera").is_hidden()


def test_the_slider_changes_the_heat_map(page: Page) -> None:
    slider = page.locator("#opacity")
    assert slider.is_disabled()
    drop(page, png(spot=250))
    wait_for_score(page, 250 / 255)
    opacity = "getComputedStyle(document.getElementById('heat')).opacity"
    assert float(page.evaluate(opacity)) == pytest.approx(0.7)
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    assert float(page.evaluate(opacity)) == pytest.approx(0.5)
    assert page.locator("#opacity-value").inner_text() == "50%"
    slider.fill("0")
    assert float(page.evaluate(opacity)) == 0
    page.locator("#show-peak").uncheck()
    assert page.locator("#peak").is_hidden()


def test_lines_and_the_last_images(page: Page, server: Server) -> None:
    assert page.locator("#line option").all_inner_texts() == ["other", "tiny"]
    assert page.locator("#line").input_value() == "other"
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": png(brightness=51)})
    wait_for_score(page, 0.2)
    assert page.locator("#word").inner_text() == "Normal"
    page.locator("#line").select_option("tiny")
    assert "0.9312" not in page.locator("#in-service").inner_text()
    assert "93.1%" in page.locator("#in-service").inner_text()
    page.set_input_files(
        "#file",
        [{"name": f"{level}.png", "mimeType": "image/png", "buffer": png(brightness=level)} for level in (153, 255)],
    )
    wait_for_score(page, 1.0)
    entries = page.locator("#recent button")
    assert [text.split("\n")[:2] for text in entries.all_inner_texts()] == [
        ["Anomalous", "1.000 · tiny"],
        ["Anomalous", "0.600 · tiny"],
        ["Normal", "0.200 · other"],
    ]
    entries.nth(2).focus()
    page.keyboard.press("Enter")
    wait_for_score(page, 0.2)
    assert page.locator("#word").inner_text() == "Normal"
    assert page.locator("#fact-line").inner_text() == "other, version 1"
    wait(page, "[...document.querySelectorAll('#recent img')].every(image => image.complete && image.naturalWidth > 0)")
    page.locator("#forget").click()
    wait(page, "document.querySelectorAll('#recent li').length === 0")
    assert server.client.get("/v1/recent").json()["inspections"] == []


def test_a_bad_file_is_explained(page: Page) -> None:
    drop(page, png(spot=204))
    wait_for_score(page, 0.8)
    drop(page, b"no image at all", "notes.txt")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "notes.txt: image: not an image in a known format" in alert.inner_text()
    assert page.locator("#word").inner_text() == "Anomalous", "the last verdict stays"
    drop(page, png(brightness=51))
    wait_for_score(page, 0.2)
    assert alert.is_hidden()


def test_a_format_that_browsers_do_not_show(page: Page) -> None:
    from PIL import Image

    tiff = encoded(Image.new("RGB", (60, 20), (255, 255, 255)), "TIFF")
    page.set_input_files("#file", {"name": "a.tif", "mimeType": "image/tiff", "buffer": tiff})
    wait_for_score(page, 1.0)
    assert page.evaluate("document.getElementById('image').naturalWidth") == 60


def test_light_and_dark(page: Page, browser: Browser, server: Server) -> None:
    assert min(background(page)) > 200
    page.locator("#theme").click()
    assert max(background(page)) < 60
    context = browser.new_context(color_scheme="dark")
    dark = context.new_page()
    dark.goto(f"{server.url}/")
    assert max(background(dark)) < 60
    assert len(set(dark.screenshot())) > 100
    context.close()


def test_a_new_champion_and_a_refused_one_are_told(page: Page, server: Server, registry_root: Path) -> None:
    page.locator("#line").select_option("tiny")
    register(registry_root, detector("r2"))
    server.client.post("/v1/lines/tiny/refresh").raise_for_status()
    wait(page, "document.getElementById('model').textContent.startsWith('version 2')")
    register(registry_root, detector("r3", graph=OVERFLOWING))
    server.client.post("/v1/lines/tiny/refresh").raise_for_status()
    page.wait_for_selector("#model[data-state=stale]")
    assert "version 3 of line tiny was refused" in page.locator("#notice").inner_text()
    assert page.locator("#model").inner_text().startswith("version 2")


def test_everything_has_a_name_and_works_by_keyboard(page: Page) -> None:
    for role, name in (
        ("combobox", "Line"),
        ("slider", "Heat map"),
        ("checkbox", "Mark the highest point"),
        ("meter", "Score against threshold"),
        ("region", "Verdict"),
        ("button", "Change between light and dark"),
        ("link", "API"),
    ):
        assert page.get_by_role(role, name=name).count() == 1, name  # type: ignore[arg-type]
    page.locator("body").press("Tab")
    reached = set()
    for _ in range(8):
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        page.keyboard.press("Tab")
    assert {"Skip to the image", "line", "API", "theme", "show-peak", "file"} <= reached


def test_the_page_asks_for_the_key(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(detector("r1"))
    with serving(tmp_path, "--model", "model.onnx", STLM_API_KEY=KEY) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{server.url}/")
        dialog = page.locator("#key-dialog")
        dialog.wait_for(state="visible")
        page.locator("#key").fill("a-wrong-key-that-is-long")
        page.keyboard.press("Enter")
        wait(page, "document.getElementById('key-why').textContent.includes('not the right one')")
        page.locator("#key").fill("one\u2013that\u2013no\u2013header\u2013holds")
        page.keyboard.press("Enter")
        dialog.wait_for(state="visible")
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#model[data-state=ready]")
        drop(page, png(spot=204))
        wait_for_score(page, 0.8)
        page.locator("#recent button").wait_for()
        wait(page, "document.querySelector('#recent img').naturalWidth > 0")
        context.close()


def test_the_description_of_the_api_is_readable(browser: Browser, server: Server) -> None:
    page = browser.new_page()
    page.goto(f"{server.url}/docs")
    page.wait_for_selector("details")
    page.get_by_text("/v1/lines/{line}/inspect", exact=True).click()
    assert f"--data-binary @part.png {server.url}/v1/lines/sample/inspect" in page.locator("main").inner_text()
    page.close()
