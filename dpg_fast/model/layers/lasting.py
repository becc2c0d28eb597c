"""For tensors that are kept from one call to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def lasting() -> Iterator[None]:
    """Tensors made inside are normal ones without gradients, also when the caller is in ``torch.inference_mode()``, whose own
    tensors could never take part in training again.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield
