"""The wheel works where there is no checkout: its files are complete and a screen draws from it.

Whatever is proved here runs from an environment of its own, outside the repository; a module that
comes from the checkout fails the test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ONE_FRAME = """
import asyncio
import json
import re

import forge
import forge_tui
from forge.home import prepare_home, resolve_home
from forge_tui.app import ForgeApp


async def draw() -> str:
    app = ForgeApp(prepare_home(resolve_home()))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        return app.export_screenshot()


svg = asyncio.run(draw())
shown = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg)).replace("&#160;", " ").split()
print(json.dumps({"forge": forge.__file__, "forge_tui": forge_tui.__file__, "shown": shown}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built offline with the installed hatchling."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT), cwd=out)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_contains_what_the_code_reads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    styles = {f"forge_tui/styles/{path.name}" for path in (ROOT / "styles").glob("*.tcss")}
    presets = {str(path.relative_to(ROOT)) for path in (ROOT / "forge/config/presets").glob("*.yaml")}
    assert "forge_tui/styles/theme.tcss" in styles
    assert "forge/config/presets/tiny.yaml" in presets
    missing = (styles | presets | {"forge/py.typed", "forge_tui/py.typed"}) - names
    assert not missing
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"forge", "forge_tui"}


def test_a_screen_draws_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "env"
    python = install(wheel, environment)
    home = {"FORGE_HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    version = run(str(python.with_name("forge-tui")), "--version", cwd=tmp_path, extra=home)
    assert wheel.name.split("-")[1] in version
    frame = json.loads(run(str(python), "-c", ONE_FRAME, cwd=tmp_path, extra=home).splitlines()[-1])
    for package in ("forge", "forge_tui"):
        assert Path(frame[package]).is_relative_to(environment), frame[package]
    assert frame["shown"], "the screen drew no text"


def install(wheel: Path, environment: Path) -> Path:
    """Install the wheel alone into a new environment that borrows the installed dependencies."""
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", str(python), "install"),
        *("--quiet", "--no-deps", "--no-index", str(wheel)),
        cwd=environment,
    )
    site = Path(
        run(
            str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=environment
        ).strip()
    )
    # A .pth names folders only: the .pth files inside them, the checkout's own among them, are not read.
    borrowed = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (site / "borrowed.pth").write_text("\n".join(borrowed), "utf-8")
    return python


def run(*command: str, cwd: Path, extra: dict[str, str] | None = None) -> str:
    """Standard output of a command that must succeed, in an environment that knows no checkout."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FORGE", "COV"))
    }
    result = subprocess.run(
        command, cwd=cwd, env={**clean, **(extra or {})}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{' '.join(command[:4])} failed:\n{result.stdout}\n{result.stderr}"
    return result.stdout
