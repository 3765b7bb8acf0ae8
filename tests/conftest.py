"""Shared by all tests: one torch thread (the machine's cores are for pytest's own processes), the test folder on the path."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
