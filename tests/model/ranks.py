"""What each rank process of the tensor-parallel tests runs; imports torch and our model only."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from model.config import ModelConfig
from model.parallel import TensorParallel

from .pages import PagedModel, from_state_dict
from .ways import Way, run_flex_as_written


@dataclass(frozen=True)
class Job:
    """A model, how to compute it, and texts to feed it side by side, in chunks of these sizes."""

    config: ModelConfig
    state: dict[str, Tensor]
    way: Way
    texts: list[list[int]]
    sizes: list[int]


@dataclass(frozen=True)
class Output:
    """What a rank got for a job, one text after another.

    Attributes:
        states: every hidden state [T, D].
        head: this rank's logits of each token [T, V / ranks], or its scores [T, L].
    """

    states: list[Tensor]
    head: Tensor


def outputs_of_ranks(jobs: list[Job], size: int, folder: Path) -> list[list[Output]]:
    """Compute each job on `size` ranks; gives what each rank got."""
    torch.save(jobs, folder / "jobs.pt")
    spawn(_rank, args=(size, folder), nprocs=size)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def output(job: Job, tp: TensorParallel) -> Output:
    """Compute one job."""
    model = from_state_dict(job.config, job.state, tp, job.way.make_kernels())
    driver = PagedModel(model, backend=job.way.make_backend(), num_pages=96)
    states = driver.feed(job.texts, job.sizes)
    head = model.logits if job.config.architecture == "causal_lm" else model.score
    return Output(states, head(states[-1]))


def _rank(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    run_flex_as_written()
    jobs = torch.load(folder / "jobs.pt", weights_only=False)
    tp = TensorParallel(rank, size)
    tp.join(folder / "meeting", torch.device("cpu"))
    torch.save([output(job, tp) for job in jobs], folder / f"{rank}.pt")
    tp.leave()
