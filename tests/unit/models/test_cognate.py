"""The Cognate decoder as a whole: causal to the bit, text by text, the same in every way to compute it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from forge.config import MemoryConfig, ModelConfig, RecursionConfig, TrainingConfig, load_config
from forge.config.check import parameter_count
from forge.models.attention import Attention
from forge.models.decoder import Block, Decoder, body_linears, parameter_roles
from forge.models.generate import generate
from forge.models.memory import MagGate
from forge.models.scan import MemoryState, Tokens, remember
from forge.optim.trainer import Trainer
from forge.quant.linear import QuantizedLinearSTE, to_ternary

END = 7
MEMORY = MemoryConfig(depth=1, n_heads=2, chunk=4)
RECURSION = RecursionConfig(cycles=2, latent_steps=1, supervision=2, halting="ponder")
ONE_CYCLE = RecursionConfig(latent_steps=1, supervision=2, halting="correctness")
PICO = ModelConfig(
    vocab_size=260, d_model=32, n_layers=2, n_heads=4, d_ff=48, max_seq_len=40, window=5,
    persistent_tokens=3, memory=MEMORY,
)  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"memory": None, "persistent_tokens": 0, "window": None},
    "prefix": {"memory": None, "window": None},
    "mag": {},
    "mag-2": {"memory": MemoryConfig(depth=2, n_heads=2, chunk=4)},
    "every-2": {"memory": MemoryConfig(depth=1, n_heads=2, chunk=4, every=2)},
    "no-window": {"window": None},
    "recursion": {"recursion": RECURSION, "n_layers": 1},
    "documents": {"document_end": END},
    "all": {"recursion": ONE_CYCLE, "document_end": END, "memory": MemoryConfig(depth=2, n_heads=2, chunk=6)},
}


def pico(shape: str = "mag", seed: int = 0, **changes: object) -> Decoder:
    """Weights larger than usual, so that every path matters."""
    generator = torch.Generator().manual_seed(seed)
    model = Decoder(PICO.model_copy(update={**SHAPES[shape], **changes})).initialise(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter_roles(model)[name] in ("hidden", "embedding"):
                parameter.mul_(6)
            if parameter_roles(model)[name] == "memory":
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def text(seed: int, *shape: int, ends: bool = True) -> Tensor:
    tokens = torch.randint(8, 260, shape, generator=torch.Generator().manual_seed(seed))
    if ends:
        tokens[:, [place for place in (4, 13, 20) if place < shape[1]]] = END
    return tokens


def first_block(model: Decoder) -> Block:
    block = model.blocks[0]
    assert isinstance(block, Block)
    return block


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_future_token_moves_no_earlier_logit(shape: str) -> None:
    model, tokens = pico(shape), text(1, 2, 30)
    before = model(tokens)
    for position in (0, 9, 29):
        changed = tokens.clone()
        changed[:, position] = (changed[:, position] + 1) % PICO.vocab_size
        after = model(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        assert not torch.equal(after[:, position], before[:, position])


def test_a_window_to_both_sides_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what the specification asks for, 2 tokens to each side."""

    def attend(self: Attention, x: Tensor, span: object, cache: object) -> Tensor:
        heads = (*x.shape[:2], self.n_heads, -1)
        q, k, v = (part(x).view(heads).transpose(1, 2) for part in (self.q, self.k, self.v))
        at = torch.arange(x.shape[1])
        mask = (at[:, None] - at).abs() <= 2
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    monkeypatch.setattr(Attention, "_attend", attend)
    with pytest.raises(AssertionError):
        test_a_future_token_moves_no_earlier_logit("mag")


@pytest.mark.parametrize("shape", SHAPES)
def test_the_order_of_a_batch_does_not_matter(shape: str) -> None:
    model, tokens = pico(shape), text(2, 4, 22)
    order = torch.tensor([3, 1, 0, 2])
    close(model(tokens[order]), model(tokens)[order])
    close(model(tokens[2:3]), model(tokens)[2:3])


@pytest.mark.parametrize("shape", ["documents", "all"])
def test_nothing_crosses_the_end_of_a_document(shape: str) -> None:
    model, tokens = pico(shape), text(3, 2, 30)
    before = model(tokens)
    changed = tokens.clone()
    changed[:, :13] = (changed[:, :13] + 9) % 250 + 8  # the end at 13 stays, earlier ones go
    after = model(changed)
    assert not torch.equal(after[:, :14], before[:, :14])
    close(after[:, 14:], before[:, 14:])


