"""Whether the compiled kernels can be tested here."""

import pytest
import torch

from model.kernels.native import why_not

OBSTACLE = why_not(torch.device("cpu"), torch.bfloat16)
needs_native = pytest.mark.skipif(OBSTACLE is not None, reason=OBSTACLE or "")
