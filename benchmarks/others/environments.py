"""Virtual environments of their own for peers whose pins exclude Swathe's: build/peers/NAME, made at their first use.

What they need and this environment has (torch, NumPy, pandas, Hydra ...) is not installed a second time: a `.pth` file
puts this environment's packages behind their own on the search path, so that all peers train with the very same torch.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

PEERS = Path(__file__).resolve().parents[2] / "build" / "peers"
# All that is not in this environment, with exact versions. Syne Tune also asks for xgboost, some 400 MB, which only its
# simulated benchmarks import.
PACKAGES: Mapping[str, Sequence[str]] = {
    "hydra-optuna-sweeper": ("hydra-optuna-sweeper==1.3.0", "hydra-joblib-launcher==1.2.0", "optuna==2.10.1"),
    "syne-tune": ("syne-tune==0.16.0", "dill==0.4.1", "statsmodels==0.15.0", "patsy==1.0.3"),
}


def python(name: str) -> Path:
    """Return the interpreter of a peer's environment, which is made if need be; ends the script if it cannot be."""
    folder = PEERS / name
    interpreter = folder / "bin" / "python"
    made = folder / "made"
    wanted = "\n".join(PACKAGES[name])
    if made.exists() and made.read_text() == wanted:
        return interpreter
    _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    shared = sysconfig.get_paths()["purelib"]
    (folder / "lib" / version / "site-packages" / "shared.pth").write_text(f"{shared}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--quiet", "--no-deps"]
    _run([*pip, *PACKAGES[name]])
    made.write_text(wanted)
    return interpreter


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[1:4])} ended with {done.returncode}:\n{done.stderr[-2000:]}")
