"""Training in plain PyTorch, usable alone: recipes, their data and networks, alone (solo) or side by side (lanes)."""

import os

# Before MKL's first product: without it the last bits of a product depend on where in memory its factors begin, and so
# a trial's numbers on its lane. Bare products cost some 6 % more, a whole step no more than it varies.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
