"""Hugging Face transformers, with static batches."""

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks.spec import Answers, Contender, Request, Spec

BATCH = 32


class Transformers(Contender):
    """Static batches in order of arrival, padded, eager attention; the setting is `batch`.

    Each batch is generated to its longest answer; tokens past a request's own are dropped.
    """

    def __init__(self, spec: Spec) -> None:
        torch.set_num_threads(spec.threads)
        self._batch: int = spec.setting("batch", BATCH)
        self.version = transformers.__version__
        self.settings = f"static b{self._batch} eager"
        self.precision = spec.dtype
        self._device = torch.device(spec.device)
        architecture = AutoConfig.from_pretrained(spec.checkpoint).architectures[0]
        self._classifies = "SequenceClassification" in architecture
        transformers.utils.logging.disable_progress_bar()
        auto: Any = AutoModelForSequenceClassification if self._classifies else AutoModelForCausalLM
        model = auto.from_pretrained(
            spec.checkpoint, dtype=getattr(torch, spec.dtype), attn_implementation="eager"
        )
        self._model = model.to(self._device).eval()
        if not self._classifies:
            self._model.generation_config.eos_token_id = None  # go on past the end tokens

    @torch.inference_mode()
    def run(self, requests: Sequence[Request]) -> Answers:
        """Answer all requests, one batch after the other."""
        answers: Answers = []
        answer = self._classify if self._classifies else self._generate
        for start in range(0, len(requests), self._batch):
            answers += answer(requests[start : start + self._batch])
        return answers

    def close(self) -> None:
        """Nothing to end."""

    def _generate(self, requests: Sequence[Request]) -> Answers:
        ids, mask = self._padded(requests, left=True)
        longest = max(request.output_len for request in requests)
        out = self._model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=longest
        )
        rows = out[:, ids.shape[1] :].tolist()
        return [row[: r.output_len] for row, r in zip(rows, requests, strict=True)]

    def _classify(self, requests: Sequence[Request]) -> Answers:
        ids, mask = self._padded(requests, left=False)
        answers: Answers = self._model(ids, attention_mask=mask).logits.argmax(-1)[:, None].tolist()
        return answers

    def _padded(
        self, requests: Sequence[Request], *, left: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(request.prompt) for request in requests)
        ids = torch.full((len(requests), width), self._model.config.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            length = len(request.prompt)
            where = slice(width - length, width) if left else slice(0, length)
            ids[row, where] = torch.tensor(request.prompt)
            mask[row, where] = 1
        return ids.to(self._device), mask.to(self._device)
