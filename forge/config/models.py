"""The frozen configuration of a pipeline: typed settings, one docstring under every field.

A configuration is complete when it is loaded: nothing is filled in later, so the copy in
`session.yaml` says exactly what ran. Contradictions are found together, in `forge.config.check`.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

PHASE_NAMES: tuple[str, ...] = ("pretrain", "cognate", "evomerge", "forging")
"""The phases that exist, in pipeline order."""
STARTERS: tuple[str, ...] = ("pretrain", "cognate")
"""Phases that need no model before them; a pipeline has one of them, and it is the first."""
SEARCHED_PHASES = frozenset({"evomerge"})
"""Those that search and do not train: how many steps they take follows from their other settings."""
DEFAULT_PHASES: tuple[str, ...] = ("pretrain", "forging")
"""Those that run where none are named."""


PARENTS = 3
"""Models that EvoMerge takes, beside the base that they come from."""
PLAIN_METHODS = 9
"""Merge methods of its generation 0, the uniform average not counted."""


class Settings(BaseModel):
    """Base of every settings model: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class MemoryConfig(Settings):
    """Neural memory beside the attention: a small network whose weights are its state (Titans MAG,
    arXiv 2501.00663, eq. 8-19 and 26-28)."""

    depth: Literal[1, 2] = 1
    """Layers of the network: 1 is a matrix, 2 an MLP."""
    n_heads: int = Field(4, ge=1)
    """Independent memories of one block; `d_model / n_heads` is the size of their keys and values."""
    chunk: int = Field(64, ge=1)
    """Tokens whose surprise is measured against the same weights; 1 is the exact recursion, slowly."""
    expansion: int = Field(2, ge=1)
    """Inner width of a memory of depth 2, in head sizes."""
    conv: int = Field(4, ge=1)
    """Tokens that the causal depth-wise convolution over queries, keys and values sees."""
    every: int = Field(1, ge=1)
    """Every so many blocks have a memory, from the first on."""
    max_rate: float = Field(1.0, gt=0)
    """Upper end of the learned step size theta."""
    max_surprise: float = Field(10.0, gt=0)
    """Largest norm of one token's surprise (the gradient of its error), so that a memory cannot diverge."""


class RecursionConfig(Settings):
    """One stack of blocks, applied again and again with the input put in anew (TRM, arXiv 2510.04871).

    One supervision step is `cycles` times: `latent_steps` updates of the latent state and one of the answer.
    """

    cycles: int = Field(1, ge=1)
    """Recursions in one supervision step; only the last has a gradient."""
    latent_steps: int = Field(1, ge=1)
    """Updates of the latent state before each update of the answer."""
    supervision: int = Field(2, ge=1)
    """Supervision steps: each has a loss of its own and hands its state on without a gradient."""
    halting: Literal["ponder", "correctness"] | None = None
    """How a token learns when to stop: `ponder` weighs each step's loss with the chance to stop there
    (PonderNet, arXiv 2107.05407), `correctness` predicts whether the answer is right (TRM)."""
    halting_weight: float = Field(0.01, ge=0)
    """Share of the halting loss: of the divergence from the prior, or of the binary cross entropy."""
    halting_prior: float = Field(0.4, gt=0, lt=1)
    """`ponder`: chance to stop at each step that the geometric prior expects; higher stops earlier."""
    halt_at: float = Field(0.5, gt=0, lt=1)
    """Chance at which a token stops: summed over the steps for `ponder`, of one step for `correctness`."""


