"""Whole merges of pico models: what comes out, what is refused with its name, and how much is in memory."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from forge import durable, locks
from forge.config import ModelConfig
from forge.errors import ConfigError, MergeError
from forge.merge import METHODS, Group, blocks, check_recipe, merge, merging
from forge.merge.checkpoint import Checkpoint
from forge.merge.plan import Plan, Planned
from forge.merge.writer import TensorWriter
from forge.models.decoder import Decoder
from forge.models.io import load_decoder
from tests.unit.merge.rig import Tensors, drawn, pico, read_model, write_model
from tests.unit.models.saving import save_decoder

MERGEKIT = os.environ.get("FORGE_MERGEKIT")
"""`mergekit-yaml` of an environment that has it, to compare whole results."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models `base`, `a` and `b` in the current folder."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(["base", "a", "b"]):
        write_model(tmp_path / name, pico(seed))
    return tmp_path


def recipe(method: str = "ties", **more: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "merge_method": method,
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"weight": 0.5},
    }
    return {key: value for key, value in {**document, **more}.items() if value is not None}


def merged(document: dict[str, Any], output: str = "out") -> Tensors:
    """The tensors of a merge."""
    merge(check_recipe(document), Path(output))
    return read_model(Path(output))


def refused(document: dict[str, Any], match: str, error: type[Exception] = MergeError) -> None:
    """A merge that must fail, and leave nothing behind."""
    before = sorted(Path().rglob("*"))
    with pytest.raises(error, match=match):
        merge(check_recipe(document), Path("out"))
    assert sorted(Path().rglob("*")) == before


