"""Checkpoints with quantized layers: ours, those that transformers saves, and refusals."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, int8_vectorwise_dequant
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, BitsAndBytesConfig

from model import Engine, EngineConfig, SamplingParams
from model.checkpoint import load
from model.config import ModelConfig
from model.errors import CheckpointError, ConfigError, ParameterError
from model.gemma2 import Gemma2
from model.lora import adapted_config
from model.parallel import TensorParallel
from model.params import WeightFormat
from model.quantization import FORMATS
from model.quantize import quantize_checkpoint
from model.weight_files import INDEX, SINGLE

from .helpers import oracle, random_ids
from .native import needs_native

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
PROMPTS = [random_ids(n, seed=n) for n in (3, 17, 9)]
ON_CPU: list[WeightFormat] = ["int8", "int4", "bnb-int8", "bnb-nf4"]
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"

Answers = list[Any]
Ask = Callable[..., Answers]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "lm"
    oracle(seed=3, qk_scale=2.0, **SIZES).to(torch.bfloat16).save_pretrained(path)
    (path / "chat_template.jinja").write_text("as it is")
    return path


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Answer the prompts with an engine of these settings, log-probabilities included."""
    engines: list[Engine] = []

    def answers(checkpoint: Path, **settings: Any) -> Answers:
        settings = {"threads": 1, "kv_cache_bytes": 4 << 20, "page_size": 16, **settings}
        engine = Engine(EngineConfig(checkpoint=str(checkpoint), **settings))
        engines.append(engine)
        params = SamplingParams(max_tokens=8, ignore_eos=True, logprobs=3)
        return [output.completions for output in engine.generate(PROMPTS, params)]

    yield answers
    for engine in engines:
        engine.close()


@pytest.mark.parametrize(
    ("dtype", "kernels"),
    [("float32", "plain"), pytest.param("bfloat16", "native", marks=needs_native)],
)
@pytest.mark.parametrize("name", ON_CPU)
def test_a_quantized_checkpoint_answers_as_the_original_quantized_at_load(
    folder: Path, tmp_path: Path, ask: Ask, name: WeightFormat, dtype: str, kernels: str
) -> None:
    written = quantize_checkpoint(folder, tmp_path / "q", name)
    assert written.bytes < written.source_bytes
    settings = {"dtype": dtype, "kernels": kernels, "attention": "reference"}
    at_load = ask(folder, quantization=name, **settings)
    assert ask(tmp_path / "q", **settings) == at_load
    assert ask(tmp_path / "q", quantization=name, **settings) == at_load
    assert ask(folder, **settings) != at_load


@needs_native
@pytest.mark.parametrize("name", ["int4", "bnb-nf4", "bnb-int8"])
def test_answers_have_the_same_bits_alone_and_together(folder: Path, name: WeightFormat) -> None:
    prompts = [random_ids(1 + 3 * n, seed=n) for n in range(20)]
    params = SamplingParams(max_tokens=4, ignore_eos=True, logprobs=0)
    config = EngineConfig(
        checkpoint=str(folder),
        dtype="bfloat16",
        kernels="native",
        attention="native",
        quantization=name,
        threads=1,
        kv_cache_bytes=8 << 20,
        prefix_caching=False,
    )
    with Engine(config) as engine:
        together = engine.generate(prompts, params)
        alone = [engine.generate([prompt], params)[0] for prompt in prompts]
    assert [o.completions for o in together] == [o.completions for o in alone]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int4", "bnb-nf4", "bnb-int8"])
def test_two_ranks(folder: Path, tmp_path: Path, ask: Ask, name: WeightFormat) -> None:
    """Blocks are cut between the ranks, so they hold what one rank holds."""
    quantize_checkpoint(folder, tmp_path / "q", name)
    one = ask(tmp_path / "q", dtype="float32")
    two = ask(tmp_path / "q", dtype="float32", tensor_parallel=2)
    tokens = [[c.token_ids for c in answer] for answer in two]
    assert tokens == [[c.token_ids for c in answer] for answer in one]
    if name != "bnb-int8":  # at load each rank has scales of its own part of a row
        at_load = ask(folder, dtype="float32", tensor_parallel=2, quantization=name)
        assert two == at_load


