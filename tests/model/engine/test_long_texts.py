"""Texts that are longer than the model: cut off, or in windows that make one result."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from model import Engine, LongTexts, ParameterError, PromptError, TaskError
from model.engine.windowed import WindowedEngine
from model.long_texts import Fitted, Frame, WindowedPrompt, fit
from model.params import SamplingParams
from model.tasks import Classify, Embed, Generate, TagTokens
from model.tokenizer import load_tokenizer
from tests.model.helpers import random_ids

from .conftest import MakeEngine

TRUNCATE, STRIDE = LongTexts("truncate"), LongTexts("stride", 6)
LIMIT = 20
LONG = [2, *random_ids(60, seed=8)]
EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "demo-model"


def windows(prompt: object) -> list[list[int]]:
    assert isinstance(prompt, WindowedPrompt)
    return [[prompt.ids[place] for place in places] for places in prompt.places()]


@given(st.integers(0, 90), st.integers(8, 40), st.integers(0, 6))
def test_windows_are_those_of_the_tokenizers_library(count: int, limit: int, stride: int) -> None:
    words = [f"w{n}" for n in range(90)]
    tokenizer = Tokenizer.from_str(word_level(words))
    tokenizer.enable_truncation(limit, stride=stride)
    encoding = tokenizer.encode(" ".join(words[:count]))
    expected = [part.ids for part in (encoding, *encoding.overflowing)]
    tokenizer.no_truncation()
    ids = tokenizer.encode(" ".join(words[:count])).ids
    fitted = fit(ids, limit, LongTexts("stride", stride), Frame())
    found = windows(fitted.prompt) if fitted.windows > 1 else [fitted.prompt]
    assert found == expected
    cut = fit(ids, limit, TRUNCATE, Frame())
    assert (cut.prompt, cut.truncated, cut.kept) == (
        expected[0],
        len(ids) > limit,
        len(expected[0]),
    )
    if isinstance(fitted.prompt, WindowedPrompt):
        pairs = zip(fitted.prompt.places(), fitted.prompt.fresh(), strict=True)
        assert [places[row] for places, rows in pairs for row in rows] == list(range(len(ids)))


def word_level(words: list[str]) -> str:
    vocab = {word: n for n, word in enumerate(["<bos>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<bos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    return str(tokenizer.to_str())


def test_the_turns_of_a_chat_stay_whole() -> None:
    tokenizer = load_tokenizer(EXAMPLES / "causal-lm")
    assert tokenizer is not None
    text = "libssl toolkit " * 20
    ids = tokenizer.encode_messages([{"role": "user", "content": text}])
    cut = fit(ids, 40, TRUNCATE, Frame.of_chat(ids, tokenizer))
    assert isinstance(cut.prompt, list)
    shown = tokenizer.decode(cut.prompt, skip_special=False)
    assert len(cut.prompt) == 40
    assert shown.startswith("<bos><start_of_turn>user\nlibssl toolkit libssl")
    assert shown.endswith("<end_of_turn>\n<start_of_turn>model\n")
    for window in windows(fit(ids, 40, STRIDE, Frame.of_chat(ids, tokenizer)).prompt):
        shown = tokenizer.decode(window, skip_special=False)
        assert shown.startswith("<bos><start_of_turn>user\n")
        assert shown.endswith("<end_of_turn>\n<start_of_turn>model\n")
    open_end = tokenizer.encode_messages(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]
    )
    cut = fit(open_end, 40, TRUNCATE, Frame.of_chat(open_end, tokenizer))
    assert cut.prompt == open_end[:40]
    with pytest.raises(PromptError, match="leave none of 8 for the text"):
        fit(ids, 8, TRUNCATE, Frame.of_chat(open_end, tokenizer))


def test_a_stride_that_makes_a_window_of_each_token_is_refused() -> None:
    with pytest.raises(PromptError, match="makes 4981 windows of 20 with a stride of 18"):
        fit([2] * 5000, LIMIT, LongTexts("stride", 18), Frame())


@pytest.fixture
def classifier(make: MakeEngine) -> Engine:
    return make("classifier", max_model_len=LIMIT)


def test_scores_are_means_over_windows_weighted_by_new_tokens(classifier: Engine) -> None:
    (output,) = classifier.classify([LONG], long_texts=STRIDE)
    step = LIMIT - 1 - 6
    parts = [[2, *LONG[at : at + LIMIT - 1]] for at in range(1, len(LONG) - 6, step)]
    new = [LIMIT, *(len(part) - 1 - 6 for part in parts[1:])]
    assert sum(new) == len(LONG) == output.prompt_tokens
    alone = classifier.classify(parts)
    weights = np.array(new) / len(LONG)
    for field in ("scores", "logits"):
        values = np.array([[getattr(v, "score", v) for v in getattr(one, field)] for one in alone])
        got = [getattr(v, "score", v) for v in getattr(output, field)]
        assert got == pytest.approx(list(weights @ values), rel=1e-4)
    assert output.score == max(item.score for item in output.scores)
    assert sum(item.score for item in output.scores) == pytest.approx(1)


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_vectors_are_means_over_windows(make: MakeEngine, pooling: Any) -> None:
    engine = make(max_model_len=LIMIT)
    raw = {"pooling": pooling, "normalize": False}
    (output,) = engine.embed([LONG], long_texts=STRIDE, **raw)
    parts = [[2, *LONG[at : at + LIMIT - 1]] for at in range(1, len(LONG) - 6, LIMIT - 7)]
    new = [LIMIT, *(len(part) - 7 for part in parts[1:])]
    alone = np.array([one.embedding for one in engine.embed(parts, **raw)])
    expected = np.array(new) / len(LONG) @ alone
    assert output.embedding == pytest.approx(list(expected), abs=1e-5)
    (unit,) = engine.embed([LONG], pooling=pooling, long_texts=STRIDE)
    assert np.linalg.norm(unit.embedding) == pytest.approx(1)


def test_states_of_tokens_are_those_of_the_first_window_that_has_them(make: MakeEngine) -> None:
    engine = make(max_model_len=LIMIT)
    (output,) = engine.hidden_states([LONG], long_texts=STRIDE)
    first, second = engine.hidden_states([LONG[:LIMIT], [2, *LONG[14 : 14 + LIMIT - 1]]])
    assert output.hidden_states.shape == (len(LONG), 48)
    np.testing.assert_allclose(output.hidden_states[:LIMIT], first.hidden_states, atol=1e-5)
    np.testing.assert_allclose(
        output.hidden_states[LIMIT : LIMIT + 13], second.hidden_states[7:], atol=1e-5
    )


def test_what_is_cut_off_plays_no_part(classifier: Engine) -> None:
    (cut,) = classifier.classify([LONG], long_texts=TRUNCATE)
    (whole,) = classifier.classify([LONG[:LIMIT]])
    assert cut.logits == pytest.approx(whole.logits, abs=1e-5)
    assert cut.prompt_tokens == LIMIT
    with pytest.raises(PromptError, match="61 tokens"):
        classifier.classify([LONG])


def test_prompts_that_fit_are_left_alone(classifier: Engine) -> None:
    prompts = [LONG[:LIMIT], LONG[:3]]
    expected = classifier.classify(prompts)
    for long_texts in (TRUNCATE, STRIDE):
        for one, other in zip(
            classifier.classify(prompts, long_texts=long_texts), expected, strict=True
        ):
            assert one.logits == pytest.approx(other.logits, abs=1e-5)


def windowed(count: int = 61) -> WindowedPrompt:
    prompt = fit(LONG[:count], LIMIT, STRIDE, Frame()).prompt
    assert isinstance(prompt, WindowedPrompt)
    return prompt


def test_one_request_whatever_its_windows(classifier: Engine) -> None:
    names = [classifier.add_request(windowed(), [Classify(), Embed()], request_id="a")]
    names.append(classifier.add_request(LONG[:5], [Classify()]))
    with pytest.raises(ParameterError, match="'a' is in use"):
        classifier.add_request(LONG[:5], [Classify()], request_id="a")
    outputs = {}
    while classifier.has_work:
        for update in classifier.step():
            assert update.request_id not in outputs
            outputs[update.request_id] = update.output
    assert sorted(outputs) == sorted(names)
    whole = outputs["a"]
    assert whole is not None
    assert (whole.prompt_tokens, len(whole.results)) == (61, 2)
    assert not classifier._wholes
    assert not classifier._whole_of


def test_an_abort_ends_all_windows(classifier: Engine) -> None:
    name = classifier.add_request(windowed(), [Classify()])
    classifier.step()
    assert classifier.abort(name)
    assert not classifier.abort(name)
    assert not classifier.has_work
    classifier.check_integrity()


def test_answers_can_not_be_made_of_windows(make: MakeEngine) -> None:
    engine: WindowedEngine = make()
    with pytest.raises(TaskError, match="as a whole"):
        engine.add_request(windowed(), [Generate(SamplingParams())])
    assert not engine.has_work
    with pytest.raises(TaskError, match="sequence_classification"):
        engine.add_request(windowed(), [Classify()])


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("stride",), "needs stride: N"),
        (("truncate", 3), "goes with long_texts: stride"),
        (("error", 0), "goes with long_texts: stride"),
        (("stride", -1), "at least 0"),
    ],
)
def test_settings_that_contradict_each_other(arguments: Any, part: str) -> None:
    with pytest.raises(ParameterError, match=part):
        LongTexts(*arguments)


def test_a_stride_leaves_room_to_go_on(classifier: Engine) -> None:
    LongTexts("stride", LIMIT - 2).check(LIMIT)
    with pytest.raises(ParameterError, match="less than 19"):
        classifier.classify([LONG], long_texts=LongTexts("stride", LIMIT - 1))


def test_tags_of_a_cut_text(make: MakeEngine) -> None:
    engine = make("text-tagger", max_model_len=LIMIT)
    text = "Ada Lovelace met Charles Babbage; " * 9
    (cut,) = engine.tag_tokens([text], long_texts=TRUNCATE)
    assert len(cut.token_labels) == cut.prompt_tokens == LIMIT
    (whole,) = engine.tag_tokens([text], long_texts=STRIDE)
    assert len(whole.token_labels) == whole.prompt_tokens > 3 * LIMIT
    ends = [0, *(place for e in whole.entities for place in (e.start, e.end))]
    assert all(one <= other for one, other in itertools.pairwise(ends))
    assert TagTokens("a", ((0, 1),)).trims
    assert Fitted([1], 1).windows == 1