def change(model: str, edit: Callable[[dict[str, Any]], Any], **config: Any) -> None:
    """Write a model anew, changed."""
    tensors: dict[str, Any] = dict(read_model(Path(model)))
    edit(tensors)
    save_file(tensors, Path(model, "model.safetensors"), metadata={"format": "pt"})
    path = Path(model, "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **config}), "utf-8")


def test_every_tensor_is_what_the_method_gives() -> None:
    result = merged(recipe("ties", parameters={"weight": 0.5, "density": 0.3}))
    base, a, b = pico(0), pico(1), pico(2)
    assert result.keys() == base.keys()
    for name, tensor in result.items():
        of = Group(name, [a[name], b[name]], base[name])
        expected = METHODS["ties"].merge(of, weight=[0.5, 0.5], density=[0.3, 0.3])
        np.testing.assert_array_equal(tensor, expected)


def test_what_lies_beside_the_weights(folder: Path) -> None:
    for name, text in {"tokenizer.json": '{"model": {}}', "merges.txt": "a b", "secret.py": "1"}.items():
        (folder / "base" / name).write_text(text, "utf-8")
    document = recipe(dtype="bfloat16", seed=7)
    done = merge(check_recipe(document), Path("out"))
    names = {path.name for path in Path("out").iterdir()}
    assert names == {"model.safetensors", "config.json", "card.json", "tokenizer.json", "merges.txt"}
    card = json.loads(Path("out/card.json").read_text("utf-8"))
    assert card["recipe"] == document
    assert card["seed"] == 7
    assert card["parameters"] == done.parameters == sum(tensor.size for tensor in pico(0).values())
    assert [parent["model"] for parent in card["parents"]] == ["base", "a", "b"]
    assert [parent["base"] for parent in card["parents"]] == [True, False, False]

    def digest(path: str) -> str:
        return hashlib.sha256(Path(path, "model.safetensors").read_bytes()).hexdigest()

    assert card["sha256"] == done.sha256 == digest("out")
    assert [p["sha256"]["model.safetensors"] for p in card["parents"]] == [
        digest(p) for p in ("base", "a", "b")
    ]
    config = json.loads(Path("out/config.json").read_text("utf-8"))
    assert config == {**json.loads(Path("base/config.json").read_text("utf-8")), "torch_dtype": "bfloat16"}
    assert done.bytes == Path("out/model.safetensors").stat().st_size


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    stored = {
        m: {n: torch.from_numpy(t).to(dtype) for n, t in pico(i).items()} for i, m in enumerate(("base", "a"))
    }
    for model, tensors in stored.items():
        save_torch(tensors, Path(model, "model.safetensors"))
    document = recipe("task_arithmetic", models=[{"model": "a"}], parameters={"weight": 0.3})
    merge(check_recipe(document), Path("out"))
    for name, tensor in load_torch("out/model.safetensors").items():
        base, a = stored["base"][name].float(), stored["a"][name].float()
        assert tensor.dtype == dtype
        assert torch.equal(tensor, (base + (a - base) * torch.tensor(0.3)).to(dtype))


def test_mixed_formats_give_the_wider_one_unless_told() -> None:
    save_torch({n: torch.from_numpy(t).half() for n, t in pico(1).items()}, "a/model.safetensors")
    assert {tensor.dtype for tensor in merged(recipe()).values()} == {np.dtype(np.float32)}
    assert {tensor.dtype for tensor in merged(recipe(out_dtype="float16"), "half").values()} == {
        np.dtype(np.float16)
    }


def shard(model: str, pieces: int = 3) -> None:
    """Cut a model into shards with an index."""
    tensors = read_model(Path(model))
    index = {name: f"model-{i % pieces}.safetensors" for i, name in enumerate(tensors)}
    for file in set(index.values()):
        save_file({name: tensors[name] for name in tensors if index[name] == file}, Path(model, file))
    Path(model, "model.safetensors").unlink()
    Path(model, "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), "utf-8")


def test_shards_give_the_same_result() -> None:
    one = merged(recipe())
    shard("a")
    shard("base", 2)
    other = merged(recipe(), "again")
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    files = json.loads(Path("again/card.json").read_text("utf-8"))["parents"][0]["sha256"]
    assert sorted(files) == ["model-0.safetensors", "model-1.safetensors"]


def test_files_alone_are_merged_too() -> None:
    document = recipe(
        base_model="base/model.safetensors",
        models=[{"model": "a/model.safetensors"}],
    )
    assert merged(document).keys() == pico(0).keys()
    assert {path.name for path in Path("out").iterdir()} == {"model.safetensors", "card.json"}


def test_slices_are_stacked_and_the_configuration_follows() -> None:
    change("a", lambda tensors: None, layer_types=["x", "y", "z"], eos_token_id=[1, 2, 3])
    muted = {"filter": "o_proj", "value": 0}
    document = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 2]}]},
            {"sources": [{"model": "b", "layer_range": [1, 3], "parameters": {"scale": muted}}]},
        ],
    }  # fmt: skip
    result, a, b = merged(document), pico(1), pico(2)
    config = json.loads(Path("out/config.json").read_text("utf-8"))
    assert config["num_hidden_layers"] == 4
    assert config["layer_types"] == ["x", "y", "y", "z"]
    assert config["eos_token_id"] == [1, 2, 3]
    np.testing.assert_array_equal(result["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    np.testing.assert_array_equal(result["model.norm.weight"], b["model.norm.weight"])
    up = "model.layers.{}.mlp.up_proj.weight"
    for layer, (source, of) in enumerate([(a, 0), (a, 1), (b, 1), (b, 2)]):
        np.testing.assert_array_equal(result[up.format(layer)], source[up.format(of)])
    assert not result["model.layers.3.self_attn.o_proj.weight"].any()
    assert result["model.layers.1.self_attn.o_proj.weight"].any()


def test_a_gradient_goes_through_the_layers() -> None:
    document = recipe("task_arithmetic", models=[{"model": "a"}], parameters={"weight": [0, 1]})
    result, base, a = merged(document), pico(0), pico(1)
    for layer, weight in enumerate([0.0, 0.5, 1.0]):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        np.testing.assert_allclose(result[name], base[name] + weight * (a[name] - base[name]), atol=1e-6)
    np.testing.assert_array_equal(result["model.norm.weight"], base["model.norm.weight"])


def test_the_models_of_forge_itself() -> None:
    config = ModelConfig(vocab_size=300, d_model=16, n_layers=2, n_heads=2, d_ff=16, max_seq_len=16)
    for seed, name in enumerate(["one", "two"]):
        Path(name).mkdir()
        save_decoder(Decoder(config).initialise(torch.Generator().manual_seed(seed)), Path(name))
        Path(name, "card.json").write_text('{"quantisation": {"activation_bits": 8}}', "utf-8")
    document = {
        "merge_method": "linear",
        "models": [{"model": "one"}, {"model": "two"}],
        "parameters": {"weight": [1, 1]},
    }
    merge(check_recipe(document), Path("out"))
    model = load_decoder(Path("out"), torch.device("cpu"))
    one, two = (load_decoder(Path(name), torch.device("cpu")).state_dict() for name in ("one", "two"))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, (one[name] + two[name]) / 2)
    assert json.loads(Path("out/card.json").read_text("utf-8"))["quantisation"] == {"activation_bits": 8}


def test_a_tied_head_that_is_stored_is_merged_once() -> None:
    def add_head(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]

    change("a", add_head)
    assert "lm_head.weight" not in merged(recipe())


def test_an_untied_head_is_a_tensor_of_its_own() -> None:
    for seed, model in enumerate(("base", "a", "b")):
        head = drawn(seed, (20, 8))
        change(model, functools.partial(dict.update, **{"lm_head.weight": head}), tie_word_embeddings=False)
    result = merged(recipe("task_arithmetic"))
    expected = 0.5 * drawn(1, (20, 8)) + 0.5 * drawn(2, (20, 8))
    np.testing.assert_allclose(result["lm_head.weight"], expected, atol=1e-6)


def test_buffers_are_copied() -> None:
    for model in ("base", "a", "b"):
        change(model, lambda tensors: tensors.update(ids=np.arange(9)))
    np.testing.assert_array_equal(merged(recipe())["ids"], np.arange(9))
    change("b", lambda tensors: tensors.update(ids=np.arange(9) + 1))
    with pytest.raises(MergeError, match=r"ids is a buffer of I64.*a and b"):
        merge(check_recipe(recipe()), Path("again"))


def test_the_same_recipe_gives_the_same_bytes() -> None:
    document = recipe("dare_ties", parameters={"weight": 0.5, "density": 0.5})
    first = merge(check_recipe(document), Path("one"))
    assert merge(check_recipe(document), Path("two")).sha256 == first.sha256
    assert merge(check_recipe({**document, "seed": 1}), Path("three")).sha256 != first.sha256


NAME = "model.layers.1.mlp.up_proj.weight"
LINEAR = recipe("linear", base_model=None)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    change("b", lambda tensors: tensors[NAME].__setitem__((3, 3), bad))
    refused(recipe(), rf"b/model.safetensors: {NAME} holds NaN")


def test_a_result_that_does_not_fit_its_format_is_refused() -> None:
    document = recipe(
        "linear", base_model=None, parameters={"weight": 1e6, "normalize": False}, dtype="float16"
    )
    refused(document, r"model\..*: the merged values are not finite in F16")


def test_a_missing_tensor_and_one_too_many_are_refused_together() -> None:
    change("b", lambda tensors: tensors.update(extra=tensors.pop(NAME)))
    refused(recipe(), rf"(?s)b lacks {NAME}, which base has.*b has extra, which base lacks")


def test_another_shape_is_refused() -> None:
    change("b", lambda tensors: tensors.update({NAME: drawn(0, (12, 9))}))
    refused(LINEAR, rf"{NAME} is \[12, 8\] in a, \[12, 9\] in b")


def test_a_long_list_is_cut() -> None:
    change("b", lambda tensors: [tensors.pop(name) for name in list(tensors)[:-1]])
    with pytest.raises(MergeError, match="and 18 more") as raised:
        merge(check_recipe(recipe()), Path("out"))
    assert len(str(raised.value).splitlines()) == 12


@pytest.mark.parametrize(
    ("key", "value"), [("model_type", "qwen2"), ("num_attention_heads", 4), ("tie_word_embeddings", False)]
)
def test_another_architecture_is_refused(key: str, value: Any) -> None:
    change("b", lambda tensors: None, **{key: value})
    refused(recipe(), rf"config\.json: {key} is .* in base, {value!r} in b")


def test_another_tokenizer_is_refused() -> None:
    for model, number in (("base", 1), ("a", 1), ("b", 2)):
        vocabulary = {"model": {"vocab": {"x": 0, "y": number}}, "decoder": number}
        Path(model, "tokenizer.json").write_text(json.dumps(vocabulary), "utf-8")
    refused(recipe(), r"tokenizer\.json: model\.vocab\.y is not the same in base and b")


def test_another_quantisation_is_refused() -> None:
    Path("b/card.json").write_text('{"quantisation": {"activation_bits": 8}}', "utf-8")
    refused(recipe(), r"card\.json: quantisation is not the same in base and b")


def test_tied_weights_that_differ_are_refused() -> None:
    change("b", lambda tensors: tensors.update({"lm_head.weight": drawn(5, (20, 8))}))
    refused(
        recipe(), r"b: config\.json ties lm_head\.weight to model\.embed_tokens\.weight, but the two differ"
    )


def test_formats_that_are_not_merged_are_refused() -> None:
    change("b", lambda tensors: tensors.update({NAME: drawn(0, (12, 8)).astype(np.float64)}))
    refused(recipe(), rf"b: {NAME} is stored as F64")


def test_a_weight_in_one_and_a_buffer_in_another_is_refused() -> None:
    change("b", lambda tensors: tensors.update({NAME: np.zeros((12, 8), np.int32)}))
    refused(recipe(), rf"{NAME} is F32 in base, I32 in b")


def index(shard_of_w: str) -> dict[str, bytes]:
    """An index of one tensor, `w`."""
    return {"model.safetensors.index.json": json.dumps({"weight_map": {"w": shard_of_w}}).encode()}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither model.safetensors nor"),
        ({"pytorch_model.bin": b""}, "this is a pickle"),
        ({"model.safetensors.index.json": b"{}"}, "weight_map is missing"),
        (index("../a/model.safetensors"), "w is in '../a"),
        (index("/etc/passwd"), "no file beside it"),
        (index("x.safetensors"), "x.safetensors: No such"),
        ({"model.safetensors.index.json": b"[" * 100_000}, "cannot be read"),
    ],
)  # fmt: skip
def test_a_folder_without_weights_is_refused(files: dict[str, bytes], message: str) -> None:
    Path("c").mkdir()
    for name, data in files.items():
        Path("c", name).write_bytes(data)
    refused(recipe(models=[{"model": "c"}]), message)


