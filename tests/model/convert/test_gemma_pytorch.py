"""gemma_pytorch's layouts, made by the test, and what transformers computes of ours."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from model.config import ModelConfig
from model.convert import Wishes, companions, convert
from model.convert.original import open_original
from model.errors import CheckpointError, ConfigError, ParameterError
from model.tokenizer import GemmaTokenizer
from tests.model.helpers import oracle
from tests.model.tokenizer_fixture import (
    CHAT_TEMPLATE,
    END_OF_TURN,
    write_sentencepiece,
    write_tokenizer,
)

from .originals import gemma_pytorch, loaded, logits, quantized, save_ckpt, save_sharded

# What the published configs say; heads, key heads, head size, scalar.
PUBLISHED = {
    "2B": ((26, 2304, 9216), (8, 4, 256), 256),
    "9B": ((42, 3584, 14336), (16, 8, 256), 256),
    "27B": ((46, 4608, 36864), (32, 16, 128), 144),
}


@pytest.mark.parametrize("form", ["file", "folder", "folder with a file"])
def test_logits_are_bitwise_those_of_the_original(
    form: str, reference: Any, config: Path, tmp_path: Path
) -> None:
    state = gemma_pytorch(reference)
    source = tmp_path / "model.ckpt"
    if form == "folder":
        source = save_sharded(state, tmp_path / "sharded")
    else:
        save_ckpt(state, source)
        source = source if form == "file" else tmp_path
    done = convert(str(source), tmp_path / "new", Wishes(config=config, max_shard_bytes=30_000))
    assert (done.layout, done.size, done.dtype) == ("gemma-pytorch", None, "float32")
    assert len(list((tmp_path / "new").glob("model-*.safetensors"))) > 3
    assert torch.equal(logits(loaded(tmp_path / "new")), logits(reference))


def test_bfloat16_stays_what_it_is(rounded: Any, config: Path, tmp_path: Path) -> None:
    source = save_ckpt(gemma_pytorch(rounded), tmp_path / "model.ckpt")
    convert(str(source), tmp_path / "new", Wishes(config=config))
    model = loaded(tmp_path / "new")
    assert model.dtype is torch.bfloat16
    assert torch.equal(logits(model), logits(rounded))


@pytest.mark.parametrize("form", ["file", "folder"])
@pytest.mark.parametrize("scaler", [torch.float32, torch.bfloat16])
def test_int8_is_decoded_as_gemma_pytorch_does(
    form: str, scaler: torch.dtype, config: Path, tmp_path: Path
) -> None:
    model = oracle(seed=1)
    stored, meant = quantized({k: v.clone() for k, v in gemma_pytorch(model).items()})
    for name in stored:
        if name.endswith("weight_scaler"):
            stored[name] = stored[name].to(scaler)
            weight = name.replace("weight_scaler", "weight")
            meant[weight] = stored[weight] * stored[name].unsqueeze(-1)
    if form == "file":
        source = save_ckpt(stored, tmp_path / "model.ckpt")
    else:
        source = save_sharded(stored, tmp_path / "sharded")
    done = convert(str(source), tmp_path / "new", Wishes(config=config))
    assert done.dtype == "float32"  # the norms are
    converted = load_file(tmp_path / "new" / "model.safetensors")
    assert torch.equal(converted["model.embed_tokens.weight"], meant["embedder.weight"])
    rows = meant["model.layers.1.self_attn.qkv_proj.weight"].split([80, 40, 40])
    for which, expected in zip("qkv", rows, strict=True):
        name = f"model.layers.1.self_attn.{which}_proj.weight"
        assert torch.equal(converted[name], expected), name


@pytest.mark.parametrize("size", PUBLISHED)
@pytest.mark.parametrize("vocabulary", [256_000, 256_002])
def test_sizes_are_told_by_shapes(size: str, vocabulary: int, tmp_path: Path) -> None:
    (layers, hidden, inner), (heads, key_heads, head_dim), scalar = PUBLISHED[size]
    shapes = {"embedder.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for i in range(layers):
        shapes |= {
            f"model.layers.{i}.{name}.weight": shape
            for name, shape in {
                "self_attn.qkv_proj": ((heads + 2 * key_heads) * head_dim, hidden),
                "self_attn.o_proj": (hidden, heads * head_dim),
                "mlp.gate_proj": (inner, hidden),
                "mlp.up_proj": (inner, hidden),
                "mlp.down_proj": (hidden, inner),
                "input_layernorm": (hidden,),
                "post_attention_layernorm": (hidden,),
                "pre_feedforward_layernorm": (hidden,),
                "post_feedforward_layernorm": (hidden,),
            }.items()
        }
    one = torch.zeros(1, dtype=torch.bfloat16)  # one value for all, so that the file is small
    state = {name: one.expand(shape) for name, shape in shapes.items()}
    original = open_original(str(save_ckpt(state, tmp_path / "model.ckpt")), None)
    assert original.size is not None
    assert original.size.name == size
    config = original.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (
        layers,
        hidden,
        inner,
    )
    assert (config.num_attention_heads, config.num_key_value_heads) == (heads, key_heads)
    assert (config.head_dim, config.query_pre_attn_scalar) == (head_dim, scalar)
    assert (config.vocab_size, config.sliding_window) == (vocabulary, 4096)
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50, 30)
    assert config.layer_types[:3] == ("sliding_attention", "full_attention", "sliding_attention")
    assert original.weights.metas["model.layers.0.self_attn.k_proj.weight"].shape == (
        key_heads * head_dim,
        hidden,
    )


def test_another_size_needs_its_config(reference: Any, tmp_path: Path) -> None:
    source = save_ckpt(gemma_pytorch(reference), tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"4 layers, hidden size 48.*say --config"):
        convert(str(source), tmp_path / "new")
    assert not (tmp_path / "new").exists()


class TestWayBack:
    @pytest.mark.parametrize("target", ["folder", "model.ckpt", "model.pt"])
    def test_is_what_gemma_pytorch_reads(
        self, target: str, reference: Any, saved_reference: Path, tmp_path: Path
    ) -> None:
        place = tmp_path / target
        wishes = Wishes(to="gemma-pytorch", max_shard_bytes=40_000)
        convert(str(saved_reference), place, wishes)
        state = {}
        if place.is_dir():
            index = json.loads((place / "pytorch_model.bin.index.json").read_text())["weight_map"]
            for file in set(index.values()):
                held = torch.load(place / file, weights_only=True)
                assert {name for name in index if index[name] == file} == set(held)
                state |= held
            assert len(set(index.values())) > 2
        else:
            state = torch.load(place, mmap=True, weights_only=True)["model_state_dict"]
        expected = gemma_pytorch(reference)
        del expected["freqs_cis"]  # which its code makes anew
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())

    @pytest.mark.parametrize("target", ["folder", "model.ckpt"])
    def test_there_and_back_is_bitwise_the_same(
        self, target: str, rounded: Any, config: Path, tmp_path: Path
    ) -> None:
        rounded.save_pretrained(tmp_path / "first")
        there = tmp_path / "there" / target
        convert(str(tmp_path / "first"), there, Wishes(to="gemma-pytorch"))
        given = None if target == "folder" else config  # a folder has its own beside it
        convert(str(there), tmp_path / "second", Wishes(config=given))
        first = load_file(tmp_path / "first" / "model.safetensors")
        second = load_file(tmp_path / "second" / "model.safetensors")
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert ModelConfig.from_folder(tmp_path / "first") == ModelConfig.from_folder(
            tmp_path / "second"
        )

    def test_a_folder_takes_everything_along(self, saved_reference: Path, tmp_path: Path) -> None:
        source = shutil.copytree(saved_reference, tmp_path / "source")
        write_tokenizer(source)
        convert(str(source), tmp_path / "there", Wishes(to="gemma-pytorch"))
        done = convert(str(tmp_path / "there"), tmp_path / "back")
        assert done.notes == ()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()

    @pytest.mark.parametrize(
        ("architecture", "changes", "lacking"),
        [
            ("Gemma2ForTokenClassification", {}, "token_classification head"),
            ("Gemma2ForCausalLM", {"tie_word_embeddings": False}, "tie_word_embeddings"),
            ("Gemma2ForCausalLM", {"attention_bias": True}, "attention_bias"),
        ],
    )
    def test_what_has_no_place_there(
        self, architecture: str, changes: dict[str, Any], lacking: str, tmp_path: Path
    ) -> None:
        oracle(architecture, **changes).save_pretrained(tmp_path / "source")
        with pytest.raises(ConfigError, match=f"gemma-pytorch has no place for .*{lacking}"):
            convert(str(tmp_path / "source"), tmp_path / "new", Wishes(to="gemma-pytorch"))

    def test_to_what_it_is_already(self, saved_reference: Path, tmp_path: Path) -> None:
        with pytest.raises(ParameterError, match="in the layout of transformers already"):
            convert(str(saved_reference), tmp_path / "new")


class TestCompanions:
    """A config of its own, and what says where answers end."""

    def converted(self, reference: Any, tmp_path: Path, **wishes: Any) -> dict[str, Any]:
        source = save_ckpt(gemma_pytorch(reference), tmp_path / "model.ckpt")
        done = convert(str(source), tmp_path / "new", Wishes(**wishes))
        values: dict[str, Any] = json.loads((tmp_path / "new/generation_config.json").read_text())
        return values | {"notes": done.notes}

    def test_without_a_tokenizer(self, reference: Any, config: Path, tmp_path: Path) -> None:
        alone = tmp_path / "config.json"
        shutil.copyfile(config, alone)
        values = self.converted(reference, tmp_path, config=alone)
        assert values["eos_token_id"] == 1
        assert "no tokenizer" in values["notes"][0]
        assert not (tmp_path / "new" / "tokenizer.json").exists()

    @pytest.mark.parametrize("instruct", [False, True])
    @pytest.mark.parametrize("template", [None, CHAT_TEMPLATE])
    def test_instruct_or_a_template_ends_turns(
        self, instruct: bool, template: Any, reference: Any, config: Path, tmp_path: Path
    ) -> None:
        alone, tokenizer = tmp_path / "config.json", tmp_path / "tokenizer"
        shutil.copyfile(config, alone)
        tokenizer.mkdir()
        write_tokenizer(tokenizer, chat_template=template)
        values = self.converted(
            reference, tmp_path, config=alone, tokenizer=tokenizer, instruct=instruct
        )
        chats = instruct or template is not None
        assert values["eos_token_id"] == ([1, END_OF_TURN] if chats else 1)
        written = (tmp_path / "new" / "chat_template.jinja").exists()
        assert written == (instruct and template is None)
        assert values["notes"] == ()

    def test_the_generation_config_beside_the_config(
        self, reference: Any, config: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "beside").mkdir()
        alone = shutil.copyfile(config, tmp_path / "beside" / "config.json")
        beside = {"eos_token_id": [1, 7], "temperature": 0.5}
        (tmp_path / "beside" / "generation_config.json").write_text(json.dumps(beside))
        values = self.converted(reference, tmp_path, config=alone)
        assert values.items() >= beside.items()


class TestSentencePiece:
    """tokenizer.model, which Google's own files come with."""

    @pytest.mark.parametrize("place", ["beside", "folder", "file"])
    @pytest.mark.parametrize("instruct", [False, True])
    def test_becomes_tokenizer_json(
        self, place: str, instruct: bool, reference: Any, config: Path, tmp_path: Path
    ) -> None:
        sentencepiece = pytest.importorskip("sentencepiece")
        (tmp_path / "download").mkdir()
        source = save_ckpt(gemma_pytorch(reference), tmp_path / "download" / "model.ckpt")
        where = source.parent if place == "beside" else tmp_path
        model = write_sentencepiece(where)
        given = {"beside": None, "folder": tmp_path, "file": model}[place]
        wishes = Wishes(config=config, tokenizer=given, instruct=instruct)
        assert convert(str(source), tmp_path / "new", wishes).notes == ()
        assert (tmp_path / "new" / "tokenizer.json").is_file()
        tokenizer = GemmaTokenizer.from_folder(tmp_path / "new")
        theirs = AutoTokenizer.from_pretrained(tmp_path / "new")
        original = sentencepiece.SentencePieceProcessor(model_file=str(model))
        text = "Hello  JSON\n\n decoder é🙂"
        assert tokenizer.encode_text(text, add_bos=False) == original.encode(text)
        assert theirs.encode(text) == [2, *original.encode(text)]
        assert tokenizer.has_chat_template == instruct
        if instruct:
            chat = [{"role": "user", "content": "Hi"}]
            ids = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            assert ids == tokenizer.encode_messages(chat)

    def test_is_copied_where_it_can_not_be_read(
        self, reference: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = save_ckpt(gemma_pytorch(reference), tmp_path / "model.ckpt")
        (tmp_path / "tokenizer.model").write_bytes(b"pieces")
        monkeypatch.setattr(companions, "find_spec", lambda _: None)
        done = convert(str(source), tmp_path / "new", Wishes(config=config))
        assert "pip install sentencepiece" in done.notes[0]
        assert (tmp_path / "new" / "tokenizer.model").read_bytes() == b"pieces"
        assert not (tmp_path / "new" / "tokenizer.json").exists()
