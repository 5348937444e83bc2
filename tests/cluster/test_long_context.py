import json
from pathlib import Path

import pytest

from .readme_commands import run, shown


@pytest.mark.slow
def test_readme_long_context(tmp_path: Path) -> None:
    done = run(shown("Long context"), tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[0])
    assert 4096 < answer["prompt_tokens"] < 8192
    assert answer["error"] is None
    assert answer["completion_tokens"] == 4
    assert "8.4 MB for a sequence of 8,192 tokens, 50 % less than without sliding" in done.stdout
