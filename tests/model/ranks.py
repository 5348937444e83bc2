"""What each rank process of the tensor-parallel tests runs; imports torch and our model only."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from model.config import ModelConfig
from model.parallel import TensorParallel

from .pages import PagedModel, from_state_dict


@dataclass(frozen=True)
class Job:
    """A model, and a sequence to feed it in chunks of the given sizes."""

    config: ModelConfig
    state: dict[str, Tensor]
    ids: list[int]
    sizes: list[int]


def outputs_of_ranks(jobs: list[Job], size: int, folder: Path) -> list[list[Tensor]]:
    """Compute each job's logits (or scores) on `size` ranks; gives what each rank got."""
    torch.save(jobs, folder / "jobs.pt")
    spawn(_rank, args=(size, folder), nprocs=size)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


def output(job: Job, tp: TensorParallel) -> Tensor:
    """Compute one job's logits, or scores where the model has a head for labels."""
    model = from_state_dict(job.config, job.state, tp)
    hidden = PagedModel(model).run(job.ids, job.sizes)
    head = model.logits if job.config.architecture == "causal_lm" else model.score
    return head(hidden)


def _rank(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    jobs = torch.load(folder / "jobs.pt", weights_only=False)
    tp = TensorParallel(rank, size)
    tp.join(folder / "meeting", torch.device("cpu"))
    torch.save([output(job, tp) for job in jobs], folder / f"{rank}.pt")
    tp.leave()
