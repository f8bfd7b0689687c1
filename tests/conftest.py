"""Set-up that every test shares."""

from __future__ import annotations

import os

import torch

# As in the worker processes of Flower's engine: results depend on the number of threads in their
# last bits, and several processes with all threads each slow one another down.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
