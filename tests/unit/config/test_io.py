"""Configurations in and out: every problem listed with its place, and nothing changed on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.config import (
    DEFAULT_PHASES,
    ForgeTrainingConfig,
    PipelineConfig,
    apply_overrides,
    contradictions,
    dump_yaml,
    json_schema,
    load_config,
    parse_yaml,
    preset_names,
    read_frozen,
)
from forge.config.check import parameter_count
from forge.data.tokenizer import EOS_ID
from forge.errors import ConfigError, NotFoundError
from forge.models.decoder import Decoder


def problems(text: str, *overrides: str) -> list[str]:
    """The lines of the refusal, its head line included."""
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "mine.yaml", overrides)
    return str(caught.value).splitlines()


# --- presets --------------------------------------------------------------------------------------------

PROMISED = {
    "tiny": (0.9e6, 1.15e6), "cognate-tiny": (0.7e6, 0.8e6), "25m": (22.5e6, 27.5e6),
    "25m-plain": (24.65e6, 24.75e6),
}  # fmt: skip


def test_the_presets_are_those_that_are_promised() -> None:
    assert preset_names() == sorted(PROMISED)


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_a_preset_loads_is_named_after_its_file_and_has_the_size_that_its_comment_says(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert contradictions(config) == []
    with torch.device("meta"):
        counted = sum(parameter.numel() for parameter in Decoder(config.model).parameters())
    assert parameter_count(config) == counted
    least, most = PROMISED[name]
    assert least < counted < most
    assert config.phases == (("cognate",) if name == "cognate-tiny" else DEFAULT_PHASES)


def test_plain_is_a_plain_decoder_and_its_sibling_is_cognate() -> None:
    plain, cognate = load_config("25m-plain").model, load_config("25m").model
    assert (plain.memory, plain.recursion, plain.window, plain.persistent_tokens) == (None, None, None, 0)
    assert not plain.qk_norm
    assert cognate.memory is not None
    assert cognate.recursion is not None
    assert cognate.qk_norm
    assert cognate.sub_norm
    assert cognate.document_end == EOS_ID


# --- what a person gets wrong ---------------------------------------------------------------------------


def test_unknown_keys_are_refused_all_at_once_with_their_place() -> None:
    found = problems("sed: 1\nmodel: {width: 3, d_model: 64}\nforging: {grokfast: {lambda: 2}}")
    assert found == [
        "mine.yaml: 3 problems",
        "  model.width: unknown key",
        "  forging.grokfast.lambda: unknown key",
        "  sed: unknown key",
    ]


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("seed: -1", "seed", "greater than or equal to 0 (got -1)"),
        ("seed: x", "seed", "(got 'x')"),
        ("pretrain: {learning_rate: .nan}", "pretrain.learning_rate", "finite number"),
        ("pretrain: {learning_rate: .inf}", "pretrain.learning_rate", "finite number"),
        ("pretrain: {steps: 1.5}", "pretrain.steps", "valid integer"),
        ("pretrain: 5", "pretrain", "(got 5)"),
        ("phases: [pretrain, forge]", "phases", "phases are pretrain, cognate, evomerge, forging; got forge"),
        ("phases: []", "phases", "got none"),
        ("1: 2", "1", "string"),
        ("model: {d_model: 2020-01-01}", "model.d_model", "valid integer"),
        ("runtime: {vram_budget_gb: 0}", "runtime.vram_budget_gb", "greater than 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(text: str, place: str, reason: str) -> None:
    head, line, *others = problems(text)
    assert (head, others) == ("mine.yaml: 1 problem", [])
    assert line.startswith(f"  {place}: ")
    assert reason in line


NO_YAML = {
    "open list": "a: [",
    "tab": "\t- x",
    "open string": "a: 'x",
    "version": "%YAML 9.9\n---\n",
    "object": "a: !!python/object:os.system {}",
    "nul": "\x00",
    "list as key": "? [a]\n: b",
    "depth": "[" * 5000,
    "date": "a: 2020-13-45",
    "long number": "seed: " + "9" * 5000,
    "long hexadecimal number": "seed: 0x" + "f" * 100_000,
    "minutes without end": "seed: 1" + ":1" * 50_000,
    "fraction of minutes without end": "seed: 1" + ":1" * 50_000 + ".5",
    "nothing as a number": 'seed: !!int ""',
    "nothing as a fraction": 'seed: !!float ""',
    "half a truth": "seed: !!bool maybe",
    "no time": "seed: !!timestamp soon",
    "merges that multiply": "\n".join(
        ["a0: &a0 {k: v}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)]
    ),
}


@pytest.mark.parametrize("text", NO_YAML.values(), ids=NO_YAML)
def test_what_is_no_yaml_is_one_sentence(text: str) -> None:
    (line,) = problems(text)
    assert line.startswith("mine.yaml: not valid YAML: ")


def test_a_key_that_stands_twice_is_refused_with_its_line() -> None:
    (line,) = problems("seed: 1\npretrain:\n  steps: 5\n  steps: 6\n")
    assert line == "mine.yaml: not valid YAML: the key steps stands twice in line 4, column 3"


def test_what_is_wrong_is_said_once_and_where() -> None:
    assert problems("a: [1,\nb: {") == [
        "mine.yaml: not valid YAML: while parsing a flow node, expected the node content, but found "
        "'<stream end>' in line 2, column 5"
    ]
    assert problems("seed: 1", "seed=[")[0].count("seed=[") == 1


@pytest.mark.parametrize(("text", "kind"), [("[1, 2]", "list"), ("hello", "str"), ("5", "int")])
def test_what_is_no_mapping_is_refused(text: str, kind: str) -> None:
    assert problems(text) == [f"mine.yaml: expected keys and values, found {kind}"]


def test_nothing_at_all_is_the_default() -> None:
    assert parse_yaml("", "empty") == PipelineConfig()
    assert parse_yaml("# only a comment", "empty") == PipelineConfig()


def test_an_alias_that_grows_without_bound_is_refused_at_once() -> None:
    lines = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{l: *a{i - 1}, r: *a{i - 1}}}" for i in range(1, 60)]
    (found,) = problems("\n".join([*lines, "seed: *a59"]))
    assert "over 100,000 values, with every alias written out" in found
    (found,) = problems("model: &m\n  window: *m\n")
    assert found == "mine.yaml: not valid YAML: an alias stands for itself in line 1, column 8"


def test_an_alias_that_shares_a_group_is_no_link_between_the_two() -> None:
    text = "pretrain: &t {steps: 100, warmup_steps: 5}\nforging: {<<: *t, lambda_ramp_steps: 10}\n"
    config = parse_yaml(text, "mine.yaml", ["forging.steps=50"])
    assert (config.pretrain.steps, config.forging.steps, config.forging.warmup_steps) == (100, 50, 5)


def test_a_source_that_is_neither_preset_nor_file_names_the_presets(tmp_path: Path) -> None:
    for source in ("tinny", str(tmp_path), str(tmp_path / "none.yaml")):
        with pytest.raises(NotFoundError, match="presets are 25m, 25m-plain, cognate-tiny, tiny"):
            load_config(source)


NO_CONFIGURATION = {
    "latin-1": (b"name: caf\xe9", "not UTF-8 text"),
    "large": (b"x" * (1 << 18) + b"x", "larger than 262144 bytes, so not a Forge configuration"),
    "pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0", "this is a pickle.*convert it"),
}


@pytest.mark.parametrize(("content", "reason"), NO_CONFIGURATION.values(), ids=NO_CONFIGURATION)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_config(str(path))
    assert str(path) in str(caught.value)


def test_a_frozen_configuration_that_is_gone_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"session\.yaml: No such file or directory"):
        read_frozen(tmp_path / "session.yaml")


# --- contradictions -------------------------------------------------------------------------------------

WITH_MEMORY = "model.memory={chunk: 32}"
WITH_HALTING = "model.recursion={supervision: 2, halting: ponder}"
COGNATE = ("phases=[cognate]", WITH_MEMORY, WITH_HALTING)
CONTRADICTIONS = [
    (["model.n_heads=3"], "model.n_heads: d_model 128 is not divisible by n_heads 3"),
    (["model.n_heads=128"], "model.n_heads: head size 1 is odd; rotary positions need an even one"),
    (["data.seq_len=256"], "data.seq_len: 256 is longer than model.max_seq_len 128"),
    (
        ["data.dev_fraction=0.3", "data.test_fraction=0.2"],
        "data.test_fraction: dev_fraction and test_fraction together leave less than half for training",
    ),
    (["pretrain.micro_batch=5"], "pretrain.micro_batch: 5 does not divide batch_size 16"),
    (["forging.micro_batch=32"], "forging.micro_batch: 32 does not divide batch_size 16"),
    (["pretrain.warmup_steps=400"], "pretrain.warmup_steps: 400 warm-up steps leave nothing of 400"),
    (
        ["forging.quantization_aware=false"],
        "forging.ste_enabled: there is nothing to bridge with quantization_aware: false; set it to false too",
    ),
    (
        ["forging.lambda_ramp_steps=400"],
        "forging.lambda_ramp_steps: a ramp of 400 steps never reaches 1 in 400 steps",
    ),
    (
        ["forging.grokfast={kind: ma, window: 2000}", "runtime.vram_budget_gb=6"],
        "forging.grokfast.window: 2000 gradients need 8.9 GB, the budget is 6 GB; take ema",
    ),
    (["model.document_end=2048"], "model.document_end: token 2048 is outside a vocabulary of 2048"),
    (["model.memory={n_heads: 3}"], "model.memory.n_heads: d_model 128 is not divisible by 3 memories"),
    (
        ["model.memory={chunk: 128}"],
        "model.memory.chunk: 128 tokens are a whole sequence of 128: no token would ever be measured against "
        "what the memory has learned",
    ),
    (["model.memory={every: 5}"], "model.memory.every: 5 is more than the 4 blocks there are"),
    (
        ["model.recursion={supervision: 1, halting: ponder}"],
        "model.recursion.halting: with supervision: 1 there is nothing to stop early; set it to null",
    ),
    (
        ["phases=[pretrain, evomerge]", "evomerge.groups=9"],
        "evomerge.groups: 9 groups of the 4 layers there are",
    ),
    (
        ["phases=[pretrain, evomerge]", "evomerge.elites=12"],
        "evomerge.elites: 12 elites leave no room for new candidates in a population of 12",
    ),
    (
        ["phases=[pretrain, evomerge]", "evomerge.executor=processes", "runtime.vram_budget_gb=6"],
        "evomerge.executor: a budget of GPU memory holds for one process; take inprocess, or set "
        "runtime.vram_budget_gb to null",
    ),
    (["phases=[forging]"], "phases: forging needs a model: start with pretrain or cognate"),
    (
        ["phases=[pretrain, pretrain]"],
        "phases: phases run once each, in the order pretrain, cognate, evomerge, forging",
    ),
    (
        ["phases=[cognate]", WITH_MEMORY],
        "model.recursion: the branches of cognate need one with halting; set it, or run pretrain",
    ),
    (
        ["phases=[cognate]", WITH_MEMORY, "model.recursion={supervision: 2}"],
        "model.recursion: the branches of cognate need one with halting; set it, or run pretrain",
    ),
    (
        ["phases=[cognate]", WITH_HALTING],
        "model.memory: the memory branch of cognate needs one; set it, or run pretrain",
    ),
    (
        [*COGNATE, "cognate.memory.warmup_steps=100"],
        "cognate.memory.warmup_steps: 100 warm-up steps leave nothing of 100",
    ),
    (
        [*COGNATE, "cognate.memory.memory_chunk=128"],
        "cognate.memory.memory_chunk: 128 tokens are a whole sequence of 128",
    ),
    (
        [*COGNATE, "cognate.speed.supervision=1"],
        "cognate.speed.supervision: with one supervision step there is nothing to stop early",
    ),
    (
        [*COGNATE, "model.recursion.halting=correctness", "cognate.reasoning.halting_prior=null"],
        "cognate.speed.halting_prior: only model.recursion.halting: ponder has a prior; set it to null",
    ),
    (
        [*COGNATE, "cognate.micro_batch=3"],
        "cognate.micro_batch: 3 does not divide batch_size 16",
    ),
    (
        [*COGNATE, "phases=[cognate, forging]"],
        "phases: cognate hands on three models and forging takes one; put evomerge between them",
    ),
    (
        [*COGNATE, "phases=[pretrain, cognate]"],
        "phases: pretrain and cognate each begin from nothing; leave one of them out",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "expected"), CONTRADICTIONS)
def test_each_contradiction_is_a_sentence_with_its_place(overrides: list[str], expected: str) -> None:
    assert problems("", *overrides) == ["mine.yaml: 1 problem", f"  {expected}"]


def test_contradictions_are_listed_together() -> None:
    head, *lines = problems("", "model.n_heads=3", "data.seq_len=256", "phases=[forging, pretrain]")
    assert head == "mine.yaml: 4 problems"
    places = [line.strip().split(":")[0] for line in lines]
    assert places == ["model.n_heads", "data.seq_len", "phases", "phases"]


def test_without_quantisation_a_ramp_is_no_contradiction() -> None:
    off = ["forging.quantization_aware=false", "forging.ste_enabled=false", "forging.lambda_ramp_steps=400"]
    assert not parse_yaml("", "mine.yaml", off).forging.quantization_aware


# --- overrides ------------------------------------------------------------------------------------------


def test_overrides_are_yaml_values_at_places() -> None:
    config = load_config(
        "tiny",
        [
            "pretrain.learning_rate=1e-4", "forging.grokfast=null", "model.qk_norm=no", "name=a=b",
            "pretrain.betas=[0.8, 0.9]", "model.window=64", "forging.learning_rate=2.5E+0",
        ],
    )  # fmt: skip
    assert config.pretrain.learning_rate == 1e-4
    assert config.forging.grokfast is None
    assert config.forging.learning_rate == 2.5
    assert (config.model.qk_norm, config.model.window, config.name) == (False, 64, "a=b")
    assert config.pretrain.betas == (0.8, 0.9)


@pytest.mark.parametrize("name", ["infinity", "nan", "1_0", "e5", "1e"])
def test_a_word_stays_a_word(name: str) -> None:
    assert apply_overrides({}, [f"name={name}"])["name"] == yaml.safe_load(name)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("steps", 'override "steps": expected key=value, for example pretrain.steps=200'),
        ("=5", "expected key=value"),
        ("pretrain.steps=[", 'override "pretrain.steps=[": '),
        ("name=2020-13-45", 'override "name=2020-13-45": '),
        ("seed.x=1", "seed is not a group of settings"),
    ],
)
def test_an_override_that_makes_no_sense_is_refused(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides({"seed": 1}, [override])
    assert expected in str(caught.value)


def test_overrides_leave_what_they_were_given_alone() -> None:
    data: dict[str, Any] = {"pretrain": {"steps": 5}}
    assert apply_overrides(data, ["pretrain.steps=6", "model.d_model=64"]) == {
        "pretrain": {"steps": 6},
        "model": {"d_model": 64},
    }
    assert data == {"pretrain": {"steps": 5}}


# --- out and in again -----------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=12)
positive = st.floats(1e-12, 1e12, allow_nan=False)


@st.composite
def configs(draw: st.DrawFn) -> PipelineConfig:
    """Configurations without contradictions."""
    heads, head, micro = draw(st.integers(1, 4)), 2 * draw(st.integers(2, 8)), draw(st.integers(1, 8))
    steps = draw(st.integers(2, 10_000))
    seq_len = draw(st.integers(8, 64))
    grokfast = draw(
        st.none()
        | st.fixed_dictionaries(
            {"kind": st.sampled_from(["ema", "ma"]), "alpha": st.floats(0.01, 0.99), "lamb": st.floats(0, 5)}
        )
    )
    training = {
        "steps": steps,
        "warmup_steps": draw(st.integers(0, steps - 1)),
        "micro_batch": micro,
        "batch_size": micro * draw(st.integers(1, 4)),
        "learning_rate": draw(positive),
        "betas": (draw(st.floats(0, 1)), draw(st.floats(0, 1))),
        "grad_clip": draw(st.none() | positive),
        "grokfast": grokfast,
        "schedule": draw(st.sampled_from(["constant", "cosine", "linear", "wsd"])),
    }
    aware = draw(st.booleans())
    return PipelineConfig.model_validate(
        {
            "name": draw(texts),
            "seed": draw(st.integers(0, 2**32 - 1)),
            "phases": draw(st.sampled_from([("pretrain",), DEFAULT_PHASES])),
            "model": {"d_model": max(16, heads * head) // heads * heads if heads * head >= 16 else 16,
                      "n_heads": heads if heads * head >= 16 else 1, "max_seq_len": seq_len,
                      "norm_eps": draw(positive), "window": draw(st.none() | st.integers(1, 99))},
            "data": {"corpus": "text:" + draw(texts), "seq_len": seq_len},
            "runtime": {"device": draw(texts), "threads": draw(st.none() | st.integers(1, 64))},
            "pretrain": training,
            "forging": {**training, "quantization_aware": aware, "ste_enabled": aware,
                        "lambda_ramp_steps": draw(st.integers(0, steps - 1))},
        }
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(config=configs())
def test_yaml_out_and_in_again_changes_nothing(config: PipelineConfig) -> None:
    text = dump_yaml(config)
    assert parse_yaml(text.encode().decode(), "again") == config
    assert dump_yaml(parse_yaml(text, "again")) == text


@pytest.mark.parametrize(
    "odd", ["\x85", "\u2028", "\u2029", "\ufeff", "\x07", "\x7f", "\r\n", "é 日本 🔨", "~", "1e5", "no"]
)
def test_what_a_person_may_write_comes_back_as_it_was(odd: str) -> None:
    config = PipelineConfig(name=odd)
    assert parse_yaml(dump_yaml(config), "again").name == odd


def test_a_dump_says_everything_so_that_new_defaults_change_no_old_session() -> None:
    written = yaml.safe_load(dump_yaml(PipelineConfig()))
    assert set(written["forging"]) == set(ForgeTrainingConfig.model_fields)
    assert set(written) == set(PipelineConfig.model_fields)


# --- schema ---------------------------------------------------------------------------------------------


def test_every_field_of_the_schema_is_documented() -> None:
    schema = json_schema()
    groups = {"PipelineConfig": schema, **schema["$defs"]}
    undocumented = [
        f"{group}.{name}"
        for group, body in groups.items()
        for name, field in body["properties"].items()
        if not field.get("description")
    ]
    assert undocumented == []
    assert len(groups) == 14
    assert all(body["additionalProperties"] is False for body in groups.values())


def test_settings_cannot_be_changed_once_made() -> None:
    with pytest.raises(ValueError, match="frozen"):
        PipelineConfig().seed = 5  # type: ignore[misc]
