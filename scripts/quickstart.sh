#!/usr/bin/env bash
# The main job on real data: sweeps digits, then Fashion-MNIST where it is found; `make quickstart` installs first.
# Runs again without harm: a finished sweep is only shown.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

swathe launch quickstart

echo
if why=$(
    python - 2>&1 <<'PYTHON'
import sys

from swathe.errors import BadInputError
from swathe.training import data, recipe

try:
    data.find(recipe.DATASETS["fashion_mnist"](name="fashion_mnist"))
except BadInputError as error:
    sys.exit(str(error))
PYTHON
); then
    swathe launch quickstart_fashion
else
    echo "Fashion-MNIST is left out: $why"
fi

echo
echo "To use these commands in this shell: source .venv/bin/activate"
