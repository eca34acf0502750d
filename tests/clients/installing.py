"""Installs the clients that the opt-in tests run, each into a folder of its own: `python -m tests.clients.installing`.

Must not: install anything outside `.clients`, or run what a package wants to run at its installation.
Invariant: a client's folder holds either what `pins.toml` names or, in `problem`, the reason why it does not.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".clients"
PROBLEM, STAMP = "problem", "installed"
LIMIT_S = 900
NPM = ("npm", "install", "--no-package-lock", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund")


class NotInstalled(Exception):
    """Why a client cannot be run."""


def pins() -> Mapping[str, Mapping[str, Any]]:
    return tomllib.loads((HERE / "pins.toml").read_text(encoding="utf-8"))


def version(client: str) -> str:
    """Of the pin of the client itself."""
    pin = pins()[client]
    if "npm" in pin:
        return str(pin["npm"][0]).rpartition("@")[2]
    names = {f"{client}==", f"{client}-chat=="}
    lines = (HERE / pin["pip"]).read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if any(line.startswith(name) for name in names))


def place(client: str) -> Path:
    """The client's folder. Raises NotInstalled."""
    folder = FOLDER / client
    if (folder / PROBLEM).exists():
        raise NotInstalled((folder / PROBLEM).read_text(encoding="utf-8"))
    if not (folder / STAMP).exists():
        raise NotInstalled(f"{client} is not installed; `make test-clients` does it")
    return folder


def install(client: str) -> None:
    """Raises NotInstalled."""
    pin, folder = pins()[client], FOLDER / client
    wanted = json.dumps(pin) + ((HERE / pin["pip"]).read_text(encoding="utf-8") if "pip" in pin else "")
    stamp = folder / STAMP
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"Installing {client} {version(client)} (once)", flush=True)
    try:
        if "npm" in pin:
            _install_with_npm(folder, list(pin["npm"]), pin.get("node"))
        else:
            _run([sys.executable, "-m", "venv", str(folder)])
            pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
            _run([*pip, "--no-deps", "-r", str(HERE / pin["pip"])])
    except NotInstalled as problem:
        (folder / PROBLEM).write_text(f"{client} cannot be installed here: {problem}", encoding="utf-8")
        raise
    stamp.write_text(wanted, encoding="utf-8")


def _install_with_npm(folder: Path, packages: list[str], node: Mapping[str, Any] | None) -> None:
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise NotInstalled("there is no Node.js on PATH; install node and npm")
    if node is not None and _node_major() < node["least"]:
        packages.append(f"node-{sys.platform}-{_processor()}@{node['version']}")
    _run([*NPM, "--prefix", str(folder), *packages])


def _node_major() -> int:
    return int(_run(["node", "--version"]).lstrip("v").partition(".")[0])


def _processor() -> str:
    """As npm names it."""
    return {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}.get(platform.machine().lower(), platform.machine())


def _run(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"{argv[0]}: {error}") from None
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
        raise NotInstalled(f"{Path(argv[0]).name} says: {' / '.join(said[-3:])}")
    return done.stdout.strip()


def main() -> int:
    """A client that cannot be had is told of; its tests are skipped with the same words."""
    for client in pins():
        try:
            install(client)
        except NotInstalled as problem:
            print(f"  {problem}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