def test_without_a_border_a_memory_does_cross_it() -> None:
    """The control: the same text in a model that is not told of documents."""
    model, tokens = pico("mag"), text(3, 2, 30)
    changed = tokens.clone()
    changed[:, 0] += 1
    assert (model(changed)[:, 25:] - model(tokens)[:, 25:]).abs().max() > 1e-3


@pytest.mark.parametrize("shape", ["documents", "all"])
def test_a_document_in_a_sequence_is_the_document_alone(shape: str) -> None:
    """From a chunk's start: where the chunks end within a document is part of the definition."""
    model, tokens = pico(shape), text(4, 2, 24, ends=False)
    tokens[:, 11] = END
    close(model(tokens)[:, 12:], model(tokens[:, 12:]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("prompt", [3, 16])
def test_token_by_token_gives_the_logits_of_the_whole_text(shape: str, prompt: int) -> None:
    model, tokens = pico(shape), text(5, 2, 24)
    cache = model.new_cache()
    parts = [model(tokens[:, :prompt], cache)]
    parts += [model(tokens[:, i : i + 1], cache) for i in range(prompt, 24)]
    close(torch.cat(parts, dim=1), model(tokens))


@pytest.mark.parametrize("shape", ["mag", "all"])
def test_generation_is_the_argmax_of_the_whole_text_each_time(shape: str) -> None:
    model, prompt = pico(shape), text(6, 1, 9)[0].tolist()
    got = list(generate(model, prompt, 6, torch.Generator().manual_seed(0), temperature=0.0))
    want = list(prompt)
    for _ in range(6):
        want.append(int(model(torch.tensor([want]))[0, -1].argmax()))
    assert got == want[9:]


def sees(config: ModelConfig, tokens: Tensor, query: int, key: int) -> bool:
    """Attention's rule, said once more."""
    window = config.window or 1000
    between = [] if config.document_end is None else tokens[key:query].tolist()
    return query - window < key <= query and config.document_end not in between


@pytest.mark.parametrize("length", [4, 11, 24, 30])
@pytest.mark.parametrize("changes", [{}, {"document_end": END}, {"window": None}, {"persistent_tokens": 0}])
def test_attention_is_the_loop_over_pairs(length: int, changes: dict[str, Any]) -> None:
    """Blocks (from 11 tokens on), borders and prefix against one query and one key at a time."""
    model = pico("mag", qk_norm=False, n_layers=1, **changes)
    tokens = text(7, 1, 30)[:, :length]
    block = first_block(model)
    attention, found = block.attn, []
    attention.memory = attention.gate = None
    attention.attn_sub_norm = torch.nn.Identity()
    attention.o.register_forward_hook(lambda module, inputs, out: found.append(inputs[0]))
    model(tokens)
    x = block.attn_norm(model.embedding(tokens))[0]
    prefix = [] if attention.persistent is None else list(attention.persistent.weight)
    for head in range(4):
        rows = slice(8 * head, 8 * head + 8)
        wq, wk, wv = (part.weight[rows] for part in (attention.q, attention.k, attention.v))
        for t in range(length):
            keys, values = [wk @ p for p in prefix], [wv @ p for p in prefix]
            for s in range(length):
                if sees(model.config, tokens[0], t, s):
                    keys.append(turned(wk @ x[s], place(model.config, tokens, s)))
                    values.append(wv @ x[s])
            query = turned(wq @ x[t], place(model.config, tokens, t))
            scores = torch.stack([query @ key / 8**0.5 for key in keys])
            want = torch.softmax(scores, 0) @ torch.stack(values)
            close(found[0][0, t, rows], want)


def place(config: ModelConfig, tokens: Tensor, t: int) -> int:
    """How many tokens of its document stand before token t."""
    before = tokens[0, :t].tolist()
    return t if config.document_end not in before else before[::-1].index(config.document_end)


def turned(x: Tensor, position: int) -> Tensor:
    """Rotary position of one vector of 8, as four complex numbers."""
    angle = position * 10_000.0 ** (-torch.arange(4) / 4)
    a, b = x[:4], x[4:]
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()))


def test_the_gate_is_its_formula_and_an_empty_memory_halves_attention() -> None:
    gate = MagGate(8, 1e-5)
    generator = torch.Generator().manual_seed(0)
    for parameter in gate.parameters():
        torch.nn.init.uniform_(parameter, generator=generator)
    a, m = (torch.randn(2, 3, 8, generator=generator) for _ in range(2))
    want = torch.empty_like(a)
    for place in [(b, t) for b in range(2) for t in range(3)]:
        for i in range(8):
            na = a[place][i] / (a[place].square().mean() + 1e-5).sqrt() * gate.attention_norm.weight[i]
            nm = m[place][i] / (m[place].square().mean() + 1e-5).sqrt() * gate.memory_norm.weight[i]
            want[place][i] = na / (1 + torch.exp(-nm))
    close(gate(a, m), want)
    close(gate(a, torch.zeros_like(m)), 0.5 * gate.attention_norm(a))


