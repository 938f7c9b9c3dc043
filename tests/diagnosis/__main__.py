"""`python -m tests.diagnosis [PAGE]`: measure the diagnosis and write `docs/diagnosis-measured.md`, or PAGE."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from tests.diagnosis.measure import measure, page

DEFAULT = Path(__file__).parents[2] / "docs" / "diagnosis-measured.md"


def main() -> None:
    """Measure, write the page and print its first table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        text = page(measure(Path(folder)))
    Path(sys.argv[1] if len(sys.argv) > 1 else DEFAULT).write_text(text)
    print(text.partition("## ")[0])


if __name__ == "__main__":
    main()
