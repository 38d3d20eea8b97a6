"""The decoder: its size, its causality to the bit, and that building it draws no global randomness."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from forge.config import ModelConfig, load_config
from forge.config.check import parameter_count
from forge.models.decoder import Decoder, body_linears, parameter_roles
from forge.models.layers import RMSNorm, rotary_table, rotate

PICO = ModelConfig(vocab_size=260, d_model=32, n_layers=3, n_heads=4, d_ff=48, max_seq_len=24)


def pico(seed: int = 0, **changes: object) -> Decoder:
    config = PICO.model_copy(update=changes)
    return Decoder(config).initialise(torch.Generator().manual_seed(seed))


def tokens(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(PICO.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("preset", "count"), [("tiny", 1_117_568), ("25m", 24_997_265), ("25m-plain", 24_660_480)]
)
def test_a_preset_has_the_parameters_that_the_configuration_promises(preset: str, count: int) -> None:
    config = load_config(preset)
    with torch.device("meta"):
        model = Decoder(config.model)
    assert sum(p.numel() for p in model.parameters()) == parameter_count(config) == count


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("sub_norm", [True, False])
def test_optional_norms_are_counted(qk_norm: bool, sub_norm: bool) -> None:
    config = load_config("tiny", [f"model.qk_norm={qk_norm}", f"model.sub_norm={sub_norm}"])
    assert sum(p.numel() for p in Decoder(config.model).parameters()) == parameter_count(config)


def test_building_and_initialising_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    pico()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_gives_the_same_weights_and_another_seed_others() -> None:
    a, b, c = pico(7).state_dict(), pico(7).state_dict(), pico(8).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["embedding.weight"], c["embedding.weight"])


def test_residual_outputs_start_smaller() -> None:
    state = Decoder(PICO.model_copy(update={"d_model": 128, "d_ff": 256}))
    weights = state.initialise(torch.Generator().manual_seed(0)).state_dict()
    assert weights["blocks.0.attn.q.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert weights["blocks.0.attn.o.weight"].std() == pytest.approx(0.02 / 6**0.5, rel=0.05)
    assert weights["blocks.2.ffn.down.weight"].std() == pytest.approx(0.02 / 6**0.5, rel=0.05)


@pytest.mark.parametrize("window", [None, 1, 3, 24, 100])
def test_a_future_token_moves_no_earlier_logit(window: int | None) -> None:
    model, text = pico(window=window), tokens(1, 2, 24)
    before = model(text)
    for position in (1, 11, 23):
        changed = text.clone()
        changed[:, position] = (changed[:, position] + 1) % PICO.vocab_size
        after = model(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        assert not torch.equal(after[:, position], before[:, position])


@pytest.mark.parametrize("window", [1, 2, 4])
def test_influence_ends_exactly_at_layers_times_window_less_one(window: int) -> None:
    model, text = pico(window=window), tokens(2, 1, 24)
    before, reach = model(text)[0], PICO.n_layers * (window - 1)
    changed = text.clone()
    changed[:, 3] = (changed[:, 3] + 1) % PICO.vocab_size
    moved = (model(changed)[0] != before).any(dim=-1)
    assert moved[3 : 3 + reach + 1].all()
    assert not moved[3 + reach + 1 :].any()


def test_a_window_as_long_as_the_text_is_full_attention() -> None:
    text = tokens(3, 2, 24)
    torch.testing.assert_close(pico(window=23)(text[:, :23]), pico()(text[:, :23]))


def test_loss_is_the_cross_entropy_of_the_logits_in_every_reduction() -> None:
    model, x, y = pico(), tokens(4, 2, 9), tokens(5, 2, 9)
    each = model.loss(x, y, reduction="none")
    want = -torch.log_softmax(model(x), -1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(each, want)
    torch.testing.assert_close(model.loss(x, y), want.mean())
    torch.testing.assert_close(model.loss(x, y, reduction="sum"), want.sum())


def test_bf16_autocast_is_close_to_fp32_and_its_loss_is_fp32() -> None:
    model, x, y = pico(), tokens(4, 2, 9), tokens(5, 2, 9)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(x, y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, model.loss(x, y), rtol=5e-3, atol=0)


def test_rms_norm_is_torchs() -> None:
    norm, x = RMSNorm(16, 1e-5), torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    torch.nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(norm(x), F.rms_norm(x, (16,), norm.weight, 1e-5))


def test_rotation_keeps_length_and_depends_on_distance_only() -> None:
    cos, sin = rotary_table(32, 8, 10_000.0)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0)).unbind(0)

    def turn(x: torch.Tensor, at: int) -> torch.Tensor:
        return rotate(x, cos[at : at + 1], sin[at : at + 1])

    torch.testing.assert_close(turn(q, 9).norm(), q.norm())
    near, far = (turn(q, 5) * turn(k, 2)).sum(), (turn(q, 25) * turn(k, 22)).sum()
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-5)
    assert not torch.isclose(near, (turn(q, 5) * turn(k, 3)).sum())


def test_every_parameter_has_a_role_and_the_body_is_the_hidden_matrices() -> None:
    model = pico()
    roles = parameter_roles(model)
    assert set(roles) == {name for name, _ in model.named_parameters()}
    assert [name for name, role in roles.items() if role == "embedding"] == ["embedding.weight"]
    hidden = {name for name, role in roles.items() if role == "hidden"}
    assert hidden == {f"{name}.weight" for name in body_linears(model)}
    assert len(hidden) == 7 * PICO.n_layers
    assert "other" not in roles.values()


def test_a_cache_gives_the_logits_of_the_whole_text() -> None:
    for window in (None, 3):
        model, text = pico(window=window), tokens(6, 1, 12)
        cache = model.new_cache()
        parts = [model(text[:, :5], cache)] + [model(text[:, i : i + 1], cache) for i in range(5, 12)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(text))


def test_text_longer_than_the_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="25 tokens; this model's positions end at 24"):
        pico()(tokens(0, 1, 25))
