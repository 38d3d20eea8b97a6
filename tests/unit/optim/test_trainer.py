"""The step: exact accumulation, exact resume, and what happens on NaN and out of memory."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from forge.config import GrokfastConfig, ModelConfig, TrainingConfig
from forge.errors import OutOfMemoryError
from forge.models.decoder import Decoder
from forge.optim.trainer import StepResult, Trainer
from forge.quant.linear import to_ternary

PICO = ModelConfig(vocab_size=260, d_model=32, n_layers=2, n_heads=2, d_ff=48, max_seq_len=16)
BASE = TrainingConfig(
    steps=20,
    batch_size=8,
    micro_batch=8,
    warmup_steps=2,
    learning_rate=1e-2,
    weight_decay_until=0.5,
)
CPU = torch.device("cpu")
EMA, MA = GrokfastConfig(kind="ema"), GrokfastConfig(kind="ma", window=3)


class Brittle(Decoder):
    """Runs out of memory above `room` sequences, and gives a NaN loss when told to."""

    room = 1000
    broken = False
    sizes: list[int]

    def loss(
        self, inputs: Tensor, targets: Tensor, reduction: Any = "mean", steps: int | None = None
    ) -> Tensor:
        self.sizes.append(len(inputs))
        if len(inputs) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        loss = super().loss(inputs, targets, reduction)
        return loss * float("nan") if self.broken else loss


class Short(Decoder):
    """Has memory for sequences of at most `longest` tokens, one at a time."""

    longest = 0

    def loss(
        self, inputs: Tensor, targets: Tensor, reduction: Any = "mean", steps: int | None = None
    ) -> Tensor:
        if len(inputs) > 1 or inputs.shape[1] > self.longest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().loss(inputs, targets, reduction)


def trainer(training: TrainingConfig = BASE, **options: Any) -> Trainer:
    model = Brittle(PICO)
    model.initialise(torch.Generator().manual_seed(0))
    model.sizes = []
    return Trainer(model, training, CPU, **options)


def batch(step: int, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    text = torch.randint(PICO.vocab_size, (size, 13), generator=generator)
    return text[:, :-1], text[:, 1:]


def train(trained: Trainer, start: int, end: int) -> list[StepResult]:
    return [trained.train_step(step, *batch(step)) for step in range(start, end)]


def brittle(trained: Trainer) -> Brittle:
    assert isinstance(trained.model, Brittle)
    return trained.model


def same(a: Any, b: Any) -> bool:
    """Nested states equal, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


ARMS = [
    pytest.param({"optimizer": "adamw"}, id="adamw"),
    pytest.param({"optimizer": "muon"}, id="muon"),
    pytest.param({"optimizer": "adamw", "grokfast": EMA}, id="ema"),
    pytest.param({"optimizer": "muon", "grokfast": MA}, id="muon-ma"),
    pytest.param({"optimizer": "muon", "grokfast": EMA, "qk_clip": 2.0}, id="muon-ema-clip"),
]


@pytest.mark.parametrize("changes", ARMS)
@pytest.mark.parametrize("cut", [1, 5])
def test_resuming_equals_never_having_stopped(changes: dict[str, Any], cut: int) -> None:
    training = BASE.model_copy(update=changes)
    straight = trainer(training)
    want = train(straight, 0, 9)
    first, second = trainer(training), trainer(training)
    got = train(first, 0, cut)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    got += train(second, cut, 9)
    assert got == want
    assert same(second.state_dict(), straight.state_dict())


def test_resume_through_the_ternary_layer_is_exact_and_depends_on_grokfasts_state() -> None:
    training = BASE.model_copy(update={"grokfast": EMA})
    finals = []
    for forget in (None, "nothing", "average"):
        one, other = trainer(training), trainer(training)
        for each in (one, other):
            to_ternary(each.model)
        train(one, 0, 4)
        state = copy.deepcopy(one.state_dict())
        if forget == "average":
            state["grokfast"]["average"] = {}
        if forget:
            other.load_state_dict(state)
            one = other
        train(one, 4, 8)
        finals.append(one.state_dict()["model"])
    assert same(finals[0], finals[1])
    assert not same(finals[0], finals[2])


