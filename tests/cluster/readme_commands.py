"""The commands that the README's table shows, run as they are written, by a shell."""

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SECTION = "## What Gemma 2's documentation promises"


def shown(row: str) -> str:
    """Give the command of the row of this name."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    table = text.partition(f"{SECTION}\n")[2].partition("\n## ")[0]
    (command,) = re.findall(rf"(?m)^\| {re.escape(row)} \| `(.+?)` \|", table)
    return command.replace(r"\|", "|")


def run(command: str, folder: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder from which the repository's examples are seen."""
    examples = folder / "examples"
    if not examples.exists():
        examples.symlink_to(REPOSITORY / "examples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
