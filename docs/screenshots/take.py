"""Takes the pictures of the page that the documentation shows, from a server that is running.

    zoo-serve --zoo .zoo --zoo zoo/pretrained
    python docs/screenshots/take.py http://127.0.0.1:8000 --browser /usr/bin/chromium

One of them alone, of the elastic file that `zoo-train digits-elastic` makes:

    python docs/screenshots/take.py http://127.0.0.1:8000 --only elastic-light

Colours are reduced to 256, which a page of paper and ink does not miss; fonts are those of the machine.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
DESK, PHONE = (1280, 1120), (390, 844)
CHOICE = "dataset=cifar10&min_acc=0.8"
SHOTS = [
    ("explore-light", f"#/explore?{CHOICE}", DESK, "light"),
    ("explore-dark", f"#/explore?{CHOICE}", DESK, "dark"),
    ("explore-phone", f"#/explore?{CHOICE}", PHONE, "light"),
    ("try-light", f"#/try?{CHOICE}", DESK, "light"),
    ("try-phone", f"#/try?{CHOICE}", PHONE, "dark"),
    ("grow-light", "#/grow?dataset=cifar10&run=cifar10-grow-s0", DESK, "light"),
    ("elastic-light", "#/explore?dataset=digits&min_acc=0.95", (1280, 900), "light"),
    ("download-dark", f"#/download?{CHOICE}", DESK, "dark"),
]


def take(page: Page, name: str) -> None:
    page.wait_for_selector("main:not([aria-busy])")
    if name.startswith("try"):
        page.get_by_role("button", name="ship").click()
        page.get_by_text("every size says").or_(page.get_by_text("Every size says")).wait_for()
        page.evaluate("document.activeElement.blur()")
    if name.startswith("grow"):
        page.wait_for_timeout(2_000)  # a run that may go on is listened to all the time
    else:
        page.wait_for_load_state("networkidle")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    path = HERE / f"{name}.png"
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}  {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where zoo-serve answers")
    parser.add_argument("--browser", default="/usr/bin/chromium", help="Chromium or Chrome")
    parser.add_argument("--only", choices=[name for name, *_ in SHOTS], help="this picture alone")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.browser)
        for name, view, (width, height), scheme in SHOTS:
            if arguments.only not in (None, name):
                continue
            # Twice as many pixels on a phone, as phones have.
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if scheme == "dark" else "light",
                device_scale_factor=2 if width == PHONE[0] else 1,
            )
            page.goto(f"{arguments.url.rstrip('/')}/{view}")
            take(page, name)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
