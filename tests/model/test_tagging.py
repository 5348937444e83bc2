"""Token classification against transformers' own pipeline."""

import itertools
import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline
from transformers.pipelines.token_classification import AggregationStrategy

from model import Engine, EngineConfig, Entity, LongTexts
from model.tagging import entities_of, merged, trimmed
from model.tasks import Aggregation
from model.tokenizer import GemmaTokenizer, load_tokenizer

TAGGER = Path(__file__).parents[2] / "examples" / "tagger"
STRATEGIES: tuple[Aggregation, ...] = get_args(Aggregation)
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC", "B-MISC")
TEXTS = (
    "",
    "libssl-dev",
    " leading and  double spaces ",
    "libfoo-dev - headers of foo, gnome-chess and openssl",
    "Ada Lovelace met Charles Babbage in London; they spoke of Bernoulli's numbers.",
    "line one\nline two\n\n\tindented\r\nlast",
    "Gru\u0308\u00dfe aus Z\u00fcrich, \u00e9t\u00e9 na\u00efve co\u00f6perate",
    "\u6771\u4eac\u30bf\u30ef\u30fc, \u041c\u043e\u0441\u043a\u0432\u0430; \u05e9\u05dc",
    "\U0001f642 openssl \U0001f469\u200d\U0001f52c\u200d libssl1.1 \U0001f4a9\U0001f4a9",
    "nbsp\u00a0between\u2003em\u3000wide, \u200bzero",
    "tab\tand [brackets] {braces} <b>html</b> 3.14159e-10 a_b_c --flag=value",
    "x" * 40 + " " + "y z " * 12,
)
NAMES = ("gnome-chess", "libz3-dev", "0ad")


@pytest.fixture(scope="module")
def hf() -> Any:
    """transformers' pipeline on the demo tagger."""
    model: Any = AutoModelForTokenClassification.from_pretrained(TAGGER, dtype=torch.float32)
    return pipeline("token-classification", model=model, tokenizer=tokenizer_of_hf())


def tokenizer_of_hf() -> Any:
    return AutoTokenizer.from_pretrained(TAGGER)


@pytest.fixture(scope="module")
def tokenizer() -> GemmaTokenizer:
    loaded = load_tokenizer(TAGGER)
    assert loaded is not None
    return loaded


@pytest.fixture(scope="module")
def engine() -> Any:
    config = {"dtype": "float32", "threads": 1, "kv_cache_bytes": 16 << 20}
    with Engine(EngineConfig(checkpoint=str(TAGGER), **config)) as made:
        yield made


def asked(hf: Any, text: str, strategy: str, **settings: Any) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the tokenizer knows no words
        found: list[dict[str, Any]] = hf(text, aggregation_strategy=strategy, **settings)
    return found


def same(ours: Any, theirs: list[dict[str, Any]]) -> bool:
    """Whether spans and labels are equal, and scores close."""
    assert [(e.label, e.start, e.end, e.index) for e in ours] == [
        (e.get("entity_group", e.get("entity")), e["start"], e["end"], e.get("index"))
        for e in theirs
    ]
    assert [e.score for e in ours] == pytest.approx([float(e["score"]) for e in theirs], abs=1e-5)
    return bool(theirs)


