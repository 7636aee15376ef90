"""From logits to the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def make_generator(seed: int | None, device: torch.device) -> torch.Generator:
    """A request's own source of chance: what other requests do does not change its draws."""
    import torch

    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed % 2**63)
    return generator


def next_token(logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Draw from one position's logits (`[vocabulary]`). Temperature 0 takes the likeliest.

    `top_p` keeps the smallest set of likeliest tokens whose probability reaches it (nucleus sampling, Holtzman et al. 2020): always at least one.
    """
    import torch

    if temperature == 0:
        return int(logits.argmax())
    scores = logits.float()
    probabilities = torch.softmax((scores - scores.max()) / temperature, dim=-1)  # the maximum off first: a tiny temperature must not overflow
    if top_p < 1:
        ordered, ids = probabilities.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0
        return int(ids[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(probabilities, 1, generator=generator))
