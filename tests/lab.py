"""JupyterLab with a notebook open in headless Chromium. As a program: a picture of the inspector
over outputs/ (README).
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from helpers import ROOT, environment

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
QUIET = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
]
QUIET += [
    "--disable-component-update"
]  # nothing asks for the internet; --no-sandbox: it must work as root
QUIET += ["--disable-gpu"]  # or a process more tries to draw with one, and pages wait for it
OPEN = """async ([path, theme]) => {
    const app = window.jupyterapp;
    await app.restored;
    await app.commands.execute('apputils:change-theme', {theme});
    const panel = await app.commands.execute('docmanager:open', {path});
    await panel.context.ready;
    await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
    app.shell.activateById(panel.id);
    app.shell.collapseLeft();
    await app.commands.execute('notebook:run-all-cells');
}"""  # the status line is no guide: it says idle before there is a kernel


@contextmanager
def server(folder: Path, **variables: object) -> Iterator[str]:
    """A JupyterLab over the folder, on a free port of this machine and behind a token; its address.

    Its settings and workspaces lie in the folder, so that a user's own are neither read nor
    changed.
    """
    token = os.urandom(16).hex()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = dict.fromkeys(
        ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"),
        folder / ".jupyter",
    )
    own |= {
        "JUPYTER_RUNTIME_DIR": folder / ".jupyter" / "runtime",
        "IPYTHONDIR": folder / ".ipython",
        "JUPYTER_TOKEN": token,
    }
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder,
    }
    options |= {"LabApp.expose_app_in_browser": True}
    settings = (
        folder
        / ".jupyter"
        / "@jupyterlab"
        / "apputils-extension"
        / "notification.jupyterlab-settings"
    )
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    words = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *words]
    with (folder / "lab.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(**own, **variables), stdout=log, stderr=log
        )
        try:
            _answer(
                f"http://127.0.0.1:{port}/api/status?token={token}", process, folder / "lab.log"
            )
            yield f"http://127.0.0.1:{port}/lab?token={token}"
        finally:
            process.terminate()
            process.wait(30)


def _answer(address: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until the server answers."""
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(log.read_text())


@contextmanager
def browser(width: int = 1280, height: int = 900):
    """A page of a headless Chromium, of this size."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        start = partial(
            playwright.chromium.launch, executable_path=CHROMIUM, args=QUIET, timeout=180_000
        )
        try:
            chromium = start()
        except Error as error:  # Chromium itself may not start at first where there is much to do
            print(f"Chromium is started anew after: {error}")
            chromium = start()
        try:
            yield chromium.new_page(viewport={"width": width, "height": height})
        finally:
            chromium.close()


def copy(notebook: str, target: Path, **parameters: object) -> None:
    """A copy of one of notebooks/ with these parameters: Lab saves what it opens."""
    text = json.loads((ROOT / "notebooks" / notebook).read_text())
    (cell,) = [cell for cell in text["cells"] if "parameters" in cell["metadata"].get("tags", ())]
    cell["source"].append("".join(f"\n{name} = {value!r}" for name, value in parameters.items()))
    target.write_text(json.dumps(text))


def execute(page, address: str, notebook: str, dark: bool = False) -> None:
    """Open the notebook, and run all its cells once its context, its session and its kernel are
    ready.
    """
    page.goto(address)
    page.wait_for_function("() => window.jupyterapp", timeout=120_000)
    page.evaluate(OPEN, [notebook, "JupyterLab Dark" if dark else "JupyterLab Light"])


def picture(path: str) -> None:
    """Save the inspector over this checkout's outputs/, with its histograms."""
    with (
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder)) as address,
        browser(height=1600) as page,
    ):
        copy("inspect_pr_curves.ipynb", Path(folder) / "inspect_pr_curves.ipynb")
        execute(page, address, "inspect_pr_curves.ipynb")
        page.locator(".semlib .scatterlayer .point").first.wait_for(timeout=120_000)
        page.get_by_role("button", name="Histograms").click()
        page.locator(".semlib .shape-group path").first.wait_for(timeout=60_000, state="attached")
        page.wait_for_timeout(2000)  # it is fitted to the page
        page.locator(".jp-OutputArea-output:has(.semlib)").first.screenshot(path=path)


if __name__ == "__main__":
    picture(sys.argv[1])