class ModelConfig(Settings):
    """Shape of the causal decoder."""

    vocab_size: int = Field(2048, ge=260, le=65_536)
    """Entries of the byte-level BPE vocabulary, special tokens included."""
    d_model: int = Field(128, ge=16, le=65_536)
    """Width of the residual stream."""
    n_layers: int = Field(4, ge=1, le=4096)
    """Number of decoder blocks."""
    n_heads: int = Field(4, ge=1, le=4096)
    """Attention heads; `d_model / n_heads` is the head size and must be even for RoPE."""
    d_ff: int = Field(384, ge=16, le=262_144)
    """Inner width of the SwiGLU feed-forward layer."""
    max_seq_len: int = Field(128, ge=8, le=1_048_576)
    """Longest sequence the rotary table covers, in tokens."""
    rope_theta: float = Field(10_000.0, gt=0)
    """Base of the rotary frequencies."""
    norm_eps: float = Field(1e-5, gt=0)
    """Epsilon inside every RMSNorm."""
    qk_norm: bool = True
    """RMSNorm on queries and keys before the rotation."""
    sub_norm: bool = True
    """SubLN: RMSNorm before the attention output and feed-forward output projections (BitNet b1.58).
    Inserting it after pre-training costs more than the quantisation, so it is there from the start."""
    window: int | None = Field(None, ge=1)
    """Causal sliding window in tokens; null attends to the whole past."""
    persistent_tokens: int = Field(0, ge=0)
    """Learned tokens in front of every block's attention, visible from everywhere (Titans, eq. 26)."""
    document_end: int | None = Field(None, ge=0)
    """Token that ends a document: what follows sees nothing before it, in attention and memory; null lets
    a sequence be one document."""
    memory: MemoryConfig | None = None
    """Neural memory beside the attention; null is a plain decoder."""
    recursion: RecursionConfig | None = None
    """Recursion over the stack; null applies it once."""


class Share(Settings):
    """One corpus of a mix."""

    corpus: str
    """As `data.corpus`."""
    weight: float = Field(1.0, gt=0)
    """Share of the training sequences, beside the weights of the other corpora of the same mix."""


Branch = Literal["base", "reasoning", "memory", "speed"]
BRANCHES: tuple[Branch, ...] = ("reasoning", "memory", "speed")
"""The three that the Cognate phase makes of one base, in their order."""


class MixConfig(Settings):
    """What each branch of the Cognate phase is trained on; all other training follows `base`.

    Reasoning and memory are measured on the questions (`gym:`, `task:`) of their mixes, or on all of it where
    there are none; speed on all of its mix, after one supervision step.
    """

    base: tuple[Share, ...] = ()
    """The shared base; empty takes `data.corpus` alone."""
    reasoning: tuple[Share, ...] = ()
    """The branch of deeper recursion; empty takes what the base takes."""
    memory: tuple[Share, ...] = ()
    """The branch of larger memory; empty takes what the base takes."""
    speed: tuple[Share, ...] = ()
    """The branch of early halting; empty takes what the base takes."""


class DataConfig(Settings):
    """Which text is trained on, and how it is cut."""

    corpus: str = "stdlib"
    """`stdlib` (the Python standard library's own source), `text:GLOB`, `jsonl:GLOB[#field]`,
    `parquet:GLOB[#column]`, `hf:NAME[:config][#column]` (a data set of the Hugging Face Hub, or a folder),
    `gym:TASK[:count]` (a procedural task of reasoning-gym), or `task:NAME[:count]` (one of Forge's own:
    recall, permutations, modular)."""
    mix: MixConfig = MixConfig()
    """Several corpora at once, in set proportions, for each branch. One tokenizer learns from them all."""
    seq_len: int = Field(128, ge=8)
    """Tokens in one training sequence."""
    dev_fraction: float = Field(0.04, gt=0, lt=0.5)
    """Share of the documents that curves, detectors and gates may look at."""
    test_fraction: float = Field(0.04, gt=0, lt=0.5)
    """Share of the documents read only for a phase's report."""
    max_bytes: int | None = Field(None, ge=1)
    """Use at most this many bytes of each corpus (whole documents, chosen by hash); null uses all."""

    def shares(self, branch: Branch = "base") -> tuple[Share, ...]:
        """What a branch is trained on."""
        mixes: dict[Branch, tuple[Share, ...]] = {
            "base": self.mix.base,
            "reasoning": self.mix.reasoning,
            "memory": self.mix.memory,
            "speed": self.mix.speed,
        }
        return mixes[branch] or self.mix.base or (Share(corpus=self.corpus, weight=1.0),)

    @property
    def corpora(self) -> tuple[str, ...]:
        """Every corpus of every branch once, sorted: neither order nor weights change what is prepared."""
        return tuple(sorted({share.corpus for branch in get_args(Branch) for share in self.shares(branch)}))