@pytest.mark.parametrize("name", [*ON_CPU, "fp8"])
def test_what_a_bare_backbone_becomes(tmp_path: Path, name: WeightFormat) -> None:
    """Its names lack a prefix, before and after; what is loaded is what quantizing gives."""
    backbone = oracle(seed=3, **SIZES).model
    backbone.save_pretrained(tmp_path / "bare")
    quantize_checkpoint(tmp_path / "bare", tmp_path / "q", name)
    config = ModelConfig.from_folder(tmp_path / "q")
    model = Gemma2(config, TensorParallel.single(), torch.float32, torch.device("cpu"))
    load(model.shards(), tmp_path / "q")
    got = model.layers[1].mlp.down_proj.weight
    want = FORMATS[name].quantize(backbone.layers[1].mlp.down_proj.weight.detach())
    for mine, theirs in zip(got.tensors, want.tensors, strict=True):
        assert torch.equal(mine.float(), theirs.float())


def test_what_is_written(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "q"
    written = quantize_checkpoint(folder, target, "int4", file_bytes=50_000)
    files = {path.name for path in target.iterdir()}
    index = json.loads((target / INDEX).read_text())
    weights = set(index["weight_map"].values())
    assert len(weights) == written.files > 2
    assert files == {
        "config.json",
        "generation_config.json",
        "chat_template.jinja",
        INDEX,
        *weights,
    }
    assert not list(target.parent.glob(".*"))
    config = ModelConfig.from_folder(target)
    assert (config.quantization, config.dtype) == ("int4", "bfloat16")
    original = ModelConfig.from_folder(folder)
    assert config.compute_quantization("none") == original.compute_quantization("int4") == "int4"
    stored = {k: v for file in weights for k, v in load_file(target / file).items()}
    assert sum(tensor.nbytes for tensor in stored.values()) == written.bytes
    assert stored[Q_PROJ].dtype == torch.uint8
    assert "lm_head.weight" not in stored
    dense = load_file(folder / SINGLE)
    assert torch.equal(stored["model.norm.weight"], dense["model.norm.weight"])


def test_a_float32_checkpoint_can_be_rounded_on_the_way(
    folder: Path, tmp_path: Path, ask: Ask
) -> None:
    exact = tmp_path / "exact"
    oracle(seed=3, qk_scale=2.0, **SIZES).save_pretrained(exact)
    quantize_checkpoint(exact, tmp_path / "q", "int8", dtype="bfloat16")
    settings = {"kernels": "plain", "attention": "reference"}
    want = ask(exact, quantization="int8", dtype="bfloat16", **settings)
    assert ask(tmp_path / "q", **settings) == want
    quantize_checkpoint(exact, tmp_path / "fp8", "fp8")
    assert ModelConfig.from_folder(tmp_path / "fp8").quantization == "fp8"
    with pytest.raises(ParameterError, match=r"not cpu; use 'int8' or 'none'"):
        ask(tmp_path / "fp8")


def save_with_bitsandbytes(source: Path, target: Path, **settings: Any) -> Any:
    """Have transformers quantize a checkpoint; returns its model."""
    model = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.float32,
        attn_implementation="eager",
        device_map={"": "cpu"},
        quantization_config=BitsAndBytesConfig(**settings),
    )
    model.save_pretrained(target)
    return model.eval()


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bnb-nf4", NF4),
        ("bnb-nf4", NF4 | {"bnb_4bit_use_double_quant": True}),
        ("bnb-int8", {"load_in_8bit": True}),
    ],
)
def test_what_transformers_saves_with_bitsandbytes_is_read(
    folder: Path, tmp_path: Path, ask: Ask, name: WeightFormat, settings: dict[str, Any]
) -> None:
    theirs = save_with_bitsandbytes(folder, tmp_path / "bnb", **settings)
    assert ModelConfig.from_folder(tmp_path / "bnb").quantization == name
    got = ask(tmp_path / "bnb", dtype="float32")
    if "bnb_4bit_use_double_quant" not in settings:
        assert got == ask(folder, dtype="float32", quantization=name)
    computed = [off(theirs, prompt, answer) for prompt, (answer,) in zip(PROMPTS, got, strict=True)]
    decoded = decoded_by_bitsandbytes(tmp_path / "bnb")
    exact = [off(decoded, prompt, answer) for prompt, (answer,) in zip(PROMPTS, got, strict=True)]
    assert max(exact) < 1e-4
    # On a CPU bitsandbytes multiplies NF4 in bfloat16, and LLM.int8 rounds activations.
    assert max(computed) < 0.25