def test_the_memory_writes_projections_of_the_last_tokens_at_unit_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Convolution, SiLU, unit length and rates against one token at a time."""
    model = pico("mag", n_layers=1)
    memory = first_block(model).attn.memory
    assert memory is not None
    x = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(3))
    seen: list[Tokens] = []

    def keep(tokens: Tokens, *rest: Any) -> tuple[Tensor, MemoryState]:
        seen.append(tokens)
        return remember(tokens, *rest)

    monkeypatch.setattr("forge.models.memory.remember", keep)
    memory(x, None, None)
    (tokens,) = seen
    for t in range(6):
        for kind, (part, offset) in {"q": (memory.q, 0), "k": (memory.k, 32), "v": (memory.v, 64)}.items():
            mixed = sum(
                memory.conv.weight[offset : offset + 32, back] * (part.weight @ x[0, t - back])
                for back in range(min(4, t + 1))
            )
            assert isinstance(mixed, Tensor)
            want = (mixed * torch.sigmoid(mixed)).view(2, 16)
            want = want if kind == "v" else want / want.norm(dim=-1, keepdim=True)
            close(getattr(tokens, kind)[0, :, t], want)
        forget, momentum, rate = (memory.rates.weight @ x[0, t] + memory.rates.bias).view(3, 2)
        close(tokens.log_keep[0, :, t].exp(), 1 - torch.sigmoid(forget))
        close(tokens.log_eta[0, :, t].exp(), torch.sigmoid(momentum))
        close(tokens.theta[0, :, t], torch.sigmoid(rate))


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_those_that_the_configuration_promises_and_each_has_a_role(shape: str) -> None:
    model = pico(shape)
    config = load_config("tiny").model_copy(update={"model": model.config})
    assert sum(p.numel() for p in model.parameters()) == parameter_count(config)
    roles = parameter_roles(model)
    assert roles.keys() == {name for name, _ in model.named_parameters()}
    assert "other" not in roles.values()
    assert {name for name, role in roles.items() if role == "hidden"} == {
        f"{name}.weight" for name in body_linears(model)
    }


def test_every_parameter_gets_a_gradient() -> None:
    model, tokens = pico("all"), text(8, 2, 25)
    model.training_loss(tokens[:, :-1], tokens[:, 1:]).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_the_memorys_projections_become_ternary_and_its_rates_do_not() -> None:
    model = pico("all")
    to_ternary(model)
    kinds = {name: type(module) for name, module in model.named_modules()}
    ternary = {name.split("attn.")[-1] for name, kind in kinds.items() if kind is QuantizedLinearSTE}
    assert {"memory.q", "memory.k", "memory.v", "q", "k", "v", "o"} <= ternary
    assert not any("rates" in name or "halting" in name for name in ternary)
    tokens = text(9, 2, 25)
    model.training_loss(tokens[:, :-1], tokens[:, 1:]).backward()
    memory = first_block(model).attn.memory
    assert memory is not None
    assert memory.rates.weight.grad is not None
    assert memory.rates.weight.grad.any()


def test_training_compiles_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, backend="eager", **options))
    training = TrainingConfig(batch_size=2, micro_batch=2, learning_rate=1e-2, qk_clip=50)
    tokens, losses = text(11, 2, 11), []
    for compiled in (False, True):
        config = PICO.model_copy(update={**SHAPES["documents"], "n_layers": 1})
        model = Decoder(config).initialise(torch.Generator().manual_seed(0))
        trainer = Trainer(model, training, torch.device("cpu"), compile=compiled)
        losses.append([trainer.train_step(step, tokens[:, :-1], tokens[:, 1:]).loss for step in range(2)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_bf16_autocast_is_close_to_fp32() -> None:
    model = Decoder(PICO).initialise(torch.Generator().manual_seed(0))
    tokens = text(10, 2, 25)
    want = model.training_loss(tokens[:, :-1], tokens[:, 1:])
    with torch.autocast("cpu", torch.bfloat16):
        got = model.training_loss(tokens[:, :-1], tokens[:, 1:])
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=1e-2, atol=0)


def test_the_cognate_preset_is_25_million() -> None:
    config = load_config("25m")
    assert config.model.memory is not None
    assert config.model.recursion is not None
    with torch.device("meta"):
        counted = sum(p.numel() for p in Decoder(config.model).parameters())
    assert 22.5e6 <= counted <= 27.5e6
    assert counted == parameter_count(config)
