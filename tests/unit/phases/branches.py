"""Three branches of one base, each trained for a few steps on words of its own, as folders of models."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch

from forge.config import Branch, PipelineConfig
from forge.contract import LoadedModel, PhaseContext, PhaseResult
from forge.data import TokenData, prepare, train_batch
from forge.models.decoder import Decoder
from forge.optim.trainer import Trainer
from forge.phases import Pretraining
from tests.plain import PlainContext

BRANCHES: tuple[Branch, ...] = ("reasoning", "memory", "speed")
WORDS: Mapping[str, str] = {
    "reasoning": "since then if not therefore all some no one",
    "memory": "river stone cloud amber violet maple north seven",
    "speed": "run dash leap bolt race zip fly go",
}
SHAPE = {
    "vocab_size": 270, "d_model": 24, "d_ff": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 16,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """What the Cognate phase hands on, made by hand."""

    config: PipelineConfig
    models: tuple[LoadedModel, ...]
    folders: Mapping[str, Path]
    """By model id, the base among them."""
    cache: Path

    def context(self, config: PipelineConfig | None = None) -> PlainContext:
        """A context that finds the models."""
        ctx = PlainContext(config or self.config, 1, self.cache)
        ctx.folders = dict(self.folders)
        return ctx


def evolving(place: Path, **evomerge: Any) -> PipelineConfig:
    """A configuration over a mix of three corpora, which are written."""
    mix: dict[str, list[dict[str, Any]]] = {"base": []}
    for branch, words in WORDS.items():
        folder = place / branch
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(12):
            drawn = random.Random(f"{branch} {number}").choices(words.split(), k=150)
            (folder / f"{number}.txt").write_text(" ".join(drawn) + "\n", "utf-8")
        share = {"corpus": f"text:{folder}/*.txt"}
        mix["base"].append(share)
        mix[branch] = [share]
    training = {
        "steps": 20, "batch_size": 8, "micro_batch": 8, "warmup_steps": 2, "eval_every": 20,
        "eval_tokens": 128, "report_tokens": 128, "learning_rate": 1e-2,
    }  # fmt: skip
    settings = {
        "groups": 2, "generations": 2, "population": 5, "elites": 2, "eval_tokens": 256, "report_tokens": 512,
        **evomerge,
    }  # fmt: skip
    return PipelineConfig.model_validate(
        {
            "name": "evolving",
            "seed": 3,
            "phases": ["pretrain", "evomerge"],
            "model": SHAPE,
            "data": {"mix": mix, "seq_len": 16, "dev_fraction": 0.2, "test_fraction": 0.2},
            "runtime": {"device": "cpu", "threads": 1, "checkpoint_every": 5, "keep_checkpoints": 2},
            "pretrain": training,
            "evomerge": settings,
        }
    )


def grown(config: PipelineConfig, place: Path) -> Family:
    """The base and its branches."""
    cache = place / "cache"
    (produced,) = Pretraining(config).run(PlainContext(config, 0, cache), ()).models
    base = produced.module
    assert isinstance(base, Decoder)
    shards = prepare(config.data, config.model.vocab_size, cache)
    folders = {"base": written(place / "base", base, config, produced.tokenizer, {})}
    models = []
    for number, branch in enumerate(BRANCHES):
        model = branched(base, config, shards, branch, number)
        folders[branch] = written(place / branch / "model", model, config, produced.tokenizer, {"base": 1.0})
        card = json.loads((folders[branch] / "card.json").read_text())
        models.append(LoadedModel(branch, model, config.model, folders[branch] / "tokenizer.json", card))
    return Family(config, tuple(models), folders, cache)


def branched(base: Decoder, config: PipelineConfig, shards: TokenData, branch: Branch, seed: int) -> Decoder:
    """The base after a few steps on the words of one branch."""
    model = copy.deepcopy(base)
    ctx = PlainContext(config, 0, shards.folder.parent)
    trainer = Trainer(model, config.pretrain, ctx.device, ctx.precision, ctx.compile, ctx.warn)
    for step in range(12):
        windows = train_batch(shards, seed, step, 8, config.data.seq_len, config.data.shares(branch))
        batch = torch.from_numpy(windows)
        trainer.train_step(step, batch[:, :-1], batch[:, 1:])
    return model


def written(
    folder: Path, model: Decoder, config: PipelineConfig, tokenizer: Path, parents: Mapping[str, float]
) -> Path:
    """A model as the engine keeps it."""
    folder.mkdir(parents=True)
    weights = safetensors.torch.save({name: t.detach() for name, t in model.state_dict().items()})
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(config.model.model_dump_json())
    card = {"parents": dict(parents), "sha256": hashlib.sha256(weights).hexdigest()}
    (folder / "card.json").write_text(json.dumps(card))
    shutil.copy(tokenizer, folder / "tokenizer.json")
    return folder


class Branching:
    """A phase that hands on a base and its branches, in the place of the one that trains them."""

    name: ClassVar[str] = "pretrain"

    def __init__(self, config: PipelineConfig) -> None:
        self._config = config

    def total_steps(self, inputs: Sequence[LoadedModel]) -> int:
        """None that could be resumed."""
        return self._config.pretrain.steps

    def run(self, ctx: PhaseContext, inputs: Sequence[LoadedModel]) -> PhaseResult:
        """The base, then the branches."""
        config = self._config
        (base,) = Pretraining(config).run(PlainContext(config, 0, ctx.cache), ()).models
        assert isinstance(base.module, Decoder)
        shards = prepare(config.data, config.model.vocab_size, ctx.cache)
        models = [replace(base, name="base")]
        for number, branch in enumerate(BRANCHES):
            module = branched(base.module, config, shards, branch, number)
            models.append(replace(base, name=branch, module=module, parents={"base": 1.0}))
        return PhaseResult(models, {"title": "Branching", "rows": []})
