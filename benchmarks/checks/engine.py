"""The engine on the device: parity, bfloat16, ranks, capture of its forward pass, throughput."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Gemma2ForCausalLM

from benchmarks.checkpoints import ensure
from benchmarks.contenders import Gemmaray, Spec
from benchmarks.measure import timed
from benchmarks.report import gemm_gflop
from benchmarks.workloads import Workload
from model import Engine, EngineConfig, SamplingParams
from model.attention import choose
from model.batch import GroupLayout, PackedBatch
from model.checkpoint import load
from model.config import ModelConfig
from model.engine.executor import RankGroup
from model.engine.runner import RankSetup
from model.gemma2 import Gemma2
from model.kernels import PlainKernels
from model.kv_cache import KVCache
from model.parallel import TensorParallel

from .environment import CheckFailedError, Details, Setup, error_of, require

# Longer than the tiny model's window of 64 tokens.
PROMPTS = [request.prompt for request in Workload("sharegpt", 6).requests()]
ANSWER = SamplingParams(max_tokens=24, ignore_eos=True)
CUDA_WORKLOADS = ("uniform:512", "sharegpt:256", "shared-prefix:256", "classify:256")
CPU_WORKLOADS = ("uniform:4:0.25", "classify:4:0.25")


def parity(setup: Setup) -> Details:
    """Compare the tiny model in float32 with transformers on a CPU: scores and greedy answers."""
    folder = ensure("tiny")
    oracle: Any = Gemma2ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    oracle.generation_config.eos_token_id = None
    with _engine(setup, folder, dtype="float32", attention="reference") as engine:
        scores = [out.logprobs[1:] for out in engine.logprobs(PROMPTS)]
        answers = [list(out.token_ids) for out in engine.generate(PROMPTS, ANSWER)]
    worst = 0.0
    for prompt, ours, answer in zip(PROMPTS, scores, answers, strict=True):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            expected = oracle(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
            out = oracle.generate(ids, do_sample=False, max_new_tokens=ANSWER.max_tokens)
        worst = max(worst, error_of(torch.tensor(ours), expected[:, 0]))
        if out[0, len(prompt) :].tolist() != answer:
            raise CheckFailedError("greedy answers differ from those of transformers")
    return {"error": require(worst, 1e-4, "log-probabilities"), "answers": len(answers)}


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


def tensor_parallel(setup: Setup) -> Details:
    """Answer with two ranks as with one; with a single GPU, load through a group of one rank."""
    folder = ensure("tiny")
    if setup.on_cuda and torch.cuda.device_count() < 2:
        group = RankGroup(
            RankSetup(folder, _config(folder), "float32", "cuda", "reference", None, None), 1
        )
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


def capture(setup: Setup) -> Details:
    """Capture the model's forward pass of eight decodes in a CUDA graph, and replay it."""
    setup.need_cuda()
    folder = ensure("tiny")
    config, dtype = _config(folder), torch.bfloat16
    backend = choose("auto", setup.device, dtype, config.head_dim)
    model = Gemma2(config, TensorParallel.single(), dtype, setup.device)
    load(model.shards(), folder, model.ignorable())
    model.prepare(PlainKernels())
    cache = KVCache(config, 16, backend.page_size, config.num_key_value_heads, dtype, setup.device)
    batch = _decodes(config, backend.page_size)
    plan = model.plan(batch, backend, backend.page_size)
    ids = torch.from_numpy(batch.token_ids).to(setup.device)
    positions = torch.from_numpy(batch.positions).to(setup.device)

    def forward() -> Tensor:
        return model.logits(model(ids, positions, cache, plan, backend))

    graph = torch.cuda.CUDAGraph()
    forward()
    torch.cuda.synchronize()
    with torch.inference_mode(), torch.cuda.graph(graph):
        out = forward()
    ids.copy_(ids.flip(0))
    graph.replay()
    replayed = out.clone()
    return {
        "attention": backend.name,
        "error": require(error_of(replayed, forward()), 1e-3, "replayed graph"),
        "eager_us": round(1e6 * setup.seconds(forward)),
        "replay_us": round(1e6 * setup.seconds(graph.replay)),
    }


def throughput(setup: Setup) -> Details:
    """Measure the engine alone on each workload, once, after a warm-up."""
    folder = ensure(setup.shape)
    spec = Spec("gemmaray", folder, "bfloat16", setup.kind, threads=torch.get_num_threads())
    contender = Gemmaray(spec)
    details: Details = {"shape": setup.shape}
    for text in CUDA_WORKLOADS if setup.on_cuda else CPU_WORKLOADS:
        workload = Workload.parse(text)
        contender.run(workload.warm_up())
        requests = workload.requests()
        _, timing = timed(lambda: contender.run(requests))  # noqa: B023 - called at once
        prompt_tokens = sum(len(request.prompt) for request in requests)
        output_tokens = sum(request.output_len for request in requests)
        work = gemm_gflop(contender.engine.model_config, prompt_tokens, output_tokens)
        details[text] = {
            "wall_s": round(timing.wall_s, 3),
            "output_tokens_per_s": round(output_tokens / timing.wall_s, 1),
            "total_tokens_per_s": round((prompt_tokens + output_tokens) / timing.wall_s, 1),
            "gemm_gflops": round(work / timing.wall_s, 1),
        }
    contender.close()
    return details


def _engine(setup: Setup, folder: Path, **settings: Any) -> Engine:
    return Engine(EngineConfig(checkpoint=str(folder), device=setup.kind, **settings))


def _config(folder: Path) -> ModelConfig:
    return ModelConfig.from_folder(folder)


def _decodes(config: ModelConfig, page_size: int) -> PackedBatch:
    """Eight sequences at position 4, each on a page of its own."""
    count, position = 8, 4
    layout = GroupLayout(
        slots=np.arange(count) * page_size + position,
        tables=tuple(np.array([page]) for page in range(count)),
        first_key=np.zeros(count, dtype=np.int64),
    )
    return PackedBatch(
        token_ids=np.arange(400, 400 + count),
        positions=np.full(count, position),
        query_lens=np.ones(count, dtype=np.int64),
        key_lens=np.full(count, position + 1),
        groups=dict.fromkeys(config.layer_types, layout),
    )