def decoded_by_bitsandbytes(folder: Path) -> Any:
    """Make a dense model in float32 of what a checkpoint stores."""
    stored = load_file(folder / SINGLE)
    names = [name for name in stored if name.endswith("weight")]
    dense = {}
    for name in names:
        largest = stored.get(name.removesuffix("weight") + "SCB")
        state = {k.removeprefix(f"{name}."): v for k, v in stored.items() if f"{name}." in k}
        if state:
            quant_state = QuantState.from_dict(state, device=torch.device("cpu"))
            quant_state.dtype = torch.float32
            dense[name] = dequantize_4bit(stored[name], quant_state)
        elif largest is not None:
            dense[name] = int8_vectorwise_dequant(stored[name], largest)
        else:
            dense[name] = stored[name].float()
    model = oracle(**SIZES)
    missing, surplus = model.load_state_dict(dense, strict=False)
    assert (missing, surplus) == (["lm_head.weight"], [])
    return model


def off(model: Any, prompt: list[int], answer: Any) -> float:
    """How far our log-probabilities are from those of transformers, at most."""
    ids = [*prompt, *answer.token_ids]
    with torch.no_grad():
        log_p = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    want = log_p[len(prompt) - 1 : -1].gather(1, torch.tensor(answer.token_ids)[:, None])
    ours = torch.tensor([token.logprob for token in answer.logprobs])
    return float((ours - want[:, 0]).abs().max())


@pytest.mark.parametrize("name", ["bnb-nf4", "bnb-int8"])
def test_transformers_reads_what_we_write(
    folder: Path, tmp_path: Path, ask: Ask, name: WeightFormat
) -> None:
    quantize_checkpoint(folder, tmp_path / "q", name)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "q", dtype=torch.float32, attn_implementation="eager", device_map={"": "cpu"}
    )
    ((answer,), *_) = ask(tmp_path / "q", dtype="float32")
    assert off(theirs, PROMPTS[0], answer) < 0.25
    assert off(decoded_by_bitsandbytes(tmp_path / "q"), PROMPTS[0], answer) < 1e-4


def test_transformers_reads_a_token_classifier_that_we_write(tmp_path: Path) -> None:
    labels = {"id2label": {0: "O", 1: "B-X"}}
    model = oracle("Gemma2ForTokenClassification", **SIZES, **labels).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "tagger")
    quantize_checkpoint(tmp_path / "tagger", tmp_path / "q", "bnb-nf4")
    theirs = AutoModelForTokenClassification.from_pretrained(tmp_path / "q", device_map={"": "cpu"})
    assert torch.equal(theirs.score.weight, model.score.weight)


def test_what_can_not_be_quantized_is_refused_and_nothing_is_left(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="is there already"):
        quantize_checkpoint(folder, tmp_path, "int8")
    with pytest.raises(CheckpointError, match=r"q can't be written: .*File exists"):
        quantize_checkpoint(folder, folder / "config.json" / "q", "int8")
    quantize_checkpoint(folder, tmp_path / "q", "int8")
    with pytest.raises(CheckpointError, match="is in int8 already; quantize the original"):
        quantize_checkpoint(tmp_path / "q", tmp_path / "again", "int4")
    odd = tmp_path / "odd"
    oracle(hidden_size=48).save_pretrained(odd)
    with pytest.raises(ParameterError, match=r"takes 64 inputs .* with 48 on a rank"):
        quantize_checkpoint(odd, tmp_path / "never", "bnb-nf4")
    assert {path.name for path in tmp_path.iterdir()} == {"q", "odd"}