def made_up(
    hf: Any, text: str, seed: int, tokenizer: GemmaTokenizer
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Logits of a model that is sure of little, and the output that the pipeline takes them as."""
    encoded = hf.tokenizer(
        text, return_tensors="pt", return_special_tokens_mask=True, return_offsets_mapping=True
    )
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert encoded["input_ids"][0].tolist() == ids
    assert [tuple(pair) for pair in encoded["offset_mapping"][0].tolist()] == offsets
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(len(ids), len(LABELS))).astype(np.float32) * 2)
    return logits, {"logits": logits[None], "sentence": text, "is_last": True, **encoded}


def parts_a_character(text: str, tokenizer: GemmaTokenizer) -> bool:
    """Whether a character behind a space, or the first one, is spelled in bytes; see below."""
    starts = [start for start, _ in tokenizer.encode_with_offsets(text)[1][1:]]
    spelled = {start for start in starts if starts.count(start) > 1}
    return any(start == 0 or text[start - 1] == " " for start in spelled)


@pytest.fixture
def many_labels(hf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf.model.config, "id2label", dict(enumerate(LABELS)))


@pytest.mark.usefixtures("many_labels")
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_is_that_of_transformers(
    hf: Any, tokenizer: GemmaTokenizer, strategy: Aggregation
) -> None:
    found = 0
    for text in TEXTS:
        if strategy not in {"none", "simple"} and parts_a_character(text, tokenizer):
            continue
        for seed in range(12):
            for ignored in (["O"], [], ["LOC", "I-PER"]):
                logits, output = made_up(hf, text, seed, tokenizer)
                theirs = hf.postprocess([output], AggregationStrategy[strategy.upper()], ignored)
                offsets = tokenizer.encode_with_offsets(text)[1]
                probabilities = logits.softmax(-1)
                ours = entities_of(LABELS, probabilities, offsets, text, strategy, ignored)
                found += same(ours, theirs)
    assert found > 200


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_demo_tagger_finds_what_the_pipeline_finds(
    hf: Any, engine: Engine, strategy: Aggregation
) -> None:
    lines = [f"{name} - a tool for {what}" for name in NAMES for what in TEXTS]
    outputs = engine.tag_tokens(lines, aggregation=strategy)
    found = 0
    for text, output in zip(lines, outputs, strict=True):
        theirs = asked(hf, text, strategy)
        if strategy != "none":  # their spans have the spaces that belong to tokens, ours have none
            for entity in theirs:
                span = text[entity["start"] : entity["end"]]
                entity["start"] += len(span) - len(span.lstrip())
                entity["end"] = entity["start"] + len(span.strip())
            theirs = [entity for entity in theirs if entity["start"] < entity["end"]]
        found += same(output.entities, theirs)
        assert all(text[e.start : e.end] == e.text for e in output.entities)
    assert found > 30


@pytest.mark.parametrize("stride", [0, 5, 15])
def test_windows_are_joined_as_the_pipeline_joins_them(
    hf: Any, engine: Engine, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " and ".join(f"{name} - tool for libssl-dev" for name in NAMES * 2)
    monkeypatch.setattr(hf.tokenizer, "model_max_length", 24)
    monkeypatch.setattr(engine, "max_model_len", 24)
    for strategy in STRATEGIES[1:]:
        theirs = asked(hf, text, strategy, stride=stride)
        (output,) = engine.tag_tokens(
            [text], aggregation=strategy, long_texts=LongTexts("stride", stride)
        )
        spans = [text[e["start"] : e["end"]] for e in theirs]
        assert [e.text for e in output.entities] == [span.strip() for span in spans]
        assert [e.score for e in output.entities] == pytest.approx(
            [float(e["score"]) for e in theirs], abs=1e-5
        )
        assert spans
    assert output.prompt_tokens == len(output.token_labels) > 2 * 24
    (cut,) = engine.tag_tokens([text], long_texts=LongTexts("truncate"))
    assert [e.text for e in cut.entities] == [
        text[e["start"] : e["end"]].strip() for e in asked(hf, text, "simple")
    ]
    assert cut.prompt_tokens == 24


def test_tokens_of_windows_are_each_there_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers refuses this: each token is taken from the first window that has it."""
    text = "gnome-chess - " + "tool for libssl-dev " * 6
    asks = {"aggregation": "none", "ignore_labels": ()}
    (whole,) = engine.tag_tokens([text], **asks)
    monkeypatch.setattr(engine, "max_model_len", 24)
    (output,) = engine.tag_tokens([text], long_texts=LongTexts("stride", 8), **asks)
    assert [(e.index, e.start, e.end) for e in output.entities] == [
        (e.index, e.start, e.end) for e in whole.entities
    ]
    assert output.entities[:23] == tuple(
        Entity(e.label, e.start, e.end, e.text, pytest.approx(e.score, abs=1e-5), e.index)
        for e in whole.entities[:23]
    )
    assert output.token_labels[1:] == tuple(e.label for e in output.entities)


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.usefixtures("many_labels")
def test_bytes_of_a_character_are_of_one_word(hf: Any, tokenizer: GemmaTokenizer) -> None:
    """A difference: words can't end up with different tags, says the documentation.

    transformers' release takes each byte of a character behind a space for a word.
    """
    text = "a \U0001f9ff!"
    logits, output = made_up(hf, text, 3, tokenizer)
    theirs = hf.postprocess([output], AggregationStrategy.FIRST, [])
    assert len([e for e in theirs if (e["start"], e["end"]) == (2, 3)]) > 1
    offsets = tokenizer.encode_with_offsets(text)[1]
    assert len([pair for pair in offsets if pair == (2, 3)]) == 4
    for strategy in ("first", "average", "max"):
        ours = entities_of(LABELS, logits.softmax(-1), offsets, text, strategy, ())
        spans = [(e.start, e.end) for e in ours]
        assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))


def test_a_label_may_have_a_hyphen_of_its_own(tokenizer: GemmaTokenizer) -> None:
    """A difference: transformers reports the group of LIB-DEV as DEV."""
    text = "libssl-dev"
    offsets = tokenizer.encode_with_offsets(text)[1]
    sure = torch.tensor([[0.25, 0.75]] * len(offsets))
    (entity,) = entities_of(("O", "LIB-DEV"), sure, offsets, text)
    assert (entity.label, entity.start, entity.end) == ("LIB-DEV", 0, 10)


def test_entities_join_and_split() -> None:
    text = "Ada Lovelace met Babbage"
    offsets = [(0, 0), (0, 3), (3, 12), (12, 16), (16, 20), (20, 24)]
    names = ("O", "B-P", "I-P")
    best = [(0, 0.9), (1, 0.5), (2, 0.7), (0, 0.9), (1, 0.8), (1, 0.6)]
    rows = torch.zeros(6, 3)
    for row, (label, score) in zip(rows, best, strict=True):
        row[label] = score
    assert trimmed(entities_of(names, rows, offsets, text)) == (
        Entity("P", 0, 12, "Ada Lovelace", pytest.approx(0.6)),
        Entity("P", 17, 20, "Bab", pytest.approx(0.8)),
        Entity("P", 20, 24, "bage", pytest.approx(0.6)),
    )


def test_of_overlapping_entities_the_longer_stays_and_then_the_surer() -> None:
    def entity(start: int, end: int, score: float = 0.5) -> Entity:
        return Entity("P", start, end, "x" * (end - start), score)

    assert merged([]) == ()
    assert merged([entity(4, 9), entity(0, 5), entity(5, 7)]) == (entity(0, 5), entity(5, 7))
    assert merged([entity(0, 3), entity(2, 7)]) == (entity(2, 7),)
    assert merged([entity(0, 3, 0.2), entity(0, 3, 0.4)]) == (entity(0, 3, 0.4),)


def test_white_space_at_the_ends_is_no_part_of_an_entity() -> None:
    found = [Entity("P", 3, 9, " Ada\n ", 0.5), Entity("P", 9, 11, " \t", 0.5)]
    assert trimmed(found) == (Entity("P", 4, 7, "Ada", 0.5),)
