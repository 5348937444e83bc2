import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma2Config, GenerationConfig

from model.config import ModelConfig, read_eos_token_ids
from model.config_file import IGNORED, REFUSED, ConfigFile
from model.errors import CheckpointError, ConfigError, ParameterError

# config.json of google/gemma-2-9b, in the spelling of its time.
AS_RELEASED: dict[str, Any] = {
    "architectures": ["Gemma2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 16,
    "num_hidden_layers": 42,
    "num_key_value_heads": 8,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.0.dev0",
    "use_cache": True,
    "vocab_size": 256000,
    "_attn_implementation": "eager",
}


def read(**changes: Any) -> ModelConfig:
    return ModelConfig.from_dict(AS_RELEASED | changes, source="here/config.json")


def without(*keys: str, **changes: Any) -> ModelConfig:
    values = {key: value for key, value in AS_RELEASED.items() if key not in keys}
    return ModelConfig.from_dict(values | changes, source="here/config.json")


def assert_agrees(ours: ModelConfig, theirs: Gemma2Config) -> None:
    same = {field.name for field in fields(ours)} & {field.name for field in fields(theirs)}
    same -= {"dtype", "layer_types"}
    assert {name: getattr(ours, name) for name in same} == {
        name: getattr(theirs, name) for name in same
    }
    assert list(ours.layer_types) == theirs.layer_types
    rope = dict(theirs.rope_parameters or {})
    assert rope == {"rope_type": "default", "rope_theta": ours.rope_theta} | (
        {"type": "default"} if "type" in rope else {}
    )
    assert str(theirs.dtype or "torch.float32") == f"torch.{ours.dtype}"
    eos = theirs.eos_token_id
    assert list(ours.eos_token_ids) == (eos if isinstance(eos, list) else [eos])
    if ours.architecture != "causal_lm":
        assert dict(enumerate(ours.labels)) == theirs.id2label


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_hidden_layers": 26, "hidden_size": 2304, "num_attention_heads": 32},
        {"rope_theta": 160000.0, "sliding_window": 32768},
        {"vocab_size": 256002, "eos_token_id": [1, 107], "pad_token_id": None},
        {"tie_word_embeddings": False, "attention_bias": True, "hidden_act": None},
        {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
        {"num_hidden_layers": 3, "layer_types": ["attention", "sliding_attention", "attention"]},
        {"rope_scaling": {"type": "default"}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"rope_scaling": None, "rope_parameters": None, "layer_types": None},
        {"dtype": "float32"},
        {"torch_dtype": "float16", "quantization_config": None},
        {"query_pre_attn_scalar": 224, "hidden_act": "gelu"},
        {"architectures": ["Gemma2ForSequenceClassification"], "problem_type": "regression"},
        {"architectures": ["Gemma2ForTokenClassification"], "id2label": {"1": "B", "0": "A"}},
        {"architectures": ["Gemma2ForTokenClassification"], "num_labels": 5},
        {"temperature": 0.7, "unsloth_fixed": True, "use_bidirectional_attention": False},
    ],
)
def test_agrees_with_transformers(changes: dict[str, Any]) -> None:
    raw = AS_RELEASED | changes
    theirs = Gemma2Config(**json.loads(json.dumps(raw)))
    assert_agrees(read(**changes), theirs)


@pytest.mark.parametrize(
    "absent",
    [
        ("rope_theta",),
        ("hidden_activation", "hidden_act"),
        ("sliding_window", "sliding_window_size"),
        ("pad_token_id", "eos_token_id", "bos_token_id"),
        ("torch_dtype", "architectures"),
        tuple(key for key in AS_RELEASED if key != "model_type"),
    ],
)
def test_absent_keys_have_the_defaults_of_transformers(absent: tuple[str, ...]) -> None:
    raw = {key: value for key, value in AS_RELEASED.items() if key not in absent}
    assert_agrees(without(*absent), Gemma2Config(**raw))


@pytest.mark.parametrize(
    ("architecture", "labels"),
    [
        ("Gemma2ForCausalLM", None),
        ("Gemma2ForSequenceClassification", ["no", "yes", "perhaps"]),
        ("Gemma2ForTokenClassification", ["O", "B-X"]),
    ],
)
def test_agrees_on_saved_files(tmp_path: Path, architecture: str, labels: list[str] | None) -> None:
    theirs = Gemma2Config(num_hidden_layers=5, sliding_window=8, architectures=[architecture])
    if labels:
        theirs.id2label = dict(enumerate(labels))
    theirs.save_pretrained(tmp_path)
    ours = ModelConfig.from_file(tmp_path / "config.json")
    assert_agrees(ours, Gemma2Config.from_pretrained(tmp_path))
    assert ours.labels == tuple(labels or ())
    assert_agrees(ModelConfig.from_dict(theirs.to_dict(), source="to_dict"), theirs)


def test_every_key_of_transformers_is_known() -> None:
    config_keys = {field.name for field in fields(Gemma2Config)}
    generation_keys = set(GenerationConfig._get_default_generation_params())
    known = ConfigFile.model_fields.keys() | IGNORED | REFUSED.keys()
    assert config_keys | generation_keys <= known


def test_old_window_spelling_alone_is_honoured() -> None:
    assert without("sliding_window", sliding_window_size=77).sliding_window == 77


def test_window_of_a_model_without_sliding_layers_reaches_everything() -> None:
    config = read(
        num_hidden_layers=2,
        layer_types=["full_attention"] * 2,
        sliding_window=None,
        sliding_window_size=None,
    )
    assert config.sliding_window == config.max_position_embeddings


