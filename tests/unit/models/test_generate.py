"""Generation: reproducible, windowed, and invisible to whatever else runs in the process."""

from __future__ import annotations

import pytest
import torch

from forge.config import ModelConfig
from forge.errors import ConfigError, TrainingError
from forge.models.decoder import Decoder
from forge.models.generate import generate

PICO = ModelConfig(vocab_size=260, d_model=32, n_layers=2, n_heads=2, d_ff=48, max_seq_len=16)


@pytest.fixture
def model() -> Decoder:
    model = Decoder(PICO).initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.embedding.weight.mul_(20)  # a peaked distribution, so that temperature matters
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_greedy_text_is_the_argmax_of_the_whole_text_each_time(model: Decoder) -> None:
    got = list(generate(model, [1, 2, 3], 8, seeded(), temperature=0.0))
    text = [1, 2, 3]
    for _ in range(8):
        text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    assert got == text[3:]


def test_a_seed_gives_the_same_text_and_top_1_is_greedy(model: Decoder) -> None:
    a, b = (list(generate(model, [5], 12, seeded(3), temperature=1.5)) for _ in range(2))
    assert a == b
    assert a != list(generate(model, [5], 12, seeded(4), temperature=1.5))
    greedy = list(generate(model, [5], 12, seeded(), temperature=0.0))
    assert list(generate(model, [5], 12, seeded(), temperature=1.5, top_k=1)) == greedy


def test_text_goes_on_past_the_last_position(model: Decoder) -> None:
    assert len(list(generate(model, list(range(40)), 50, seeded()))) == 50


def test_it_ends_after_the_end_token(model: Decoder) -> None:
    first = next(generate(model, [1, 2, 3], 1, seeded(), temperature=0.0))
    assert list(generate(model, [1, 2, 3], 9, seeded(), temperature=0.0, eos_id=first)) == [first]


def test_nothing_global_moves_between_tokens(model: Decoder) -> None:
    model.train()
    state = torch.get_rng_state()
    for _ in generate(model, [1], 4, seeded()):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    model.loss(
        torch.tensor([[1, 2]]), torch.tensor([[2, 3]])
    ).backward()  # no inference tensor was left behind


def test_nan_weights_are_a_clear_error(model: Decoder) -> None:
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="logits are NaN"):
        next(generate(model, [1], 1, seeded()))


@pytest.mark.parametrize(
    ("prompt", "temperature", "top_k", "says"),
    [([], 1.0, None, "empty"), ([260], 1.0, None, "260"), ([1], -1.0, None, "-1"), ([1], 1.0, 0, "top_k 0")],
)
def test_senseless_requests_are_refused(
    model: Decoder, prompt: list[int], temperature: float, top_k: int | None, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        next(generate(model, prompt, 1, seeded(), temperature=temperature, top_k=top_k))