def test_a_loaded_state_is_not_shared() -> None:
    first, second = (trainer(BASE.model_copy(update={"grokfast": EMA})) for _ in range(2))
    train(first, 0, 3)
    kept = copy.deepcopy(first.state_dict())
    second.load_state_dict(first.state_dict())
    train(second, 3, 6)
    assert same(first.state_dict(), kept)


@pytest.mark.parametrize("micro", [1, 2, 4, 3])
def test_micro_batches_do_not_change_the_gradient(micro: int) -> None:
    whole, parts = trainer(), trainer(BASE.model_copy(update={"micro_batch": micro}))
    a, b = train(whole, 0, 1)[0], train(parts, 0, 1)[0]
    assert sum(brittle(parts).sizes) == 8
    assert (b.loss, b.grad_norm) == pytest.approx((a.loss, a.grad_norm), rel=1e-5)


def test_the_result_reports_the_step() -> None:
    trained = trainer()
    x, y = batch(0)
    loss = Decoder.loss(trained.model, x, y)
    grads = torch.autograd.grad(loss, list(trained.model.parameters()))
    result = trained.train_step(0, x, y)
    assert result.loss == pytest.approx(loss.item())
    assert result.grad_norm == pytest.approx(float(torch.cat([g.flatten() for g in grads]).norm()), rel=1e-5)
    assert result.lr == pytest.approx(1e-2 / 3)
    assert (result.skipped, result.micro_batch) == (False, 8)
    assert all(p.grad is None for p in trained.model.parameters())


def test_grokfast_sees_the_clipped_gradient() -> None:
    trained = trainer(BASE.model_copy(update={"grokfast": EMA, "grad_clip": 1e-3}))
    result = train(trained, 0, 1)[0]
    averages = trained.state_dict()["grokfast"]["average"].values()
    norm = float(torch.cat([a.flatten() for a in averages]).norm())
    assert norm == pytest.approx(1e-3, rel=1e-3)
    assert result.grad_norm > 1e-2


def test_learning_rate_and_weight_decay_follow_the_schedule() -> None:
    trained = trainer()
    hidden = next(g for g in trained.optimizers.parts["adamw"].param_groups if g["weight_decay"] > 0)
    decays = []
    for step in range(12):
        trained.train_step(step, *batch(step))
        decays.append(hidden["weight_decay"])
    assert decays == [BASE.weight_decay] * 10 + [0.0] * 2


def test_before_step_runs_before_the_forward_pass() -> None:
    seen: list[tuple[int, int]] = []
    sizes: list[int] = []
    trained = trainer(before_step=lambda step: seen.append((step, len(sizes))))
    brittle(trained).sizes = sizes
    train(trained, 0, 3)
    assert seen == [(0, 0), (1, 1), (2, 2)]


def test_it_learns() -> None:
    trained, (x, y) = trainer(), batch(0)
    losses = [trained.train_step(step, x, y).loss for step in range(20)]
    assert losses[-1] < losses[0] - 1.0


# --- divergence


@pytest.mark.parametrize("changes", ARMS)
def test_a_nan_loss_changes_nothing_but_the_count(changes: dict[str, Any]) -> None:
    events: list[tuple[str, str]] = []
    training = BASE.model_copy(update=changes)
    trained = trainer(training, on_event=lambda *event: events.append(event))
    train(trained, 0, 4)
    before = copy.deepcopy(trained.state_dict())
    brittle(trained).broken = True
    result = train(trained, 4, 5)[0]
    assert result.skipped
    assert math.isnan(result.loss)
    after = trained.state_dict()
    assert all(same(after[key], before[key]) for key in ("model", "optimizers", "grokfast", "scaler"))
    assert trained.skipped_total == 1
    assert events == [("skipped", "step 4: loss nan, gradient norm nan; update skipped")]
    brittle(trained).broken = False
    assert not train(trained, 5, 6)[0].skipped


def test_an_infinite_gradient_of_a_finite_loss_is_skipped() -> None:
    trained = trainer()
    trained.model.norm.weight.register_hook(lambda grad: grad * float("inf"))
    before = copy.deepcopy(trained.state_dict()["model"])
    result = train(trained, 0, 1)[0]
    assert math.isfinite(result.loss)
    assert result.skipped
    assert same(trained.state_dict()["model"], before)


