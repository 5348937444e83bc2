"""Whole workloads on a real shape: this engine, and transformers beside it."""

import time
from typing import Any

import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from benchmarks.checkpoints import SHAPES, hf_config
from benchmarks.report import gemm_gflop
from benchmarks.workloads import Request, Workload
from model import Engine, EngineConfig, SamplingParams
from model.config import ModelConfig

from .dummy import dummy_checkpoint
from .environment import Details, Setup, significant

# 1024 in and 128 out; 100 to 1024 both ways; 6144 in and 1024 out: see `benchmarks.workloads`.
GENERATE = ("random:256", "mixed:256", "long:64")
CLASSIFY = "classify:512"
# Of a decode: the ends of the kinds of steps that attention knows.
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
PEER = "random:64"
SMALL_GENERATE = ("random:3:0.03", "mixed:3:0.03")
SMALL_CLASSIFY, SMALL_PEER = "classify:3:0.1", "random:3:0.03"


def generate(setup: Setup) -> Details:
    """Generate greedily, as many tokens as each request asks for."""
    details: Details = {}
    with dummy_checkpoint(setup.shape) as folder, _engine(setup, folder) as engine:
        for text in GENERATE if setup.on_cuda else SMALL_GENERATE:
            requests = Workload.parse(text).requests()
            _warm_up(engine, requests)
            start = time.perf_counter()
            _generate(engine, requests)
            seconds = time.perf_counter() - start
            details[text] = _rates(setup, engine.model_config, requests, seconds)
    return details


def classify(setup: Setup) -> Details:
    """Give each prompt one of four labels: a prefill and nothing else."""
    text = CLASSIFY if setup.on_cuda else SMALL_CLASSIFY
    with dummy_checkpoint(setup.shape, labels=4) as folder, _engine(setup, folder) as engine:
        workload = Workload.parse(text)
        engine.classify([request.prompt for request in workload.warm_up()])
        requests = workload.requests()
        start = time.perf_counter()
        engine.classify([request.prompt for request in requests])
        seconds = time.perf_counter() - start
        return {text: _rates(setup, engine.model_config, requests, seconds)}


def transformers(setup: Setup) -> Details:
    """Generate with a static cache, which transformers compiles on a GPU; one batch, warmed up."""
    requests = Workload.parse(PEER if setup.on_cuda else SMALL_PEER).requests()
    written = hf_config(SHAPES[setup.shape], 0)
    config = Gemma2Config(**written, attn_implementation="eager")
    with setup.device:
        model: Any = Gemma2ForCausalLM(config).to(torch.bfloat16).eval()
    model.generation_config.eos_token_id = None
    ids = torch.tensor([request.prompt for request in requests], device=setup.device)
    settings: dict[str, Any] = {"do_sample": False, "cache_implementation": "static"}
    settings["max_new_tokens"] = requests[0].output_len

    def run() -> None:
        model.generate(ids, attention_mask=torch.ones_like(ids), **settings)

    with torch.inference_mode():
        start = time.perf_counter()
        run()
        first = time.perf_counter() - start
        seconds = setup.seconds(run, repeat=1 if first > 30 else 2)
    return {
        PEER if setup.on_cuda else SMALL_PEER: _rates(
            setup, ModelConfig.from_dict(written, source=setup.shape), requests, seconds
        ),
        "first_call_s": significant(first),
    }


def _engine(setup: Setup, folder: Any) -> Engine:
    return Engine(EngineConfig(checkpoint=str(folder), dtype="bfloat16", device=setup.kind))


def _warm_up(engine: Engine, requests: list[Request]) -> None:
    """Compile and capture what the requests will need, in a few steps.

    Batches drain from as many sequences to one, halving with each step, beside one that is as long
    as any of each kind.
    """
    count = len(requests)
    longest = max(len(request.prompt) + request.output_len for request in requests)
    for length in sorted({min(length, longest) for length in LENGTHS}):
        short = [
            Request([2, 400 + i], 2 + count.bit_length() - i.bit_length()) for i in range(count)
        ]
        short[0] = Request([2] * (length - short[0].output_len), short[0].output_len)
        _generate(engine, short)


def _generate(engine: Engine, requests: list[Request]) -> None:
    params = [SamplingParams(max_tokens=r.output_len, ignore_eos=True) for r in requests]
    engine.generate([request.prompt for request in requests], params)


def _rates(setup: Setup, config: ModelConfig, requests: list[Request], seconds: float) -> Details:
    prompt = sum(len(request.prompt) for request in requests)
    output = sum(request.output_len for request in requests)
    peak = torch.cuda.max_memory_allocated() if setup.on_cuda else 0
    return {
        "wall_s": significant(seconds),
        "requests_per_s": significant(len(requests) / seconds),
        "output_tokens_per_s": significant(output / seconds),
        "total_tokens_per_s": significant((prompt + output) / seconds),
        "tflops": significant(1e-3 * gemm_gflop(config, prompt, output) / seconds),
        "peak_gib": round(peak / 2**30, 1),
    }
