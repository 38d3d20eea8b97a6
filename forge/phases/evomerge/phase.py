"""EvoMerge: three models of one base in, the fittest merge of them out (Akiba et al. 2024, arXiv 2403.13187,
the search in the space of parameters).

Fitness is measured on the dev split, the result on the test split, once. A step is a candidate: it is in the
registry before it is measured, and its fitness when it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, ClassVar

import torch

from forge.config import PARENTS, PipelineConfig
from forge.contract import Individual, LoadedModel, PhaseContext, PhaseResult, ProducedModel
from forge.data import TokenData, prepare
from forge.errors import MergeError
from forge.executor import Executor, open_executor
from forge.merge import Parents
from forge.models.decoder import Decoder
from forge.phases.evomerge import founders, report
from forge.phases.evomerge.measure import Bench, Measures, Question, examiner, fill
from forge.phases.evomerge.search import PARENT, RANDOM, Batch, Evolution, Search, by_fitness, diversity
from forge.phases.evomerge.space import Space


class EvoMerge:
    """Merging and evolution of the three models before it."""

    name: ClassVar[str] = "evomerge"

    def __init__(self, config: PipelineConfig) -> None:
        self._config = config
        self._evolution = config.evomerge

    def total_steps(self, inputs: Sequence[LoadedModel]) -> int:
        """See `Phase.total_steps`; a step is a candidate that is measured."""
        return self._evolution.total_steps

    def run(self, ctx: PhaseContext, inputs: Sequence[LoadedModel]) -> PhaseResult:
        """Search, and measure what was found beside its controls."""
        base = shared_base(inputs)
        shards = prepare(self._config.data, self._config.model.vocab_size, ctx.cache, ctx.status)
        bench = self._bench(ctx, base, inputs, shards)
        with Parents(bench.parents) as parents:
            ctx.status("reading the weights of all parents")
            parents.require_finite()
            models = [model.id for model in inputs]
            labels = [str(model.card.get("name", model.id)) for model in inputs]
            space = Space.of(base, models, parents.stack, self._evolution, self._config.seed, labels)
        # The same at every start, also of a resumed run: `ctx.steps` restores the generators afterwards.
        seed = ctx.rng.python.getrandbits(64)
        evolution = Evolution(Search(space, self._evolution, seed, conditions(bench, shards)))
        kind, workers = self._evolution.executor, self._evolution.workers
        executor: Executor[Question, Measures] = open_executor(kind, examiner, bench, workers)
        with closing(executor):
            self._evolve(ctx, executor, evolution)
            measured, who = self._judge(ctx, executor, evolution, base)
        return self._result(ctx, bench, inputs, evolution, measured, who, shards)

    def _evolve(
        self, ctx: PhaseContext, executor: Executor[Question, Measures], evolution: Evolution
    ) -> None:
        ledger = Ledger(ctx, executor)
        for step in ctx.steps(self._evolution.total_steps, evolution):
            found = ledger.measured(evolution.batch, evolution.due)
            ended = evolution.take(found)
            done = step + 1
            ctx.log(done, fitness=found.fitness or 0.0)
            if ended is not None and ended.individuals[0].kind not in (PARENT, RANDOM):
                ctx.log(done, **summary(ended, self._evolution.sigma))

    def _judge(
        self, ctx: PhaseContext, executor: Executor[Question, Measures], evolution: Evolution, base: str
    ) -> tuple[dict[str, Measures], dict[str, Individual]]:
        """The fittest and its controls on the test split."""
        everyone = evolution.measured
        merges = [one for one in everyone if one.kind not in (PARENT, RANDOM)]
        drawn = [one for one in everyone if one.kind == RANDOM]
        who: dict[str, Individual] = {
            report.FITTEST: by_fitness(merges)[0],
            report.AVERAGE: next(one for one in everyone if one.name == founders.AVERAGE),
            report.PARENT: by_fitness(one for one in everyone if one.kind == PARENT)[0],
        }
        if drawn:
            who[report.RANDOM] = by_fitness(drawn)[0]
        recipes = {name: one.recipe for name, one in who.items()} | {report.BASE: founders.parent(base)}
        ctx.status("measuring on held-out files")
        questions = [Question(recipe, "test") for recipe in recipes.values()]
        found: dict[str, Measures] = {}
        for name, measures in zip(recipes, executor.run(questions, lambda place, _: None), strict=True):
            found[name] = measures
            ctx.poll()
        return found, who

    def _bench(self, ctx: PhaseContext, base: str, inputs: Sequence[LoadedModel], shards: TokenData) -> Bench:
        evolution = self._evolution
        return Bench(
            parents={model: ctx.model_folder(model) for model in (base, *(one.id for one in inputs))},
            model=inputs[0].config,
            shards=shards.folder,
            corpora=self._config.data.corpora,
            seq_len=self._config.data.seq_len,
            device=str(ctx.device),
            precision=ctx.precision,
            threads=torch.get_num_threads(),
            tokens={"dev": evolution.eval_tokens, "test": evolution.report_tokens},
            items={"dev": evolution.eval_items, "test": evolution.report_items},
        )

    def _result(
        self,
        ctx: PhaseContext,
        bench: Bench,
        inputs: Sequence[LoadedModel],
        evolution: Evolution,
        measured: Mapping[str, Measures],
        who: Mapping[str, Individual],
        shards: TokenData,
    ) -> PhaseResult:
        verdict = report.decide(measured)
        shipped = who[verdict.ships]
        model = Decoder(bench.model)
        with Parents(bench.parents) as parents:
            fill(model, parents, shipped.recipe)
        if verdict.ships != report.FITTEST:
            ctx.warn("control", verdict.because)
        produced = ProducedModel(
            name="a parent, unchanged" if verdict.ships == report.PARENT else f"merged: {shipped.name}",
            module=model,
            config=bench.model,
            tokenizer=inputs[0].tokenizer,
            metrics={"test_bpb": measured[verdict.ships].bits_per_byte,
                     "fitness": measured[verdict.ships].fitness},
            parents=shares(evolution, shipped),
            card={
                "corpus": shards.info.model_dump(mode="json"),
                "seed": self._config.seed,
                "recipe": list(shipped.recipe),
                "candidate": shipped.key,
            },
        )  # fmt: skip
        return PhaseResult(
            [produced],
            {
                "title": "EvoMerge",
                "rows": report.rows(measured, who, verdict),
                "figures": report.figures(measured, verdict),
                "verdict": verdict.because,
                "seed": self._config.seed,
                "candidates": len(evolution.measured),
            },
        )


class Ledger:
    """Measures a batch, and nothing of it twice: what is known of a candidate is in the registry."""

    def __init__(self, ctx: PhaseContext, executor: Executor[Question, Measures]) -> None:
        self._population = ctx.population
        self._executor = executor
        self._batch: Batch | None = None

    def measured(self, batch: Batch, due: Individual) -> Individual:
        """The individual that is due, with its fitness."""
        if batch is not self._batch:
            self._batch = batch
            self._population.add(batch.individuals)
            missing = {one.key: one for one in batch.individuals if self._known(one).fitness is None}
            keys = list(missing)

            def arrived(place: int, measures: Measures) -> None:
                # At once, also where another is waited for: an interruption must not cost it.
                self._population.measured(keys[place], measures.fitness, measures.means)

            questions = [Question(one.recipe) for one in missing.values()]
            self._results = self._executor.run(questions, arrived)
        while self._known(due).fitness is None:
            next(self._results)
        return self._known(due)

    def _known(self, one: Individual) -> Individual:
        return self._population.known()[one.key]


def shared_base(inputs: Sequence[LoadedModel]) -> str:
    """The model that all inputs come from.

    Raises:
        MergeError: there are not three, or they are of different bases or architectures.
    """
    if len(inputs) != PARENTS:
        raise MergeError(
            f"EvoMerge takes three models of one base and was given {len(inputs)}; run the phase that trains "
            "them before it."
        )
    origins = {model.id: tuple(model.card.get("parents", {})) for model in inputs}
    if len(set(origins.values())) != 1 or len(origins[inputs[0].id]) != 1:
        listed = "; ".join(f"{model} from {' and '.join(of) or 'nothing'}" for model, of in origins.items())
        raise MergeError(
            f"the three models do not come from one base: {listed}. Models of different seeds cannot be "
            "merged: their average is worse than each of them."
        )
    first = inputs[0].config
    for model in inputs[1:]:
        if (differing := differing_key(first, model.config)) is not None:
            raise MergeError(
                f"the models are of different shapes: model.{differing} is not the same in {inputs[0].id} "
                f"and {model.id}; only models of one architecture can be merged."
            )
    return str(origins[inputs[0].id][0])


def differing_key(one: Any, other: Any) -> str | None:
    """The first setting in which two configurations of a model differ; none where they are alike."""
    return next((key for key, value in one if value != getattr(other, key)), None)


def conditions(bench: Bench, shards: TokenData) -> str:
    """A hash of all that a fitness depends on besides its recipe; not where it is measured."""
    parents = {}
    for model, folder in bench.parents.items():
        with (folder / "model.safetensors").open("rb") as file:
            parents[model] = hashlib.file_digest(file, "sha256").hexdigest()
    document = [
        parents, shards.info.key, bench.corpora, bench.seq_len, bench.precision, dict(bench.tokens),
        dict(bench.items),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def summary(batch: Batch, sigma: float) -> dict[str, float]:
    """A generation as points of the chart: the fitness of its members, and how far apart they are."""
    population = [*batch.elites, *batch.individuals]
    fit = [one.fitness or 0.0 for one in population]
    best = by_fitness(population)[0]
    bits = [value for name, value in best.metrics.items() if name.startswith("bpb")]
    points = [one.genome for one in population if one.genome]
    return {
        "best": max(fit),
        "mean": sum(fit) / len(fit),
        "worst": min(fit),
        "diversity": diversity(points, sigma),
        "val": sum(bits) / len(bits),
    }


def shares(evolution: Evolution, shipped: Individual) -> dict[str, float]:
    """Each parent's weight in the lineage of a candidate."""
    space = evolution.space
    if shipped.genome:
        return dict(space.shares(shipped.genome))
    return {model: 1.0 / len(shipped.parents) for model in shipped.parents}