def test_a_shard_that_lacks_what_the_index_promises_is_refused() -> None:
    shard("b")
    index = json.loads(Path("b/model.safetensors.index.json").read_text("utf-8"))
    index["weight_map"]["ghost"] = "model-0.safetensors"
    Path("b/model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    refused(recipe(), r"b/model-0\.safetensors: ghost is missing")


def test_a_model_that_is_nowhere_is_refused() -> None:
    refused(
        recipe(models=[{"model": "meta/llama"}]),
        "meta/llama: no such folder or file; Forge downloads nothing",
    )


def test_layers_that_are_not_there_are_refused() -> None:
    document = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": "a", "layer_range": [2, 5]}]}],
    }
    refused(document, r"slices\[0\]: layer_range \[2, 5\], but a has 3 layers", ConfigError)


def test_layers_that_cannot_be_told_are_refused() -> None:
    for model in ("base", "a", "b"):
        change(
            model,
            lambda tensors: tensors.update(
                {"other.0.w": drawn(0), "other.1.w": drawn(0), "other.2.w": drawn(0)}
            ),
        )
    merged(recipe())
    document = recipe(parameters={"weight": [0, 1]})
    with pytest.raises(MergeError, match="which tensors are its layers cannot be told"):
        merge(check_recipe(document), Path("again"))


