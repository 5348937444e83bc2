"""What each token writes, held to what decoding it gives."""

from pathlib import Path

import pytest

from model.constrain.vocabulary import compiler_vocabulary
from model.tokenizer import GemmaTokenizer, load_tokenizer
from tests.model.tokenizer_fixture import END_OF_TURN, EOS, write_tokenizer

DEMO = Path(__file__).resolve().parents[3] / "examples" / "demo-model" / "causal-lm"
TEXTS = [
    '{"name": "a  b\\n", \'é\': [1, 2.5e-3]}\n\n\t<table>',
    "Grüße, 你好 👋🏽, ﷽, \u200b, ▁",
    "   three before, two after  ",
]


@pytest.fixture(params=["demo", "Gemma's layout"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> GemmaTokenizer:
    folder = DEMO
    if request.param != "demo":
        folder = tmp_path
        write_tokenizer(folder, vocab_size=2048)
    loaded = load_tokenizer(folder)
    assert loaded is not None
    return loaded


def test_each_token_writes_what_it_is_decoded_to(tokenizer: GemmaTokenizer) -> None:
    written = tokenizer.token_bytes(tokenizer.vocab_size + 5)
    assert written[-5:] == [b""] * 5
    text = tokenizer.encode_continuation("a")
    for token_id in range(tokenizer.vocab_size):
        if token_id in tokenizer.control_ids:
            assert written[token_id] == b""
        elif written[token_id].isascii() or len(written[token_id]) > 1:
            # Behind a letter, for a token alone might be treated in a way of its own.
            decoded = tokenizer.decode([*text, token_id], skip_special=False)
            assert decoded == "a" + written[token_id].decode()
    alone = {token for token in written if len(token) == 1}
    assert alone >= {bytes([byte]) for byte in range(256) if byte != 9}


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_of_a_text_write_the_text(tokenizer: GemmaTokenizer, text: str) -> None:
    written = tokenizer.token_bytes(tokenizer.vocab_size)
    ids = tokenizer.encode_continuation(text)
    assert b"".join(written[token_id] for token_id in ids).decode() == tokenizer.decode(ids)


def test_no_text_leads_to_an_end_token(tokenizer: GemmaTokenizer) -> None:
    vocabulary = compiler_vocabulary(tokenizer, tokenizer.vocab_size, [EOS, END_OF_TURN])
    assert vocabulary.eos_tokens == [EOS, END_OF_TURN]
    spelled = vocabulary.greedy_tokenize("<end_of_turn><eos><bos>")
    assert not tokenizer.control_ids & set(spelled)


def test_an_end_token_that_is_text_is_an_end_token(tokenizer: GemmaTokenizer) -> None:
    (text_id,) = tokenizer.encode_continuation("a")
    vocabulary = compiler_vocabulary(tokenizer, tokenizer.vocab_size, [text_id])
    assert text_id not in vocabulary.greedy_tokenize("a")