class GrokfastConfig(Settings):
    """Grokfast: amplify the slow part of the gradient (arXiv 2405.20233)."""

    kind: Literal["ema", "ma"] = "ema"
    """`ema`: exponential average; `ma`: mean of the last `window` gradients."""
    alpha: float = Field(0.98, gt=0, lt=1)
    """Decay of the exponential average."""
    lamb: float = Field(2.0, ge=0)
    """Strength: the filtered gradient is `g + lamb * average`."""
    window: int = Field(100, ge=1)
    """Length of the moving average; it costs `window` copies of the gradient."""


class TrainingConfig(Settings):
    """How one phase trains."""

    steps: int = Field(400, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(16, ge=1)
    """Sequences in one optimiser step; out-of-memory handling never changes it."""
    micro_batch: int = Field(16, ge=1)
    """Sequences in one forward pass; must divide `batch_size`."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon on hidden matrices and AdamW on the rest; `adamw`: AdamW on everything."""
    learning_rate: float = Field(3e-3, gt=0)
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = Field(0.02, gt=0)
    """Peak learning rate of Muon (its original scale rule)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates."""
    muon_momentum: float = Field(0.95, ge=0, lt=1)
    """Muon's momentum."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay of the hidden matrices."""
    weight_decay_until: float = Field(1.0, ge=0, le=1)
    """Share of the steps after which weight decay is 0."""
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "wsd"
    """After the warm-up: constant, cosine, linear to the final ratio, or `wsd` (warm-up-stable-decay)."""
    warmup_steps: int = Field(40, ge=0)
    """Steps of linear warm-up."""
    decay_fraction: float = Field(0.3, gt=0, le=1)
    """Share of the steps in which a `wsd` schedule decays."""
    final_lr_ratio: float = Field(0.05, ge=0, le=1)
    """Learning rate at the end, as a share of the peak."""
    grad_clip: float | None = Field(1.0, gt=0)
    """Largest gradient norm; null does not clip."""
    grokfast: GrokfastConfig | None = None
    """Gradient filter; null trains without."""
    qk_clip: float | None = Field(None, gt=0)
    """Largest attention logit that the weights may give: what scales queries and keys shrinks after a step
    that saw a larger one (QK-clip, arXiv 2507.20534); null does not look."""
    gradient_checkpointing: bool = False
    """Keep only what goes into each block and compute the rest again for the gradient: the same numbers from
    much less memory, in about a third more time."""
    eval_every: int = Field(50, ge=1)
    """Steps between two looks at the dev split."""
    eval_tokens: int = Field(16_384, ge=128)
    """Tokens of the dev split in one look; the report reads the whole test split up to `report_tokens`."""
    report_tokens: int = Field(131_072, ge=128)
    """Most tokens of the test split read for a report figure."""
    max_skipped: int = Field(10, ge=1)
    """Updates skipped in a row for a NaN or infinite loss or gradient, at which the phase goes back to its
    last checkpoint with a lower learning rate."""
    max_rollbacks: int = Field(3, ge=0)
    """Times that a phase may go back like that before it fails."""
    rollback_lr_factor: float = Field(0.5, gt=0, lt=1)
    """What every learning rate of the phase is multiplied with each time."""

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole phase."""
        return self.steps


class BranchConfig(Settings):
    """What one branch of the Cognate phase does otherwise than the base; its corpora are in `data.mix`.

    All of it is for the training: afterwards a branch is used as `model` says, like the base and the other
    branches, so that they can be merged. That is why the memory branch has no larger memory.
    """

    steps: int = Field(100, ge=1)
    """Optimiser steps from the base on."""
    warmup_steps: int = Field(10, ge=0)
    """Steps of linear warm-up: the optimisers begin anew."""
    lr_ratio: float = Field(0.5, gt=0)
    """Peak learning rates as a share of the base's; the further the branches go, the less can be merged."""
    cycles: int | None = Field(None, ge=1)
    """Recursions in one supervision step; null as `model.recursion`, and so for the next three."""
    supervision: int | None = Field(None, ge=1)
    """Supervision steps."""
    halting_prior: float | None = Field(None, gt=0, lt=1)
    """`ponder`: chance to stop at each step that the prior expects; higher stops earlier."""
    halting_weight: float | None = Field(None, ge=0)
    """Share of the halting loss."""
    memory_chunk: int | None = Field(None, ge=1)
    """Tokens whose surprise is measured against the same memory; fewer are finer. Null as `model.memory`."""

    def of(self, model: ModelConfig) -> ModelConfig:
        """The shape of the base with the knobs of this branch; both hold the same weights."""
        knobs = self.model_dump(include={"cycles", "supervision", "halting_prior", "halting_weight"})
        set_ = {name: value for name, value in knobs.items() if value is not None}
        memory, recursion = model.memory, model.recursion
        if memory is not None and self.memory_chunk is not None:
            memory = memory.model_copy(update={"chunk": self.memory_chunk})
        if recursion is not None and set_:
            recursion = recursion.model_copy(update=set_)
        return model.model_copy(update={"memory": memory, "recursion": recursion})


class CognateConfig(TrainingConfig):
    """A base, and three branches that continue from it (the Cognate phase). `steps` are the base's."""

    grokfast: GrokfastConfig | None = GrokfastConfig(lamb=0.5)
    """Gradient filter; null trains without."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """`muon`: Muon on hidden matrices and AdamW on the rest; `adamw`: AdamW on everything."""
    reasoning: BranchConfig = BranchConfig(halting_prior=0.2)
    """Deeper recursion: what the last supervision steps say weighs more."""
    memory: BranchConfig = BranchConfig()
    """More to remember."""
    speed: BranchConfig = BranchConfig(halting_prior=0.8)
    """Early halting."""

    def branch(self, name: Branch) -> BranchConfig:
        """The settings of one branch; those of the base change nothing."""
        branches = {"reasoning": self.reasoning, "memory": self.memory, "speed": self.speed}
        return branches.get(name) or BranchConfig(
            steps=self.steps, warmup_steps=self.warmup_steps, lr_ratio=1.0
        )

    def training(self, name: Branch) -> TrainingConfig:
        """How the base or a branch trains."""
        own = self.branch(name)
        return self.model_copy(
            update={
                "steps": own.steps,
                "warmup_steps": own.warmup_steps,
                "learning_rate": own.lr_ratio * self.learning_rate,
                "muon_learning_rate": own.lr_ratio * self.muon_learning_rate,
            }
        )

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the base and the three branches."""
        return self.steps + sum(self.branch(name).steps for name in BRANCHES)


class ForgeTrainingConfig(TrainingConfig):
    """Quantisation-aware training through a straight-through estimator (the Forging phase)."""

    quantization_aware: bool = True
    """Forward passes see ternary weights and quantised activations."""
    ste_enabled: bool = True
    """Bridge the rounding with the straight-through estimator; else no gradient reaches latent weights."""
    activation_bits: Literal[8] | None = 8
    """Bits of per-token absmax activations; null leaves activations in full precision."""
    lambda_start: float = Field(0.0, ge=0, le=1)
    """Share of quantisation at the first step."""
    lambda_ramp_steps: int = Field(50, ge=0)
    """Steps in which the share of quantisation rises linearly to 1."""
    control: bool = True
    """Train the full-precision parent for the same extra steps beside it: the report's yardstick, at the
    price of about as much time again."""
    freeze_full_precision: bool = False
    """Freeze embeddings, norms and head, so that only ternary matrices can learn."""


class EvoMergeConfig(Settings):
    """Evolution of one model from three of one base: plain merges and their combinations first, then CMA-ES
    over layer groups, models, weights and densities."""

    method: Literal["dare_linear", "dare_ties", "ties", "breadcrumbs"] = "dare_linear"
    """How the candidates of the search are merged. With `dare_linear` the search starts at the average."""
    groups: int = Field(3, ge=1)
    """Consecutive groups of layers that have weights of their own, beside what is outside the layers."""
    generations: int = Field(8, ge=0)
    """Generations of the search after generation 0."""
    population: int = Field(12, ge=4, le=1000)
    """Candidates of one generation."""
    elites: int = Field(2, ge=0)
    """Candidates of the search that stay in the population of the next generation, the fittest so far."""
    sigma: float = Field(1 / 6, gt=0, le=1)
    """Standard deviation of the first generation of the search, in units of a weight (arXiv 2403.13187)."""
    combinations: bool = True
    """Try eight combinations of interpolation, sparsification and choice of layers in generation 0."""
    random_search: bool = True
    """Control: as many candidates drawn at random from the same space, at the price of as much time again."""
    eval_tokens: int = Field(16_384, ge=128)
    """Tokens of each corpus's dev split that a candidate is measured on."""
    eval_items: int = Field(200, ge=1)
    """Questions of each task's dev split that a candidate is asked."""
    report_tokens: int = Field(131_072, ge=128)
    """Most tokens of each corpus's test split read for the report."""
    report_items: int = Field(500, ge=1)
    """Most questions of each task's test split asked for the report."""
    executor: Literal["inprocess", "processes", "ray"] = "inprocess"
    """Where candidates are measured: here one after the other, in processes, or by Ray (an extra)."""
    workers: int = Field(2, ge=1)
    """Candidates measured at the same time, where they are not measured here."""

    @property
    def total_steps(self) -> int:
        """Candidates to measure in all: what the progress of the phase counts."""
        return sum(self.batches)

    @property
    def batches(self) -> tuple[int, ...]:
        """Candidates of each part: what is tried with the parents, generation 0, the search, the control."""
        first = PARENTS + 1 + PARENTS * (self.groups + 1) * self.combinations
        zero = PLAIN_METHODS + 8 * self.combinations + 1
        # Elites are measured already; before the first generation there is one, where the search starts.
        search = [
            self.population - min(self.elites, 1 if n == 0 else self.elites) for n in range(self.generations)
        ]
        return (first, zero, *search, *([sum(search)] if self.random_search and search else []))


class RuntimeConfig(Settings):
    """Where and how a session runs."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type; `auto` is bf16 (fp16 where the card lacks it) on CUDA and fp32 on the CPU."""
    compile: bool | None = None
    """`torch.compile`; null compiles on CUDA only."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of the tensor library; null takes the machine's cores at the start and keeps them."""
    deterministic: bool = True
    """Deterministic algorithms: exact resume on CUDA too, at some cost there."""
    vram_budget_gb: float | None = Field(None, gt=0)
    """Most GPU memory this process may take, in GB, the CUDA context included; null takes what is there."""
    host: Literal["thread", "process"] = "thread"
    """Who runs the session: a thread of the program that starts it, or a process of its own, which outlives
    that program."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between two checkpoints."""
    keep_checkpoints: int = Field(3, ge=2)
    """Newest checkpoints kept of each phase, never fewer than two; the one with the lowest held-out loss
    stays besides."""


class PipelineConfig(Settings):
    """One session's whole configuration."""

    name: str = "custom"
    """Name of the preset, or of the file it was made from; a label only."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of every generator of the session."""
    phases: tuple[str, ...] = DEFAULT_PHASES
    """Phases to run, in pipeline order; the first is `pretrain` or `cognate`."""
    model: ModelConfig = ModelConfig()
    """Shape of the model."""
    data: DataConfig = DataConfig()
    """Text and splits."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Device, memory and checkpoints."""
    pretrain: TrainingConfig = TrainingConfig()
    """Full-precision training from scratch."""
    cognate: CognateConfig = CognateConfig()
    """A base and three branches of it, from scratch."""
    evomerge: EvoMergeConfig = EvoMergeConfig()
    """Evolution of one model from three."""
    forging: ForgeTrainingConfig = ForgeTrainingConfig()
    """Quantisation-aware training of the pre-trained model."""

    @field_validator("phases")
    @classmethod
    def _known_phases(cls, phases: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in phases if name not in PHASE_NAMES]
        if unknown or not phases:
            raise ValueError(f"phases are {', '.join(PHASE_NAMES)}; got {', '.join(unknown) or 'none'}")
        return phases
