"""Tiny random Gemma 2 models of transformers (eager attention), the oracle, and ours from them."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma2ForSequenceClassification,
    Gemma2ForTokenClassification,
)

from model.config import ModelConfig
from model.gemma2 import Gemma2

from .pages import PagedModel, from_state_dict
from .ways import Way

HEADS: dict[str, Any] = {
    "Gemma2ForCausalLM": Gemma2ForCausalLM,
    "Gemma2ForSequenceClassification": Gemma2ForSequenceClassification,
    "Gemma2ForTokenClassification": Gemma2ForTokenClassification,
}
# Few of everything, and head_dim * heads (80) differs from hidden_size (48).
TINY: dict[str, Any] = {
    "vocab_size": 103,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}


def oracle(
    architecture: str = "Gemma2ForCausalLM", *, seed: int = 0, qk_scale: float = 1.0, **changes: Any
) -> Any:
    """Build transformers' model with random float32 weights.

    Projections are drawn wide enough for attention to be far from uniform, and norm weights and
    biases away from zero, where their mistakes would not show. `qk_scale` makes the cap bite.
    """
    settings: dict[str, Any] = {**TINY, **changes, "attn_implementation": "eager"}
    reference: Any = HEADS[architecture](Gemma2Config(**settings))
    reference.eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in reference.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() == 1:
                tensor.copy_(noise * 0.1)
            else:
                tensor.copy_(noise * tensor.shape[1] ** -0.5)
            if "q_proj.weight" in name or "k_proj.weight" in name:
                tensor.mul_(qk_scale)
    reference.config.architectures = [architecture]
    return reference


def ours(reference: Any) -> Gemma2:
    """Build our model with the same config, dtype and weights."""
    return from_state_dict(config_of(reference), reference.state_dict())


def config_of(reference: Any) -> ModelConfig:
    """Read the oracle's config as ours."""
    return ModelConfig.from_dict(reference.config.to_dict(), source="test")


def in_bfloat16(reference: Any, folder: Path) -> Any:
    """Save and load again in bfloat16: `.to(bfloat16)` would round the rotary frequencies too."""
    reference.save_pretrained(folder)
    kind = type(reference)
    return kind.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager").eval()


class Pair:
    """The oracle and our model with the same weights, and what ours is held to, see `bound`.

    Attributes:
        way: in which ours computes.
        exact: the oracle in float32.
        rounded: the oracle in the dtype of ours.
        model: ours.
        bound: in float32, of the largest difference from the oracle. In bfloat16, row 6 of the
            parity table: of our mean error, as a multiple of transformers' own in bfloat16.
    """

    def __init__(self, way: Way, architecture: str = "Gemma2ForCausalLM", **changes: Any) -> None:
        self.way = way
        self.exact = self.rounded = oracle(architecture, **{"head_dim": way.head_dim, **changes})
        if not way.exact:
            with tempfile.TemporaryDirectory() as folder:
                self.rounded = in_bfloat16(self.exact, Path(folder))
            # The same weights for both, so that only the arithmetic differs.
            self.exact.load_state_dict(self.rounded.state_dict())
        self.model = from_state_dict(
            config_of(self.exact), self.rounded.state_dict(), kernels=way.make_kernels()
        )
        assert self.model.dtype == self.rounded.dtype == way.dtype
        self.bound = 1e-4 if way.exact else 1.5

    def paged(self, **settings: Any) -> PagedModel:
        """Give our model an empty cache."""
        return PagedModel(self.model, backend=self.way.make_backend(), **settings)

    def check(
        self, record_property: Any, what: str, got: Tensor, ask: Callable[[Any], Tensor]
    ) -> None:
        """Hold ours to what the oracles are asked for; `what` begins with the row of the table."""
        want = ask(self.exact)
        self._hold(record_property, what, got, want, want if self.way.exact else ask(self.rounded))

    def check_states(
        self, record_property: Any, what: str, got: list[Tensor], texts: list[list[int]]
    ) -> None:
        """Do so with every hidden state; in float32 relative to its largest value."""
        wants = hidden_states(self.exact, texts)
        roundeds = wants if self.way.exact else hidden_states(self.rounded, texts)
        assert len(got) == len(wants) == self.model.config.num_hidden_layers + 1
        for layer, (state, want, rounded) in enumerate(zip(got, wants, roundeds, strict=True)):
            unit = float(want.abs().max()) if self.way.exact else 1.0
            name = f"{what}, hidden state {layer}"
            self._hold(record_property, name, state / unit, want / unit, rounded / unit)

    def _hold(
        self, record_property: Any, what: str, got: Tensor, want: Tensor, rounded: Tensor
    ) -> None:
        assert got.shape == want.shape
        if self.way.exact:
            figure, found = "max |Δ|", float((got - want).abs().max())
        else:
            figure, found = "mean error / theirs", mean_error(got, want) / mean_error(rounded, want)
        row, _, rest = what.partition(", ")
        report(record_property, row, f"{figure} {rest}, {self.way}", found)
        assert found < self.bound


def mean_error(got: Tensor, want: Tensor) -> float:
    """Return the mean of |Δ|, in float32."""
    return float((got.float() - want.float()).abs().mean())


@torch.no_grad()
def oracle_logits(reference: Any, ids: Any, **inputs: Any) -> Tensor:
    """Run the oracle on one sequence [T] or a batch [B, T] of ids."""
    batch = torch.as_tensor(ids)
    logits: Tensor = reference(input_ids=batch.reshape(-1, batch.shape[-1]), **inputs).logits
    return logits.squeeze(0) if batch.dim() == 1 else logits


def flat_logits(reference: Any, texts: list[list[int]]) -> Tensor:
    """Run the oracle on each text alone; gives its logits [rows, V], one text after another."""
    return torch.cat([oracle_logits(reference, [ids]).flatten(0, -2) for ids in texts])


@torch.no_grad()
def hidden_states(reference: Any, texts: list[list[int]]) -> list[Tensor]:
    """Run the oracle on texts of one length; gives what `PagedModel.feed` does."""
    output = reference(input_ids=torch.tensor(texts), output_hidden_states=True)
    return [state.flatten(0, 1) for state in output.hidden_states]


def random_ids(count: int, *, vocab: int = 103, seed: int = 0) -> list[int]:
    """Draw token ids, none of which is a special one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocab, (count,), generator=generator).tolist()


def report(record_property: Any, row: str, what: str, value: float) -> None:
    """Keep a figure with the test's result; `pytest -s` shows it."""
    record_property(f"{row}: {what}", value)
    print(f"\n{row}: {what} = {value:.3g}")