def test_filters_that_leave_a_tensor_out_are_refused() -> None:
    document = recipe(parameters={"weight": [{"filter": "mlp", "value": 1}]})
    refused(document, r"parameters\.weight: no filter gives model\.\S+ a value", ConfigError)


def test_weights_that_cancel_are_refused() -> None:
    models = [{"model": "a", "parameters": {"weight": 1}}, {"model": "b", "parameters": {"weight": -1}}]
    document = recipe("linear", base_model=None, models=models, parameters=None)
    refused(document, "the weights add up to 0", ConfigError)


def test_an_epsilon_that_is_too_wide_is_refused() -> None:
    document = recipe("della", parameters={"weight": 1, "density": 0.1})
    refused(document, r"epsilon 0\.15 around density 0\.1 leaves", ConfigError)


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_an_output_that_exists_is_refused(kind: str) -> None:
    if kind == "folder":
        Path("out").mkdir()
    elif kind == "file":
        Path("out").write_text("mine", "utf-8")
    else:
        Path("out").symlink_to("nowhere")
    refused(recipe(), "out: exists already")


def test_too_little_room_is_told_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused(recipe(), r"bytes are needed, 1000 are free")


def test_a_parent_that_is_written_to_meanwhile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    companions = merging._write_companions

    def meddle(*args: Any) -> None:
        companions(*args)
        os.utime("a/model.safetensors", ns=(1, 1))

    monkeypatch.setattr(merging, "_write_companions", meddle)
    refused(recipe(), r"a/model\.safetensors: was written to while it was merged")


