"""The bank: K LoRA pairs for each site, from which a code makes one."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dpg_fast.architecture.sites import Site
from dpg_fast.hypernet.config import sort_sites
from dpg_fast.util.errors import DPGError

__all__ = ["LoraBank"]


def _encode(name: str) -> str:
    # Parameter names may not contain dots; site names may not contain slashes.
    return name.replace(".", "/")


class _Entries(nn.ParameterDict):
    def extra_repr(self) -> str:
        # One line instead of one for each of the model's layers.
        return f"{len(self)} parameters"


class LoraBank(nn.Module):
    """`A(z) = sum_k a_k A_k` and `B(z) = sum_k b_k B_k` for every site.

    Parameters are float32 masters, one pair for each site: A [K, r, in_features] and B [K, r, out_features].
    In the state dict they are `lora_A.<site>` and `lora_B.<site>`, the site's dots written as slashes:
    `lora_A.model/layers/0/self_attn/q_proj`.

    B starts at zero, so every adapter starts as no change at all. A starts as PEFT starts lora_A (uniform,
    variance 1 / (3 * in_features)), divided by sqrt(`code_power`), which keeps that variance for A(z).

    Args:
        sites: the adapted layers; kept in the order of `sort_sites`.
        rank: r.
        codes: K.
        code_power: mean of sum_k a_k**2 over the codes to come (1 for one-hot codes).

    Raises:
        ValueError: no sites, or a site given twice.
    """

    def __init__(self, sites: Iterable[Site], rank: int, codes: int, code_power: float = 1.0) -> None:
        super().__init__()
        self.sites = sort_sites(sites)
        if not self.sites:
            raise DPGError("a bank needs at least one site")
        self.rank = rank
        self.num_codes = codes
        self.code_power = code_power
        self.lora_A = _Entries()
        self.lora_B = _Entries()
        for site in self.sites:
            key = _encode(site.name)
            self.lora_A[key] = nn.Parameter(torch.empty(codes, rank, site.in_features, dtype=torch.float32))
            self.lora_B[key] = nn.Parameter(torch.empty(codes, rank, site.out_features, dtype=torch.float32))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start again: random A, zero B."""
        for site in self.sites:
            bound = 1.0 / math.sqrt(site.in_features * self.code_power)
            nn.init.uniform_(self.A(site), -bound, bound)
            nn.init.zeros_(self.B(site))

    @torch.no_grad()
    def randomize_(self, generator: torch.Generator | None = None, std: float = 0.02) -> LoraBank:
        """Fill B with normal numbers of deviation `std` (for tests and benchmarks).

        The draws are made on the generator's device (CPU without one), site by site in order.
        """
        device = generator.device if generator is not None else torch.device("cpu")
        for site in self.sites:
            b = self.B(site)
            draws = torch.randn(b.shape, generator=generator, device=device, dtype=torch.float32)
            b.copy_(draws * std)
        return self

    def A(self, site: Site | str) -> nn.Parameter:
        """The site's A entries: Parameter [K, r, in_features]."""
        return self._of(self.lora_A, site)

    def B(self, site: Site | str) -> nn.Parameter:
        """The site's B entries: Parameter [K, r, out_features]."""
        return self._of(self.lora_B, site)

    def _of(self, parameters: nn.ParameterDict, site: Site | str) -> nn.Parameter:
        name = site if isinstance(site, str) else site.name
        key = _encode(name)
        if key not in parameters:
            kinds = ", ".join(dict.fromkeys(s.kind for s in self.sites))
            raise KeyError(f"no site {name!r} in the bank; it has {len(self.sites)} sites of the kinds {kinds}")
        found: nn.Parameter = parameters[key]
        return found

    def materialise(self, code_a: Tensor, code_b: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The LoRA pair of one code, for every site (the scale alpha / r is not applied).

        Args:
            code_a, code_b: [K], on the bank's device.

        Returns:
            Site name -> (A [r, in_features], B [out_features, r]), contiguous, in the bank's dtype.
        """
        for name, code in (("code_a", code_a), ("code_b", code_b)):
            if code.shape != (self.num_codes,):
                raise DPGError(f"{name} must have shape [{self.num_codes}], not {list(code.shape)}")
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for site in self.sites:
            a, b = self.A(site), self.B(site)
            pairs[site.name] = (
                torch.einsum("k,krd->rd", code_a.to(a.dtype), a).contiguous(),
                torch.einsum("k,kro->or", code_b.to(b.dtype), b).contiguous(),
            )
        return pairs

    def materialise_all(
        self,
        codes_a: Tensor,
        codes_b: Tensor,
        dtype: torch.dtype | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """The LoRA pairs of N codes, for every site. Differentiable.

        Args:
            codes_a, codes_b: [N, K].
            dtype: of the result; the bank's by default.

        Returns:
            Site name -> (A [N, r, in_features], B [N, r, out_features]), contiguous.
        """
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for site in self.sites:
            a, b = self.A(site), self.B(site)
            made = [
                (code.to(w.dtype) @ w.flatten(1)).unflatten(1, w.shape[1:]) for code, w in ((codes_a, a), (codes_b, b))
            ]
            pairs[site.name] = (made[0].to(dtype or a.dtype), made[1].to(dtype or b.dtype))
        return pairs

    def extra_repr(self) -> str:
        return f"sites={len(self.sites)}, rank={self.rank}, codes={self.num_codes}"