def test_bare_backbone_is_a_language_model() -> None:
    assert read(architectures=["Gemma2Model"]).architecture == "causal_lm"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "gemma3"}, "model_type is 'gemma3'; only 'gemma2'"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is True: only causal"),
        ({"quantization_config": {"bits": 4}}, "quantization_config has quant_method None"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map .* code of its own"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder is True"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"per_layer_config": {"0": {"head_dim": 2}}}, "per_layer_config"),
        ({"attention_sinks": 4}, "unknown key attention_sinks = 4 .*remove it"),
        ({"mlp_bias": False}, "unknown key mlp_bias = False"),
        ({"hidden_activation": "gelu"}, "hidden_activation: .*'gelu_pytorch_tanh', got 'gelu'"),
        ({"hidden_act": "relu"}, "hidden_act: .*got 'relu'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.type: .*got 'linear'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling.rope_type: .*got 'yarn'"),
        ({"rope_parameters": {"factor": 2.0}}, "rope_parameters: only plain rotary .*factor"),
        (
            {"rope_parameters": {"full_attention": {}}},
            "rope_parameters: only plain rotary .*full_att",
        ),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "rope_.*partial_rotary_factor: .*got 0.5",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: .*got 0.5"),
        ({"rope_parameters": {"rope_theta": 5.0}}, "rope_theta = 10000.0, .*contradict"),
        ({"sliding_window": None, "sliding_window_size": None}, "sliding_window is null"),
        ({"sliding_window": 0}, "sliding_window: .*got 0"),
        ({"num_attention_heads": 0}, "num_attention_heads: .*got 0"),
        ({"num_key_value_heads": 3}, r"num_key_value_heads \(3\) must divide .*\(16\)"),
        ({"head_dim": 255}, "head_dim: .*multiple of 2, got 255"),
        ({"head_dim": None}, "head_dim: .*got None"),
        ({"hidden_size": "2304"}, "hidden_size: .*got '2304'"),
        ({"hidden_size": True}, "hidden_size: .*got True"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers: .*got 2.0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: .*10000"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries for .* = 42"),
        ({"layer_types": ["chunked_attention"] * 42}, "layer_types.0: .*'chunked_attention'"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps: .*greater than 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: .*finite"),
        ({"attn_logit_softcapping": 0.0}, "attn_logit_softcapping: .*greater than 0"),
        ({"query_pre_attn_scalar": float("inf")}, "query_pre_attn_scalar: .*finite"),
        ({"rope_theta": -1.0}, "rope_theta: .*greater than 0"),
        ({"attention_bias": "yes"}, "attention_bias: .*got 'yes'"),
        ({"eos_token_id": [1, 256000]}, r"eos_token_id \(\[1, 256000\]\) must be below vocab_size"),
        ({"pad_token_id": -1}, "pad_token_id: .*got -1"),
        ({"torch_dtype": "int8"}, "torch_dtype: .*got 'int8'"),
        ({"architectures": ["GemmaForCausalLM"]}, "architectures is .*Gemma2ForCausalLM"),
        ({"architectures": ["Gemma2ForCausalLM", "Gemma2Model"]}, "architectures is"),
        ({"architectures": [["x"]]}, "architectures.0: .*string"),
        (
            {"architectures": ["Gemma2Model"], "tie_word_embeddings": False},
            "architectures is .* tie_word_embeddings = false, so the checkpoint has no output",
        ),
    ],
)
def test_refused_by_name(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=f"^here/config.json: {told}") as caught:
        read(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"id2label": {"0": "A", "2": "C"}}, "id2label must name labels 0, 1"),
        ({"id2label": {}}, "id2label must name"),
        ({"id2label": {"0": "A", "1": "B"}, "num_labels": 3}, "num_labels is 3 .* has 2"),
        ({"num_labels": 1, "problem_type": "single_label_classification"}, "needs two labels"),
        ({"problem_type": "ranking"}, "problem_type: .*got 'ranking'"),
        ({"token_classification_bias": False}, "token_classification_bias: .*got False"),
    ],
)
def test_head_refused_by_name(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read(architectures=["Gemma2ForTokenClassification"], **changes)


def test_compute_dtype() -> None:
    assert read(torch_dtype="bfloat16").compute_dtype("auto") == "bfloat16"
    assert read(torch_dtype="float32").compute_dtype("bfloat16") == "bfloat16"
    assert read(torch_dtype="float16").compute_dtype("float32") == "float32"
    with pytest.raises(ParameterError, match=r"stored in float16.*overflow.*use bfloat16"):
        read(torch_dtype="float16").compute_dtype("auto")


@pytest.mark.parametrize(
    "generation", [{"eos_token_id": [1, 107]}, {"eos_token_id": 107}, {}, None]
)
def test_end_tokens_come_from_the_generation_config(
    tmp_path: Path, generation: dict[str, Any] | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(AS_RELEASED))
    if generation is None:
        theirs = GenerationConfig.from_model_config(Gemma2Config(**AS_RELEASED))
    else:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
        theirs = GenerationConfig.from_pretrained(tmp_path)
    expected = theirs.eos_token_id if theirs.eos_token_id is not None else 1
    ids = ModelConfig.from_folder(tmp_path).eos_token_ids
    assert list(ids) == (expected if isinstance(expected, list) else [expected])


@pytest.mark.parametrize("value", [-1, "1", True, [1, None], 1.0])
def test_wrong_end_tokens(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"gen: eos_token_id is .*must be a token id"):
        read_eos_token_ids({"eos_token_id": value}, source="gen")


def test_end_token_outside_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(AS_RELEASED))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 256000}')
    with pytest.raises(ConfigError, match=r"generation_config\.json: eos_token_id .* below vocab"):
        ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_files_that_are_not_json_objects(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        ModelConfig.from_file(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        ModelConfig.from_folder(tmp_path)
