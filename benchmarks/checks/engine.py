"""The engine on the device: parity, bfloat16, graphs and overlap on and off, ranks."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Gemma2ForCausalLM

from benchmarks.checkpoints import ensure
from benchmarks.workloads import Workload
from model import Engine, EngineConfig, SamplingParams
from model.attention import choose
from model.config import ModelConfig
from model.engine.executor import RankGroup
from model.engine.runner import RankSetup

from .attention import uncompiled_flex
from .environment import CheckFailedError, Details, Setup, error_of, require, significant

# Longer than the tiny model's window of 64 tokens.
PROMPTS = [request.prompt for request in Workload("sharegpt", 6).requests()]
SMALL_CACHE = 16 << 20  # as written, FlexAttention scores the whole of it
ANSWER = SamplingParams(max_tokens=24, ignore_eos=True)


def parity(setup: Setup) -> Details:
    """Compare the tiny model in float32 with transformers on a CPU: scores and greedy answers.

    With each attention backend that computes float32 here, and each kind of kernels.
    """
    folder = ensure("tiny")
    scores, answers = _of_transformers(folder)
    details: Details = {"answers": len(answers)}
    # Each shape that FlexAttention meets is compiled: once with either kernels is enough.
    pairs = [("reference", "plain"), ("flex", "plain")]
    for attention, kernels in [*pairs, ("reference", "triton")] if setup.on_cuda else pairs:
        label = f"{attention}, {kernels}"
        settings: dict[str, Any] = {
            "dtype": "float32",
            "attention": attention,
            "kernels": kernels,
            "kv_cache_bytes": SMALL_CACHE,
        }
        with uncompiled_flex(setup), _engine(setup, folder, **settings) as engine:
            outs = engine.logprobs(PROMPTS)
            given = [list(out.token_ids) for out in engine.generate(PROMPTS, ANSWER)]
        ours = torch.tensor([value for out in outs for value in out.logprobs[1:]])
        details[label] = require(error_of(ours, scores), 1e-4, f"log-probabilities, {label}")
        if given != answers:
            raise CheckFailedError(f"answers differ from those of transformers: {label}")
    return details


def _of_transformers(folder: Path) -> tuple[Tensor, list[list[int]]]:
    """Return the log-probabilities of all prompts' tokens, and the greedy answers."""
    oracle: Any = Gemma2ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    oracle.generation_config.eos_token_id = None
    scores, answers = [], []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            logprobs = oracle(ids).logits[0, :-1].log_softmax(-1)
            out = oracle.generate(ids, do_sample=False, max_new_tokens=ANSWER.max_tokens)
        scores.append(logprobs.gather(1, ids[0, 1:, None])[:, 0])
        answers.append(out[0, len(prompt) :].tolist())
    return torch.cat(scores), answers


def bfloat16(setup: Setup) -> Details:
    """Generate greedily in bfloat16 with the backend that the engine chooses."""
    folder = ensure("tiny")
    backend = choose("auto", setup.device, torch.bfloat16, _config(folder).head_dim)
    with _engine(setup, folder, dtype="float32") as engine:
        exact = engine.generate(PROMPTS, ANSWER)
    with _engine(setup, folder, dtype="bfloat16") as engine:
        outs = engine.generate(PROMPTS, ANSWER)
    same = [
        sum(np.cumprod(np.equal(out.token_ids, best.token_ids)))
        for out, best in zip(outs, exact, strict=True)
    ]
    if not all(np.isfinite(out.cumulative_logprob) for out in outs):
        raise CheckFailedError("log-probabilities are not finite")
    # Near-ties of random weights part the two sooner or later.
    return {"attention": backend.name, "tokens_like_float32": [int(count) for count in same]}


def graphs(setup: Setup) -> Details:
    """Generate in bfloat16 with decode steps replayed as CUDA graphs, and launched one by one."""
    setup.need_cuda()
    return _on_and_off(setup, "cuda_graphs")


def overlap(setup: Setup) -> Details:
    """Generate in bfloat16 with steps launched before the tokens of the last are known, and after.

    On CUDA it also counts what made the host wait while it launched: nothing should.
    """
    details = _on_and_off(setup, "overlap")
    if setup.on_cuda:
        with _engine(setup, ensure("tiny"), dtype="bfloat16", overlap=True) as engine:
            engine.generate(PROMPTS, ANSWER)
            details["host_waits"] = _waits(lambda: engine.generate(PROMPTS, ANSWER))
    return details


def _on_and_off(setup: Setup, setting: str) -> Details:
    """Generate with a setting on and off, the second time against the clock: answers are equal."""
    folder = ensure("tiny")
    answers, details = {}, Details()
    for on in (True, False):
        with _engine(setup, folder, dtype="bfloat16", **{setting: on}) as engine:
            engine.generate(PROMPTS, ANSWER)
            start = time.perf_counter()
            outs = engine.generate(PROMPTS, ANSWER)
            details["on_s" if on else "off_s"] = significant(time.perf_counter() - start)
        answers[on] = [out.token_ids for out in outs]
    if answers[True] != answers[False]:
        raise CheckFailedError(f"answers with {setting} differ from those without")
    return details


def _waits(run: Callable[[], object]) -> list[str]:
    """Name the places at which torch waited for the device, but for events that it waited for."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sorted({f"{Path(w.filename).name}:{w.lineno}" for w in caught})


def tensor_parallel(setup: Setup) -> Details:
    """Answer with two ranks as with one; with a single GPU, load through a group of one rank."""
    folder = ensure("tiny")
    if setup.on_cuda and torch.cuda.device_count() < 2:
        setup_of_ranks = RankSetup(
            folder=folder,
            config=_config(folder),
            dtype="float32",
            device_type="cuda",
            attention="reference",
            kernels="plain",
            quantization="none",
            page_size=None,
            threads=None,
        )
        group = RankGroup(setup_of_ranks, 1)
        group.allocate(8)
        group.close()
        return {"ranks": 1}
    with _engine(setup, folder, dtype="float32") as engine:
        alone = engine.generate(PROMPTS, ANSWER)
    with _engine(setup, folder, dtype="float32", tensor_parallel=2) as engine:
        together = engine.generate(PROMPTS, ANSWER)
    if [out.token_ids for out in alone] != [out.token_ids for out in together]:
        raise CheckFailedError("two ranks answer otherwise than one")
    return {"ranks": 2}


def _engine(setup: Setup, folder: Path, **settings: Any) -> Engine:
    return Engine(EngineConfig(checkpoint=str(folder), device=setup.kind, **settings))


def _config(folder: Path) -> ModelConfig:
    return ModelConfig.from_folder(folder)