@pytest.mark.parametrize("step", ["write_file", "sync", "sync_folder", "move"])
def test_a_disk_that_fails_leaves_nothing(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(Path().rglob("*"))

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    # The folder for the result is made before; from then on everything may fail.
    made = durable.make_scratch

    def make(path: Path) -> None:
        made(path)
        monkeypatch.setattr(durable, step, fail)

    monkeypatch.setattr(durable, "make_scratch", make)
    with pytest.raises(OSError, match="No space left"):
        merge(check_recipe(recipe()), Path("out"))
    assert [path for path in sorted(Path().rglob("*")) if path not in before] == []


def test_what_is_written_is_synced_before_it_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    for name in ("sync", "move"):
        original = getattr(durable, name)

        def spy(*args: Any, name: str = name, original: Any = original) -> None:
            steps.append(str(Path(f"/proc/self/fd/{args[0]}").readlink()) if name == "sync" else name)
            original(*args)

        monkeypatch.setattr(durable, name, spy)
    merge(check_recipe(recipe()), Path("out"))
    renamed = steps.index("move")
    written = {Path(path).name for path in steps[:renamed]}
    assert {"model.safetensors", "config.json", "card.json"} <= written
    assert Path(steps[renamed - 1]).name.startswith(".out.tmp-")


def test_one_tensor_of_each_model_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # Twelve tensors of 2.4 MB in each of three models; everything at once would be 86 MB.
    names = [f"w{i:02}" for i in range(12)]
    for seed, model in enumerate(("base", "a", "b")):
        save_file(
            {n: drawn(seed + i, (600_000,)) for i, n in enumerate(names)}, Path(model, "model.safetensors")
        )
    read: list[Planned] = []
    groups = merging.TensorReader.groups

    def spy(self: merging.TensorReader, planned: Planned, seed: int) -> Iterator[Group]:
        read.append(planned)
        return groups(self, planned, seed)

    monkeypatch.setattr(merging.TensorReader, "groups", spy)
    monkeypatch.setattr(blocks, "BLOCK", 1 << 13)
    tracemalloc.start()
    merge(check_recipe(recipe("ties", parameters={"weight": 1, "density": 0.5})), Path("out"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [planned.name for planned in read] == names
    one = 2_400_000
    # Three parents, the result, and not another tensor for all the rest; hashing takes a megabyte.
    assert 4 * one < peak < 5 * one + (1 << 20)


def test_memory_is_used_again() -> None:
    reader_memory: set[int] = set()
    plan = Plan(
        [Planned("w", "F32", (4,), ((0, "w"),), None, {}), Planned("v", "F32", (2,), ((0, "v"),), None, {})]
    )
    write_model(Path("c"), {"w": drawn(0, (4,)), "v": drawn(1, (2,))})
    with Checkpoint(Path("c")) as checkpoint:
        reader = merging.TensorReader([checkpoint], plan)
        for planned in plan.tensors:
            (group,) = reader.groups(planned, 0)
            (tensor,) = group.tensors
            reader_memory.add(tensor.__array_interface__["data"][0])
    assert len(reader_memory) == 1


def test_a_method_that_works_by_the_element_reads_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, model in enumerate(("base", "a", "b")):
        save_file(
            {"w": drawn(seed, (600, 1000)), "v": drawn(9 + seed, (7,))}, Path(model, "model.safetensors")
        )
    given = recipe("linear", base_model=None, parameters={"weight": 1})
    merge(check_recipe(given), Path("whole"))
    monkeypatch.setattr(merging, "_PART", 1 << 14)
    monkeypatch.setattr(blocks, "BLOCK", 1 << 13)
    tracemalloc.start()
    merge(check_recipe(given), Path("out"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_400_000
    assert Path("out/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.elementwise])
def test_an_element_depends_on_itself_alone(name: str) -> None:
    values: dict[str, Any] = {"scale": [0.5]} if name == "passthrough" else {"weight": [0.5, 0.25]}
    tensors = [drawn(1), drawn(2)][: len(next(iter(values.values())))]
    base = drawn(0)
    whole = METHODS[name].merge(Group("w", tensors, base), **values).reshape(-1)
    part = Group("w", [tensor.reshape(-1)[50:90] for tensor in tensors], base.reshape(-1)[50:90])
    assert np.array_equal(METHODS[name].merge(part, **values), whole[50:90])


def test_a_tensor_that_is_not_whole_is_no_file(tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path / "x.safetensors", [("w", "F32", (4,))])
    with writer, pytest.raises(ValueError, match="w has 12 bytes where the header has 16"):
        writer.write("w", [drawn(0, (3,))])


def test_a_parent_that_lies_in_a_session_is_kept_from_cleanup() -> None:
    session = Path("sessions") / "01J00000000000000000000001"
    write_model(session / "models" / "m", {"w": drawn(0, (4,))})
    (session / "session.yaml").touch()
    with Checkpoint(session / "models" / "m"):
        assert locks.is_used(session)
    assert not locks.is_used(session)


def recipes() -> Iterator[tuple[str, dict[str, Any]]]:
    """Recipes for which mergekit's definitions are ours."""
    a, b = {"weight": 0.7}, {"weight": [0.2, 1]}
    plain = [{"model": "a", "parameters": a}, {"model": "b", "parameters": b}]
    sparse = [
        {"model": "a", "parameters": {**a, "density": 0.4}},
        {"model": "b", "parameters": {**b, "density": 0.8}},
    ]
    stacked = [{"sources": [{"model": model, "layer_range": [i, i + 2]}]} for i, model in enumerate("ab")]
    sides = [{"model": model, "layer_range": [0, 3]} for model in ("base", "b")]
    gradient = {"t": [{"filter": "mlp", "value": [0, 0.3, 1]}, {"value": 0.4}]}
    alone: dict[str, Any] = {"base_model": None, "parameters": None}
    yield "linear", recipe("linear", models=plain, **alone)
    yield "multislerp", recipe("multislerp", models=plain, parameters=None)
    yield "task_arithmetic", recipe("task_arithmetic", models=plain, parameters={"lambda": 0.6})
    yield "ties", recipe("ties", models=sparse, parameters={"lambda": 0.6})
    yield "breadcrumbs", recipe("breadcrumbs", models=sparse, parameters={"gamma": 0.05, "rescale": True})
    yield "passthrough", recipe("passthrough", models=None, slices=stacked, **alone)
    yield "slerp", recipe("slerp", models=None, slices=[{"sources": sides}], parameters=gradient)


@pytest.mark.skipif(MERGEKIT is None, reason="FORGE_MERGEKIT names no mergekit-yaml")
@pytest.mark.parametrize(("name", "document"), [pytest.param(*pair, id=pair[0]) for pair in recipes()])
def test_results_are_mergekits(name: str, document: dict[str, Any]) -> None:
    Path("recipe.yaml").write_text(yaml.safe_dump(document), "utf-8")
    command = [str(MERGEKIT), "recipe.yaml", "theirs", "--no-write-model-card", "--no-copy-tokenizer"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    ours, theirs = merged(document), read_model(Path("theirs"))
    assert ours.keys() == theirs.keys()
    for tensor in ours:
        np.testing.assert_allclose(
            ours[tensor], theirs[tensor], rtol=0, atol=1e-6, err_msg=f"{name}: {tensor}"
        )


def test_a_merge_never_imports_torch() -> None:
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe()), "utf-8")
    code = (
        "import sys; sys.argv = ['forge', 'merge', 'recipe.yaml', '-o', 'out']\n"
        "import atexit; atexit.register(lambda: print('torch' in sys.modules))\n"
        "from forge.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"