def test_an_adapter_is_not_merged_into_what_is_quantized(folder: Path, tmp_path: Path) -> None:
    quantize_checkpoint(folder, tmp_path / "q", "int8")
    config = ModelConfig.from_folder(tmp_path / "q")
    with pytest.raises(CheckpointError, match="can't be merged into weights that are in int8"):
        adapted_config(config, tmp_path / "adapter")
    assert adapted_config(config, None) is config


def test_another_quantization_than_the_stored_one_is_refused(
    folder: Path, tmp_path: Path, ask: Ask
) -> None:
    quantize_checkpoint(folder, tmp_path / "q", "bnb-nf4")
    with pytest.raises(ParameterError, match=r"are in bnb-nf4 already, so quantization 'int8'"):
        ask(tmp_path / "q", quantization="int8")
    config = ModelConfig.from_folder(tmp_path / "q")
    with pytest.raises(ParameterError, match="with 32 on a rank: use fewer ranks"):
        Gemma2(config, TensorParallel(0, 4), torch.float32, torch.device("meta"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"quant_method": "gptq"}, "quant_method 'gptq': read are .* use the bfloat16"),
        ({"bits": 4}, "quant_method None: read are"),
        ({"quant_method": "gemmaray", "format": "int3", "version": 1}, "has format 'int3' in"),
        ({"quant_method": "gemmaray", "format": "int4", "version": 2}, "in version 2; known are"),
        ({"quant_method": "bitsandbytes"}, "says neither load_in_8bit nor"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
            "has bnb_4bit_quant_type 'fp4'; only 'nf4' is read",
        ),
        (
            {
                "quant_method": "bitsandbytes",
                "load_in_8bit": True,
                "llm_int8_skip_modules": ["lm_head", "o_proj"],
            },
            r"llm_int8_skip_modules \['o_proj'\]: checkpoints with some layers",
        ),
    ],
)
def test_other_quantization_configs_are_refused_by_name(
    folder: Path, changes: dict[str, Any], told: str
) -> None:
    values = json.loads((folder / "config.json").read_text()) | {"quantization_config": changes}
    with pytest.raises(ConfigError, match=told):
        ModelConfig.from_dict(values, source="config.json")


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("bnb-nf4", {Q_PROJ: torch.zeros(8, 1, dtype=torch.uint8)}, "has 8 elements .* asks for"),
        ("bnb-nf4", {f"{Q_PROJ}.quant_map": torch.zeros(16)}, "other values than those of NF4"),
        (
            "bnb-nf4",
            {f"{Q_PROJ}.quant_state.bitsandbytes__nf4": torch.zeros(3, dtype=torch.uint8)},
            "can't be read",
        ),
        ("bnb-nf4", {f"{Q_PROJ}.absmax": None}, "lacks 1 tensors .*q_proj.weight.absmax"),
        ("bnb-int8", {f"{Q_PROJ}_format": torch.tensor(1, dtype=torch.uint8)}, "another order"),
        ("int8", {f"{Q_PROJ}_scale": torch.zeros(3)}, r"_scale has shape \(3,\), .* \(128,\)"),
        ("int8", {Q_PROJ: torch.zeros(128, 64)}, "q_proj.weight is F32, not one of I8"),
    ],
)
def test_damaged_checkpoints_are_refused(
    folder: Path, tmp_path: Path, ask: Ask, name: WeightFormat, damage: dict[str, Any], told: str
) -> None:
    quantize_checkpoint(folder, tmp_path / "q", name)
    tensors = load_file(tmp_path / "q" / SINGLE) | damage
    kept = {key: tensor for key, tensor in tensors.items() if tensor is not None}
    save_file(kept, tmp_path / "q" / SINGLE)
    with pytest.raises(CheckpointError, match=told):
        ask(tmp_path / "q")
