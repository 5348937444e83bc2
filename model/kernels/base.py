"""What every implementation of the kernels does, whatever computes it.

Shape suffixes: T tokens of the step, R rows of them, D hidden, N outputs, F feed-forward width, V
vocabulary, M features of a fused query-key-value projection, H head size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from model.kv_cache import KVCache
from model.params import Quantization
from model.quantization import Weight

# From logits [R, V] each row's best column [R] int64, the lowest among equals, its score and the
# log of its softmax, [R] float32 both.
Peaks = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


class Linear(ABC):
    """From [T, D] to [T, N], both in the model's dtype; the last dimension is contiguous.

    Attributes:
        nbytes: of the weight in the form that is kept.
    """

    nbytes: int

    @abstractmethod
    def __call__(self, x_TD: Tensor) -> Tensor:
        """Return [T, N]."""


class GatedLinear(Linear):
    """From [T, D] to gelu_tanh(gate(x)) * up(x), [T, F]; in one go, or in two."""

    @abstractmethod
    def halves(self, x_TD: Tensor) -> Tensor:
        """Return gate(x), and up(x) beside it: [T, 2 F]."""

    @abstractmethod
    def product(self, halves_TF: Tensor) -> Tensor:
        """Return gelu_tanh of the first F columns of [T, 2 F] times the others: [T, F]."""


class TokenTable(ABC):
    """A table with a row per token, as input embedding and as output head.

    Attributes:
        nbytes: of the table in the form that is kept.
    """

    nbytes: int

    @abstractmethod
    def embed(self, ids_T: Tensor, scale: float) -> Tensor:
        """Look up rows, times `scale`: [T, D]."""

    @abstractmethod
    def project(self, x_RD: Tensor, softcap: float | None) -> Tensor:
        """Return x's products with all rows, capped to softcap * tanh(. / softcap): [R, V]."""


class Kernels(ABC):
    """The operations of a layer, and the forms of weights that they work on.

    Weights are given once, after loading, and may be kept in another form: the caller drops its
    own. A dense one is quantized as asked; one that is quantized stays in its format. Biases are
    [N] in the model's dtype.

    Attributes:
        name: as users choose it.
        angles_dtype: of the cosines and sines that `rotate_and_store` wants; None is the model's.
        peaks: for logits in the model's dtype; None where torch does as well.
    """

    name: str
    angles_dtype: torch.dtype | None
    peaks: Peaks | None = None

    @abstractmethod
    def linear(
        self, weight_ND: Weight, bias_N: Tensor | None, quantization: Quantization
    ) -> Linear:
        """Return x -> x W^T + bias."""

    @abstractmethod
    def gated(self, weight_FD: Weight, quantization: Quantization) -> GatedLinear:
        """Return x -> gelu_tanh(gate(x)) * up(x), [T, F]; gate is the weight's first F rows."""

    @abstractmethod
    def token_table(self, weight_VD: Tensor) -> TokenTable:
        """Return the table in the form that lookups and projections want. Never quantized."""

    @abstractmethod
    def rms_norm(self, x_TD: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        """Return x / rms(x) * gain, with gain in float32, computed in float32 and rounded once."""

    @abstractmethod
    def add_norm(
        self, x_TD: Tensor, branch_TD: Tensor, branch_gain_D: Tensor, gain_D: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Add the normed branch to x; return the sum and the norm of it. May work in place."""

    @abstractmethod
    def rotate_and_store(
        self,
        qkv_TM: Tensor,
        angles: tuple[Tensor, Tensor],
        cache: KVCache,
        layer_index: int,
        slots_T: Tensor,
    ) -> Tensor:
        """Rotate queries and keys, put keys and values into the cache; may work in place.

        Args:
            qkv_TM: query heads, then the KV heads' keys, then their values.
            angles: cosines and sines [T, 1, H/2] in `angles_dtype`.
            cache: of this rank; its pages say how many KV heads there are, and H.
            layer_index: whose keys they are.
            slots_T: int64, where each token's go.

        Returns:
            The rotated queries [T, query heads, H], possibly a view of qkv.
        """
