"""The project's own promises: one version, imports that stay light, hooks that work offline.

What must not be imported is looked at in a fresh interpreter; this one has loaded everything already.
"""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import forge

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def pyproject() -> dict[str, Any]:
    """The parsed pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def hooks() -> list[dict[str, Any]]:
    """Every hook of the pre-commit configuration, with its repository's name in `repo`."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    return [{**hook, "repo": repo["repo"]} for repo in config["repos"] for hook in repo["hooks"]]


def test_one_version() -> None:
    assert forge.__version__ == pyproject()["project"]["version"]


@pytest.mark.parametrize("script", ["forge", "forge-tui"])
def test_a_console_script_names_a_function(script: str) -> None:
    module, _, function = pyproject()["project"]["scripts"][script].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_import_rules_are_held() -> None:
    config = pyproject()["tool"]["importlinter"]
    assert config["include_external_packages"] is True
    contracts = {contract["id"]: contract for contract in config["contracts"]}
    assert contracts["engine-without-screen"]["forbidden_modules"] == ["forge_tui", "textual"]
    assert contracts["bottom-without-torch"]["forbidden_modules"] == ["torch"]
    assert "allow_indirect_imports" not in contracts["bottom-without-torch"]
    assert contracts["screen-without-torch"]["source_modules"] == ["forge_tui"]
    assert "forge.engine" in contracts["layers"]["layers"]


@pytest.mark.parametrize(
    "module",
    [
        "forge",
        "forge.cli",
        "forge.config",
        "forge.contract",
        "forge.engine",
        "forge.registry",
        "forge.retention",
        "forge.validate",
        "forge_tui.__main__",
    ],
)
def test_importing_leaves_torch_out(module: str, tmp_path: Path) -> None:
    code = f"import sys, {module}; print(*sorted({{'torch', 'textual'}} & sys.modules.keys()))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    # The engine knows no screen; the application may load one.
    assert loaded <= ({"textual"} if module.startswith("forge_tui") else set())


def test_every_installed_version_is_pinned_once() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    names = [line.partition("==")[0].lower().replace("_", "-") for line in pins]
    assert all("==" in line and "+" not in line for line in pins)
    assert len(names) == len(set(names))
    assert {"torch", "textual", "mypy", "pytest", "mlflow"} <= set(names)


def test_hooks_are_local_and_their_commands_exist() -> None:
    assert {hook["repo"] for hook in hooks()} == {"local"}
    assert {hook["language"] for hook in hooks()} == {"system"}
    assert {hook["id"] for hook in hooks()} == {"ruff-format", "ruff-check", "mypy", "pot10"}
    for hook in hooks():
        command, *arguments = shlex.split(hook["entry"])
        assert Path(command).parent == Path(".venv/bin")
        program = BIN / Path(command).name
        assert subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0
        assert all((ROOT / argument).is_file() for argument in arguments if argument.endswith(".py"))


def test_hooks_run_offline_and_find_what_is_wrong(tmp_path: Path) -> None:
    for name in (".pre-commit-config.yaml", "pyproject.toml", "scripts/check_pot10.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    # Any proxy that answers would hide a download; this one refuses.
    offline = dict.fromkeys(["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"], "http://127.0.0.1:9")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    env = {**clean, **offline, "PRE_COMMIT_HOME": str(tmp_path / "cache"), "SKIP": "mypy"}
    (tmp_path / ".venv").symlink_to(BIN.parent)
    body = "".join("    print()\n" for _ in range(60))
    (tmp_path / "ugly.py").write_text(f"def long( ):\n{body}", "utf-8")

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert run(BIN / "pre-commit", "validate-config", ".pre-commit-config.yaml").returncode == 0
    run("git", "init", "--quiet")
    run("git", "add", "ugly.py", "pyproject.toml", ".pre-commit-config.yaml")
    result = run(BIN / "pre-commit", "run", "--all-files")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "files were modified by this hook" in result.stdout
    assert "ANN201" in result.stdout
    assert "ugly.py:1 long 61 lines (limit 60)" in result.stdout
