"""Takes the README's pictures of the page: the real server with the bundled models, in a real browser.

    python -m tests.page_pictures [FOLDER]

Not a test: the pictures are to be looked at by somebody.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
PORT = 8_137
URL = f"http://127.0.0.1:{PORT}"
DESKTOP = "尿频尿急，小便时刺痛，没有发烧，也没有腰痛"
PHONE = "胸痛，出冷汗，左胳膊发麻"


def picture(browser: Browser, file: Path, words: str, width: int, height: int, scale: float = 1) -> None:
    context = browser.new_context(
        locale="zh-CN", viewport={"width": width, "height": height}, device_scale_factor=scale, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(URL)
    page.get_by_role("textbox").fill(words)
    page.keyboard.press("Enter")
    page.locator("#times dl").get_by_text("合计").wait_for(timeout=30_000)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.screenshot(path=file)
    context.close()


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "examples/images"
    command = [sys.executable, "-m", "langchain_bge_medical.cli", "serve", "--port", str(PORT)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{URL}/ready").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            picture(browser, folder / "page_desktop.png", DESKTOP, 1_180, 1_020)
            picture(browser, folder / "page_phone.png", PHONE, 390, 844, 2)
            browser.close()
    finally:
        server.terminate()
        server.wait(timeout=30)


if __name__ == "__main__":
    main()
