"""Text generation, one token at a time, safe beside a training run in the same process.

Nothing global is touched: randomness comes from the caller's generator, inference mode is left before
a token is handed out, and the module's mode stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from forge.errors import ConfigError, TrainingError
from forge.models.decoder import Decoder, KVCache


def generate(
    model: Decoder,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    generator: torch.Generator,
    temperature: float = 0.8,
    top_k: int | None = 50,
    eos_id: int | None = None,
) -> Iterator[int]:
    """Yield up to `max_new_tokens` ids that continue the prompt; ends after `eos_id`.

    Temperature 0 takes the likeliest token. Past `max_seq_len` the older half of the text is forgotten.

    Raises:
        ConfigError: an empty prompt, an id outside the vocabulary, or a setting that makes no sense.
        TrainingError: the model's logits are NaN.
    """
    _check(model, prompt_ids, temperature, top_k)
    limit = model.config.max_seq_len
    text = list(prompt_ids)
    fresh, cache = text[-limit:], model.new_cache()
    for _ in range(max_new_tokens):
        if cache.length + len(fresh) > limit:
            fresh, cache = text[-max(1, limit // 2) :], model.new_cache()
        token = _sample(_last_logits(model, fresh, cache), generator, temperature, top_k)
        text.append(token)
        fresh = [token]
        yield token
        if token == eos_id:
            return


@torch.inference_mode()
def _last_logits(model: Decoder, tokens: Sequence[int], cache: KVCache) -> Tensor:
    """Logits (V) after the last token, on the CPU in fp32."""
    device = model.embedding.weight.device
    logits: Tensor = model(torch.tensor([tokens], device=device), cache)
    last = logits[0, -1].float().cpu()
    if bool(torch.isnan(last).any()):
        raise TrainingError(
            "the model's logits are NaN: its weights are damaged or its training diverged; "
            "use an earlier checkpoint"
        )
    return last


def _sample(logits: Tensor, generator: torch.Generator, temperature: float, top_k: int | None) -> int:
    if temperature == 0.0:
        return int(logits.argmax())
    if top_k is not None and top_k < len(logits):
        least = logits.topk(top_k).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    chances = torch.softmax(logits / temperature, dim=-1).to(generator.device)
    return int(torch.multinomial(chances, 1, generator=generator))


def _check(model: Decoder, prompt_ids: Sequence[int], temperature: float, top_k: int | None) -> None:
    size = model.config.vocab_size
    if not prompt_ids:
        raise ConfigError("the prompt is empty; give at least one token to continue")
    outside = [token for token in prompt_ids if not 0 <= token < size]
    if outside:
        raise ConfigError(
            f"token {outside[0]} is outside this model's vocabulary of {size}; wrong tokenizer?"
        )
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ConfigError(
            f"temperature {temperature} and top_k {top_k}: need temperature >= 0 and top_k >= 1"
        )
