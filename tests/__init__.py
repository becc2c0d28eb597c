"""Tests. Where there is no GPU, Triton's kernels run under its interpreter, on CPU tensors.

Triton decides when it is first imported, and transformers imports it: so the choice stands here, before all else.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