def test_skips_in_a_row_are_counted_and_a_good_step_resets_the_count() -> None:
    trained, counts = trainer(), []
    for step, broken in enumerate([True, True, False, True, True]):
        brittle(trained).broken = broken
        train(trained, step, step + 1)
        counts.append(trained.skipped_in_row)
    assert counts == [1, 2, 0, 1, 2]
    assert trained.skipped_total == 4
    other = trainer()
    other.load_state_dict(trained.state_dict())
    assert other.skipped_in_row == 2


def test_slowed_down_every_learning_rate_is_lower_and_nothing_else_changes() -> None:
    training = BASE.model_copy(update={"optimizer": "muon", "rollback_lr_factor": 0.25})
    slow, lower = (
        trainer(training),
        trainer(
            training.model_copy(
                update={
                    "learning_rate": training.learning_rate / 16,
                    "muon_learning_rate": training.muon_learning_rate / 16,
                }
            )
        ),
    )
    slow.slow_down(2)
    assert train(slow, 0, 4) == train(lower, 0, 4)
    assert same(slow.state_dict()["model"], lower.state_dict()["model"])
    slow.slow_down(0)
    assert slow.train_step(4, *batch(4)).lr == training.learning_rate


# --- out of memory


def test_out_of_memory_halves_the_micro_batch_and_repeats_the_same_batch() -> None:
    events: list[tuple[str, str]] = []
    whole = trainer(BASE.model_copy(update={"micro_batch": 2}))
    tight = trainer(on_event=lambda *event: events.append(event))
    brittle(tight).room = 2
    want, got = train(whole, 0, 3), train(tight, 0, 3)
    assert got == want
    assert same(tight.state_dict(), whole.state_dict())
    assert [kind for kind, _ in events] == ["oom"] * 2
    assert "no memory for micro-batch 8; goes on with 4, the batch stays 8" in events[0][1]
    assert brittle(tight).sizes[:2] == [8, 4]
    assert set(brittle(tight).sizes[2:]) == {2}


def test_half_done_gradients_are_dropped_before_the_retry() -> None:
    training = BASE.model_copy(update={"micro_batch": 4})
    whole, failing = trainer(BASE.model_copy(update={"micro_batch": 2})), trainer(training)
    model = brittle(failing)
    calls = model.sizes

    def shrink_room(*_: Any) -> None:
        model.room = 2  # the first forward pass fits, the second does not

    model.register_forward_pre_hook(shrink_room)
    assert train(failing, 0, 1) == train(whole, 0, 1)
    assert calls[:3] == [4, 4, 2]


def test_halving_keeps_to_divisors_of_the_batch() -> None:
    training = BASE.model_copy(update={"batch_size": 9, "micro_batch": 9})
    trained = trainer(training)
    brittle(trained).room = 3
    trained.train_step(0, *batch(0, 9))
    assert brittle(trained).sizes == [9, 3, 3, 3]


def test_out_of_memory_with_one_sequence_fails_with_what_was_tried() -> None:
    trained = trainer()
    brittle(trained).room = 0
    with pytest.raises(OutOfMemoryError) as caught:
        train(trained, 0, 1)
    assert str(caught.value) == (
        "out of memory on cpu with micro-batch 8, 4, 2, 1 of a batch of 8 sequences of 12 tokens. "
        "Not even a short sequence fits: take a smaller model."
    )
    assert brittle(trained).sizes == [8, 4, 2, 1]


@pytest.mark.parametrize(("longest", "fits"), [(40, 32), (31, 16), (8, 8)])
def test_what_would_fit_is_found_by_trying(longest: int, fits: int) -> None:
    roomy = PICO.model_copy(update={"max_seq_len": 64})
    model = Short(roomy)
    model.initialise(torch.Generator().manual_seed(0))
    model.longest = longest
    x = torch.randint(PICO.vocab_size, (8, 64), generator=torch.Generator().manual_seed(0))
    with pytest.raises(OutOfMemoryError, match=rf"fits: take data\.seq_len {fits}, or a smaller model"):
        Trainer(model, BASE, CPU).train_step(0, x, x)
    assert all(p.grad is None for p in model.parameters())


