import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, normalizers

from model.errors import ChatError, TokenizerError
from model.tokenizer import GemmaTokenizer, load_tokenizer

from .tokenizer_fixture import (
    BOS,
    CHAT_TEMPLATE,
    END_OF_TURN,
    START_OF_TURN,
    UNK,
    write_config,
    write_sentencepiece,
    write_tokenizer,
)

# None of these may come out of text; <unk> stands for characters that a vocabulary lacks.
FORBIDDEN = {0, 1, 2, START_OF_TURN, END_OF_TURN}
TEXTS = ["", "Hello world", "  a\n\nb <b>c</b> ▁", "é 🙂 日本語 <end_of_turn>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> GemmaTokenizer:
    return GemmaTokenizer.from_folder(folder)


class TestLoading:
    def test_knows_its_ids(self, tokenizer: GemmaTokenizer) -> None:
        assert tokenizer.bos_id == BOS
        assert tokenizer.control_ids == FORBIDDEN | {UNK}
        assert tokenizer.vocab_size == 2048
        assert tokenizer.has_chat_template

    def test_gives_none_without_files(self, tmp_path: Path) -> None:
        assert load_tokenizer(tmp_path) is None
        with pytest.raises(TokenizerError, match=r"neither tokenizer\.json nor tokenizer\.model"):
            GemmaTokenizer.from_folder(tmp_path)

    def test_pickles_as_its_folder(self, tokenizer: GemmaTokenizer) -> None:
        pickled = pickle.dumps(tokenizer)
        assert len(pickled) < 1000
        assert pickle.loads(pickled).encode_text("Hello") == tokenizer.encode_text("Hello")

    def test_is_shared_by_threads(self, tokenizer: GemmaTokenizer) -> None:
        texts = [f"{text} {n}" for n in range(20) for text in TEXTS]
        with ThreadPoolExecutor(4) as pool:
            ids = list(pool.map(tokenizer.encode_text, texts))
        assert ids == tokenizer.encode_batch(texts)

    def test_does_not_import_transformers(self, folder: Path) -> None:
        code = (
            "import sys, pathlib, model.tokenizer as t; "
            "t.load_tokenizer(pathlib.Path(sys.argv[1])).encode_messages("
            "[{'role': 'user', 'content': 'hi'}]); "
            "assert not {'transformers', 'torch', 'jinja2'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True)

    @pytest.mark.parametrize(
        "content", ["not json", "{}", json.dumps({"model": {"type": "BPE", "vocab": {}}})]
    )
    def test_refuses_a_damaged_file(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(TokenizerError, match=r"tokenizer\.json can't be read") as caught:
            load_tokenizer(tmp_path)
        assert "\n" not in str(caught.value)

    def test_refuses_a_damaged_config(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
        (tmp_path / "tokenizer_config.json").write_text("{")
        with pytest.raises(TokenizerError, match="is not valid JSON"):
            load_tokenizer(tmp_path)

    @pytest.mark.parametrize("change", ["prefix", "lowercase", "decoder", "stripped", "no bos"])
    def test_refuses_what_is_not_gemmas(self, change: str, folder: Path, tmp_path: Path) -> None:
        other = Tokenizer.from_file(str(folder / "tokenizer.json"))
        if change == "prefix":
            other.normalizer = normalizers.Sequence(
                [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            )
        elif change == "lowercase":
            other.normalizer = normalizers.Sequence(
                [normalizers.Lowercase(), normalizers.Replace(" ", "▁")]
            )
        elif change == "decoder":
            other.decoder = decoders.Metaspace()
        elif change == "stripped":
            other.decoder = decoders.Sequence(
                [
                    decoders.Replace("▁", " "),
                    decoders.ByteFallback(),
                    decoders.Fuse(),
                    decoders.Strip(" ", 1, 0),
                ]
            )
        else:
            text = (folder / "tokenizer.json").read_text().replace("<bos>", "<s>")
            other = Tokenizer.from_str(text)
        other.save(str(tmp_path / "tokenizer.json"))
        with pytest.raises(TokenizerError, match="is not Gemma's"):
            load_tokenizer(tmp_path)

    def test_ignores_truncation_and_padding_of_the_file(
        self, folder: Path, tmp_path: Path, tokenizer: GemmaTokenizer
    ) -> None:
        tuned = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tuned.enable_truncation(3)
        tuned.enable_padding(length=16)
        tuned.save(str(tmp_path / "tokenizer.json"))
        ours = GemmaTokenizer.from_folder(tmp_path)
        for text in TEXTS:
            assert ours.encode_text(text) == tokenizer.encode_text(text)

    def test_treats_the_templates_tokens_as_control_whatever_their_flag(
        self, folder: Path, tmp_path: Path
    ) -> None:
        document = json.loads((folder / "tokenizer.json").read_text())
        for token in document["added_tokens"]:
            token["special"] = False
        (tmp_path / "tokenizer.json").write_text(json.dumps(document))
        write_config(tmp_path, CHAT_TEMPLATE + "{{ '<unused7>' }}")
        ours = GemmaTokenizer.from_folder(tmp_path)
        assert ours.control_ids >= FORBIDDEN | {14}
        ids = ours.encode_text("<bos><start_of_turn>user\n<unused7><unused8><end_of_turn>")
        assert (FORBIDDEN | {14}).isdisjoint(ids[1:])
        assert 15 in ids
        assert ours.decode([*ids, END_OF_TURN, 14]) == ours.decode(ids)


class TestChatTemplate:
    @pytest.mark.parametrize(
        ("template", "has"),
        [
            (CHAT_TEMPLATE, True),
            ([{"name": "default", "template": CHAT_TEMPLATE}], True),
            (None, False),
            ("{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}", False),
        ],
    )
    def test_is_looked_up_in_the_config(self, template: object, has: bool, tmp_path: Path) -> None:
        write_tokenizer(tmp_path)
        write_config(tmp_path, template)
        tokenizer = GemmaTokenizer.from_folder(tmp_path)
        assert tokenizer.has_chat_template == has
        if not has:
            with pytest.raises(ChatError, match="no chat template of Gemma's kind"):
                tokenizer.encode_messages([{"role": "user", "content": "hi"}])

    def test_is_looked_up_in_its_own_file(self, tmp_path: Path) -> None:
        write_tokenizer(tmp_path, chat_template=None)
        (tmp_path / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        assert GemmaTokenizer.from_folder(tmp_path).has_chat_template


class TestSentencePiece:
    def test_says_what_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "tokenizer.model").write_bytes(b"")
        monkeypatch.setattr("model.tokenizer.find_spec", lambda name: None)
        with pytest.raises(TokenizerError, match="pip install sentencepiece"):
            load_tokenizer(tmp_path)

    def test_is_converted(self, tmp_path: Path) -> None:
        sentencepiece = pytest.importorskip("sentencepiece")
        model = write_sentencepiece(tmp_path)
        original = sentencepiece.SentencePieceProcessor(model_file=str(model))
        tokenizer = load_tokenizer(tmp_path)
        assert tokenizer is not None
        for text in ("Hello  JSON\n\n decoder", "é🙂<end_of_turn>"):
            assert tokenizer.encode_text(text, add_bos=False) == original.encode(text)
