"""The wheel holds what an installed portctl needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

HOME = Path(__file__).parent.parent


def test_a_wheel_holds_every_template(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=HOME, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    templates = HOME / "templates"
    for path in templates.rglob("*"):
        if path.is_file():
            assert f"portctl/templates/{path.relative_to(templates)}" in names
    assert {"portctl/py.typed", "portctl/services.txt"} <= names
    (entries,) = (name for name in names if name.endswith("/entry_points.txt"))
    assert "[pytest11]\nportctl = portctl.pytest_plugin" in zipfile.ZipFile(wheel).read(entries).decode()