def test_the_smaller_micro_batch_is_part_of_the_state() -> None:
    tight, other = trainer(), trainer()
    brittle(tight).room = 4
    train(tight, 0, 1)
    other.load_state_dict(tight.state_dict())
    assert other.micro_batch == 4


def test_the_hosts_own_allocator_counts_as_out_of_memory() -> None:
    trained = trainer()
    hook = trained.model.register_forward_pre_hook(lambda *_: torch.empty(1 << 60))
    with pytest.raises(OutOfMemoryError, match="micro-batch 8, 4, 2, 1"):
        train(trained, 0, 1)
    hook.remove()


def test_another_error_is_not_taken_for_out_of_memory() -> None:
    trained = trainer()
    with pytest.raises(IndexError):
        trained.train_step(0, *(t + PICO.vocab_size for t in batch(0)))


@pytest.mark.filterwarnings("ignore:put_ does not have:UserWarning")
def test_an_operation_without_an_exact_form_is_told_once_and_trained_with() -> None:
    events: list[tuple[str, str]] = []

    def put(*_: Any) -> None:
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))

    # Strict from the start, as on CUDA; `put_` is one of the few that torch refuses on a CPU, too.
    torch.use_deterministic_algorithms(True)
    try:
        inexact = trainer(on_event=lambda kind, message: events.append((kind, message)))
        inexact.model.register_forward_pre_hook(put)
        found = train(inexact, 0, 3)
    finally:
        torch.use_deterministic_algorithms(False)
    assert events == [
        ("inexact", "exact resume is off: put_ does not have a deterministic implementation on cpu")
    ]
    assert found == train(trainer(), 0, 3)


def test_no_room_for_moments_is_its_own_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = trainer()

    def step() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(trained.optimizers, "step", step)
    with pytest.raises(OutOfMemoryError, match="while updating the weights"):
        train(trained, 0, 1)


# --- precision and compilation


def test_bf16_follows_fp32() -> None:
    want, got = train(trainer(), 0, 6), train(trainer(precision="bf16"), 0, 6)
    assert [r.loss for r in got] == pytest.approx([r.loss for r in want], rel=1e-2)


def test_fp16_scales_its_loss_and_follows_fp32() -> None:
    trained = trainer(precision="fp16")
    want, got = train(trainer(), 0, 6), train(trained, 0, 6)
    assert [r.loss for r in got] == pytest.approx([r.loss for r in want], rel=1e-2)
    assert [r.grad_norm for r in got] == pytest.approx([r.grad_norm for r in want], rel=3e-2)
    other = trainer(precision="fp16")
    other.load_state_dict(copy.deepcopy(trained.state_dict()))
    assert train(other, 6, 8) == train(trained, 6, 8)


def test_fp16_overflow_lowers_the_scale_and_does_not_count_as_divergence() -> None:
    trained = trainer(precision="fp16")
    trained._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    results = train(trained, 0, 4)
    assert all(result.skipped and math.isfinite(result.loss) for result in results)
    assert trained.skipped_total == 4
    assert trained.state_dict()["scaler"]["scale"] == 2.0**56


def compile_with(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the trainer's own options, without the minute that the native compiler takes."""

    def compile_(function: Any, **options: Any) -> Any:
        assert options == {"dynamic": False, "fullgraph": True}
        return real(function, backend=backend, **options)

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compile_)


def test_a_process_may_compile_more_sizes_than_torchs_default_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_with("eager", monkeypatch)
    small = Decoder(PICO.model_copy(update={"n_layers": 1})).initialise(torch.Generator().manual_seed(0))
    trained = Trainer(small, BASE.model_copy(update={"micro_batch": 64}), CPU, compile=True)
    for size in range(1, 11):
        trained.train_step(0, *batch(0, size))


def test_the_loss_compiles_into_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_with("aot_eager", monkeypatch)
    model = Decoder(PICO).initialise(torch.Generator().manual_seed(0))
    compiled = Trainer(model, BASE, CPU, precision="bf16", compile=True)
    eager = trainer(precision="bf16")
    assert [r.loss for r in train(compiled, 0, 3)] == pytest.approx(
        [r.loss for r in train(eager, 0, 3)], rel=1e-3
    )
