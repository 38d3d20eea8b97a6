"""Contradictions between settings that are each valid alone, all found together.

Each problem names the place (`forging.lambda_ramp_steps`) so that a person can go straight to the line.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import get_args

from forge.config.corpus import corpus_form_problem
from forge.config.models import (
    BRANCHES,
    PHASE_NAMES,
    STARTERS,
    Branch,
    DataConfig,
    ForgeTrainingConfig,
    ModelConfig,
    PipelineConfig,
    TrainingConfig,
)

Problem = tuple[str, str]


def contradictions(config: PipelineConfig) -> list[Problem]:
    """Every contradiction as (place, sentence); empty when the configuration can run."""
    return [
        *_model_problems(config),
        *_mix_problems(config.data),
        *_architecture_problems(config),
        *_training_problems("pretrain", config.pretrain, config),
        *_training_problems("cognate", config.cognate, config),
        *_cognate_problems(config),
        *_training_problems("forging", config.forging, config),
        *_evomerge_problems(config),
        *_forging_problems(config.forging),
        *_phase_problems(config),
    ]


def parameter_count(config: PipelineConfig) -> int:
    """Parameters of the decoder, embeddings included (tied with the head, so counted once)."""
    m = config.model
    attention = 4 * m.d_model * m.d_model + m.persistent_tokens * m.d_model
    feed_forward = 3 * m.d_model * m.d_ff
    norms = 2 * m.d_model
    if m.qk_norm:
        norms += 2 * (m.d_model // m.n_heads)
    if m.sub_norm:
        norms += m.d_model + m.d_ff
    total = m.vocab_size * m.d_model + m.n_layers * (attention + feed_forward + norms) + m.d_model
    if m.recursion is not None:
        total += m.d_model + (m.d_model + 1 if m.recursion.halting else 0)
    return total + _memory_parameters(m)


def _memory_parameters(m: ModelConfig) -> int:
    """Of all blocks: projections, convolution, rates, first weights, and the two norms of the gate."""
    memory = m.memory
    if memory is None:
        return 0
    size = m.d_model // memory.n_heads
    inner = memory.expansion * size
    weights = size * size if memory.depth == 1 else 2 * size * inner
    rates = 3 * memory.n_heads * (m.d_model + 1)
    each = 3 * m.d_model * (m.d_model + memory.conv) + rates + memory.n_heads * weights + 2 * m.d_model
    return len(range(0, m.n_layers, memory.every)) * each


def _model_problems(config: PipelineConfig) -> Iterator[Problem]:
    m, data = config.model, config.data
    if m.d_model % m.n_heads:
        yield "model.n_heads", f"d_model {m.d_model} is not divisible by n_heads {m.n_heads}"
    elif (m.d_model // m.n_heads) % 2:
        yield (
            "model.n_heads",
            f"head size {m.d_model // m.n_heads} is odd; rotary positions need an even one",
        )
    if data.seq_len > m.max_seq_len:
        yield "data.seq_len", f"{data.seq_len} is longer than model.max_seq_len {m.max_seq_len}"
    if data.dev_fraction + data.test_fraction >= 0.5:
        yield (
            "data.test_fraction",
            "dev_fraction and test_fraction together leave less than half for training",
        )


def _mix_problems(data: DataConfig) -> Iterator[Problem]:
    if data.mix.base and data.corpus != DataConfig().corpus:
        yield (
            "data.corpus",
            f"{data.corpus} is never read: data.mix.base is trained on; leave one of them out",
        )
    for branch in get_args(Branch):
        named = [share.corpus for share in getattr(data.mix, branch)]
        for position, corpus in enumerate(named):
            place = f"data.mix.{branch}.{position}.corpus"
            if (problem := corpus_form_problem(corpus)) is not None:
                yield place, f"{corpus or 'nothing'} is no corpus: {problem}"
            elif corpus in named[:position]:
                yield place, f"{corpus} is in the mix twice; add the weights up"
    tasks: dict[str, str] = {}
    for corpus in data.corpora:
        task = ":".join(corpus.split(":")[:2]) if corpus.startswith(("gym:", "task:")) else corpus
        if (other := tasks.setdefault(task, corpus)) != corpus:
            # What one of them holds out could be among what the other trains on.
            yield "data.mix", f"{other} and {corpus} are one task; ask for the same number of items in both"


def _architecture_problems(config: PipelineConfig) -> Iterator[Problem]:
    m = config.model
    if m.document_end is not None and m.document_end >= m.vocab_size:
        yield "model.document_end", f"token {m.document_end} is outside a vocabulary of {m.vocab_size}"
    if m.memory is not None:
        if m.d_model % m.memory.n_heads:
            yield (
                "model.memory.n_heads",
                f"d_model {m.d_model} is not divisible by {m.memory.n_heads} memories",
            )
        if m.memory.chunk >= config.data.seq_len:
            yield (
                "model.memory.chunk",
                f"{m.memory.chunk} tokens are a whole sequence of {config.data.seq_len}: no token would ever "
                "be measured against what the memory has learned",
            )
        if m.memory.every > m.n_layers:
            yield "model.memory.every", f"{m.memory.every} is more than the {m.n_layers} blocks there are"
    if m.recursion is not None and m.recursion.halting and m.recursion.supervision == 1:
        yield "model.recursion.halting", "with supervision: 1 there is nothing to stop early; set it to null"


def _training_problems(place: str, training: TrainingConfig, config: PipelineConfig) -> Iterator[Problem]:
    if training.batch_size % training.micro_batch:
        yield (
            f"{place}.micro_batch",
            f"{training.micro_batch} does not divide batch_size {training.batch_size}",
        )
    if training.warmup_steps >= training.steps:
        yield (
            f"{place}.warmup_steps",
            f"{training.warmup_steps} warm-up steps leave nothing of {training.steps}",
        )
    filter_ = training.grokfast
    budget = config.runtime.vram_budget_gb
    if filter_ is not None and filter_.kind == "ma" and budget is not None:
        needed = filter_.window * parameter_count(config) * 4 / 1e9
        if needed > budget:
            yield (
                f"{place}.grokfast.window",
                f"{filter_.window} gradients need {needed:.1f} GB, the budget is {budget:g} GB; take ema",
            )


def _cognate_problems(config: PipelineConfig) -> Iterator[Problem]:
    """Of the branches; only where the phase runs, because its defaults need a model with everything."""
    if "cognate" not in config.phases:
        return
    m, cognate = config.model, config.cognate
    if m.memory is None:
        yield "model.memory", "the memory branch of cognate needs one; set it, or run pretrain"
    if m.recursion is None or m.recursion.halting is None:
        yield "model.recursion", "the branches of cognate need one with halting; set it, or run pretrain"
    for name in BRANCHES:
        branch, place = cognate.branch(name), f"cognate.{name}"
        if branch.warmup_steps >= branch.steps:
            yield (
                f"{place}.warmup_steps",
                f"{branch.warmup_steps} warm-up steps leave nothing of {branch.steps}",
            )
        if branch.memory_chunk is not None and branch.memory_chunk >= config.data.seq_len:
            yield (
                f"{place}.memory_chunk",
                f"{branch.memory_chunk} tokens are a whole sequence of {config.data.seq_len}",
            )
        if branch.supervision == 1:
            yield f"{place}.supervision", "with one supervision step there is nothing to stop early"
        if branch.halting_prior is not None and m.recursion and m.recursion.halting == "correctness":
            yield f"{place}.halting_prior", "only model.recursion.halting: ponder has a prior; set it to null"


def _evomerge_problems(config: PipelineConfig) -> Iterator[Problem]:
    evolution = config.evomerge
    if "evomerge" not in config.phases:
        return
    if evolution.groups > config.model.n_layers:
        yield "evomerge.groups", f"{evolution.groups} groups of the {config.model.n_layers} layers there are"
    if evolution.elites >= evolution.population:
        yield (
            "evomerge.elites",
            f"{evolution.elites} elites leave no room for new candidates in a population of "
            f"{evolution.population}",
        )
    if evolution.executor != "inprocess" and config.runtime.vram_budget_gb is not None:
        yield (
            "evomerge.executor",
            "a budget of GPU memory holds for one process; take inprocess, or set runtime.vram_budget_gb to "
            "null",
        )


def _forging_problems(forging: ForgeTrainingConfig) -> Iterator[Problem]:
    if forging.ste_enabled and not forging.quantization_aware:
        yield (
            "forging.ste_enabled",
            "there is nothing to bridge with quantization_aware: false; set it to false too",
        )
    if forging.quantization_aware and forging.lambda_ramp_steps >= forging.steps:
        yield (
            "forging.lambda_ramp_steps",
            f"a ramp of {forging.lambda_ramp_steps} steps never reaches 1 in {forging.steps} steps",
        )


def _phase_problems(config: PipelineConfig) -> Iterator[Problem]:
    order = [PHASE_NAMES.index(name) for name in config.phases]
    if order != sorted(set(order)):
        yield "phases", f"phases run once each, in the order {', '.join(PHASE_NAMES)}"
    if config.phases and config.phases[0] not in STARTERS:
        yield "phases", f"{config.phases[0]} needs a model: start with {' or '.join(STARTERS)}"
    if set(STARTERS) <= set(config.phases):
        yield "phases", f"{' and '.join(STARTERS)} each begin from nothing; leave one of them out"
    if ("cognate", "forging") in pairwise(config.phases):
        yield "phases", "cognate hands on three models and forging takes one; put evomerge between them"
