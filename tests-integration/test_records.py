"""The generated pages say what the committed records say."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_claims_and_benchmarks_pages_equal_their_records() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "docs" / "render.py", "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
