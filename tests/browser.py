"""A real headless Chromium, and a real `mlflow ui`, for the tests that look at pages."""

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

import pytest

PATIENCE = 120  # seconds for a busy machine; a page that is there is not waited for


@contextmanager
def chromium():
    """A driver whose console is kept; the test skips where there is no Chromium."""
    selenium = pytest.importorskip(
        "selenium.webdriver", reason="no selenium: pip install -r requirements-dev.txt"
    )
    program, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if program is None or driver is None:
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    from selenium.webdriver.chrome.service import Service

    options = selenium.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--disable-background-networking",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = selenium.Chrome(options=options, service=Service(driver))
    browser.set_page_load_timeout(PATIENCE)
    try:
        yield browser
    finally:
        browser.quit()


@contextmanager
def mlflow_ui(folder):
    """`mlflow ui` on the default store of a folder; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes, for evaluations of language models
        "OMP_NUM_THREADS": "1",
    }
    with (folder / "ui.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(address) or server.poll() is not None, f"mlflow ui at {address}")
        assert server.poll() is None, (folder / "ui.log").read_text()
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(20)


def answers(address):
    try:
        with urlopen(f"{address}/health", timeout=5) as reply:
            return reply.status == 200
    except (URLError, OSError):
        return False


def wait_for(condition, what):
    """What the condition gives as soon as it is true."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited {PATIENCE} s for {what}")


def text_of(browser):
    return browser.find_element("tag name", "body").text


def shows(browser, *words):
    """Wait until the page has all of the words."""
    wait_for(lambda: all(word in text_of(browser) for word in words), f"{words} on {browser.current_url}")


def without_assistant(browser, address):
    """Close MLflow's assistant, which covers a quarter of every page."""
    browser.get(address)
    browser.execute_script("localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')")
    browser.execute_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")


def resized(browser, width, height=900, *, dark=False):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})


def errors_of(browser):
    """What the console has said of errors since it was last asked, but for what MLflow's own page always
    misses.
    """
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    return [message for message in severe if "ajax-api/2.0/mlflow/users/current" not in message]


def screenshot(browser, path, height=None):
    """The window as a PNG, or so much of the page."""
    width = browser.execute_script("return document.documentElement.clientWidth")
    clip = {} if height is None else {"clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}}
    shot = browser.execute_cdp_cmd(
        "Page.captureScreenshot", {"captureBeyondViewport": height is not None, **clip}
    )
    path.write_bytes(base64.b64decode(shot["data"]))
