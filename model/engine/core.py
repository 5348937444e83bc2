"""What drives the model: requests in, one forward pass per step, updates out. No threads."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from model.config import ModelConfig
from model.constrain import Constraints
from model.errors import GemmarayError, ParameterError, PromptError
from model.hybrid_cache import HybridCache
from model.locate import locate, locate_adapter
from model.lora import adapted_config
from model.outputs import RequestUpdate
from model.params import EngineConfig
from model.prefix_cache import page_digests
from model.stats import EngineStats, MemoryReport
from model.tasks import Task
from model.tokenizer import GemmaTokenizer, load_tokenizer

from .adapters import AdapterNames
from .admission import Admission
from .compiling import Compiling
from .device import device_type_of, overlaps_on, threads_of
from .executor import Executor, InProcess, RankGroup
from .flight import Flight
from .memory import count_pages, free_bytes, idle_pages, kv_share, layer_windows, most_pages
from .pacing import Pacer
from .readers import PromptReader
from .request import Prompt, Request, RequestFactory
from .runner import RankSetup
from .scheduler import Scheduler
from .sequence import Sequence as EngineSequence
from .watchdog import OnStuck

CPU_BATCH_TOKENS = 512
CUDA_BATCH_TOKENS = 8192
# How long a step waits at most where nothing is left to do but to compile constraints.
COMPILE_WAIT_S = 0.01


class EngineCore:
    """A loaded checkpoint behind continuous batching. Not thread-safe: one thread drives it.

    Raises on construction: as `Engine`.
    """

    def __init__(self, config: EngineConfig, *, on_stuck: OnStuck | None = None) -> None:
        folder = locate(config.checkpoint, config.revision)
        merged = locate_adapter(config.adapter) if config.adapter is not None else None
        self.config = config
        self.model_config = adapted_config(ModelConfig.from_folder(folder), merged)
        self._adapters = AdapterNames(config.adapters)
        self.tokenizer: GemmaTokenizer | None = load_tokenizer(folder)
        self._counts = EngineStats()
        self._requests: dict[str, Request] = {}
        self._compiling = Compiling()
        self._names = (f"request-{number}" for number in itertools.count())
        device_type = device_type_of(config)
        setup = RankSetup(
            folder=folder,
            config=self.model_config,
            dtype=self.model_config.compute_dtype(config.dtype),
            device_type=device_type,
            attention=config.attention,
            kernels=config.kernels,
            quantization=self.model_config.compute_quantization(config.quantization),
            page_size=config.page_size,
            threads=threads_of(config, device_type),
            cuda_graphs=config.cuda_graphs,
            adapter=merged,
            adapters=tuple(map(locate_adapter, config.adapters.values())),
        )
        self.dtype = setup.dtype
        self._overlaps = overlaps_on(config, device_type)
        self._flight: Flight | None = None
        self.max_model_len = self.model_config.model_len(config.max_model_len)
        size = config.tensor_parallel
        self._executor: Executor = (
            RankGroup(setup, size, on_stuck) if size > 1 else InProcess(setup)
        )
        self._closed = False
        self._constraints = Constraints(
            self.tokenizer, self.model_config.vocab_size, self.model_config.eos_token_ids
        )
        try:
            self._scheduler = self._make_scheduler(setup)
        except BaseException:
            self.close()
            raise
        self._factory = RequestFactory(
            self.model_config,
            self.tokenizer,
            self.max_model_len,
            random.Random(),  # noqa: S311
            self._constraints,
        )

    @property
    def has_work(self) -> bool:
        """Whether any request has not ended: then a step goes on with it."""
        return self._scheduler.has_work or bool(self._compiling)

    @property
    def running(self) -> int:
        """Requests that hold pages."""
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        """Requests that wait for pages, or for a constraint to be compiled."""
        return self._scheduler.waiting + len(self._compiling)

    @property
    def stats(self) -> EngineStats:
        """What was done so far, and what is held now."""
        admitter, pool = self._scheduler.admitter, self._scheduler.cache.pool
        return replace(
            self._counts,
            prefix_queried_tokens=admitter.reusable_tokens,
            prefix_hit_tokens=admitter.reused_tokens,
            running=self.running,
            waiting=self.waiting,
            pages_held=pool.num_pages - pool.num_free,
            pages=pool.num_pages,
        )

    def check(self, tasks: Sequence[Task]) -> None:
        """Raise TaskError if this checkpoint can't do one of the tasks."""
        self._factory.check(tasks)

    def add_request(
        self,
        prompt: Prompt,
        tasks: Sequence[Task],
        *,
        request_id: str | None = None,
        stream: bool = False,
        salt: bytes = b"",
        adapter: str | None = None,
    ) -> str:
        """Queue a request; its output comes with a later step's updates.

        Args:
            prompt: as for `generate`.
            tasks: what to compute, each kind at most once; the prompt is computed once for all.
            request_id: a name of one's own; it must not be in use.
            stream: report every token as it is drawn.
            salt: pages of this prompt are shared with prompts of the same salt alone, so that how
                fast an answer comes tells nobody else what was asked before.
            adapter: the name of the adapter to compute it with; None is the model alone.

        Returns:
            The request's id.

        Raises:
            PromptError: the prompt is empty, too long, malformed, or needs more than the cache.
            TaskError: the checkpoint can't do it.
            ParameterError: the id is in use, the tasks contradict each other, or there is no such
                adapter.
            ConstraintError: its constraint is known not to compile. What is found out later comes
                as the `error` of an update.
        """
        request_id = request_id if request_id is not None else next(self._names)
        if request_id in self._requests:
            raise ParameterError(f"request id {request_id!r} is in use")
        number = self._adapters.number(adapter)
        tokens = self._factory.encode(prompt)
        request = self._factory.make(
            request_id, tokens, tasks, stream=stream, salt=salt, adapter=number
        )
        admission, compiling = self._admission(request), request.compiling
        if compiling is not None:
            self._compiling.add(admission, compiling)
        else:
            for guide in request.guides:
                guide.compiled.result()
            self._scheduler.add(admission)
        self._requests[request_id] = request
        return request_id

    def step(self) -> list[RequestUpdate]:
        """Compute one step and say what was done for whom; empty when there is nothing to do.

        With overlap, what is said is mostly of the step before: while there is work, there may be
        nothing to say yet.

        Raises:
            EngineDeadError: a rank died; this engine is of no more use.
        """
        refused = self._begin_compiled()
        launched = self._launch()
        if launched is None and self._flight is None and not refused and self._compiling:
            self._compiling.wait(COMPILE_WAIT_S)
        due = [flight for flight in (self._flight, launched) if flight is not None]
        self._flight = None
        if launched is not None and self._overlaps and launched.may_wait:
            self._flight = due.pop()
            launched.carry()
        settled = {name: None for flight in due for name in self._settle(flight)}
        return [*refused, *self._updates(settled)]

    def abort(self, request_id: str) -> bool:
        """Forget a request and free what it holds; False if it is not known (any more)."""
        if not self._compiling.drop(request_id):
            self._scheduler.drop(request_id)
        return self._requests.pop(request_id, None) is not None

    def prepare_constraints(self) -> None:
        """Build what all constrained answers need, which takes about a second, and return.

        Otherwise the first such request does it, and others may have to wait as long. For servers;
        nothing is done where no answer can be constrained.
        """
        self._constraints.prepare()

    def memory_report(self, lengths: Sequence[int] = (1024, 4096, 8192)) -> MemoryReport:
        """Say what the engine has allocated.

        Args:
            lengths: for which to say how many sequences of that many tokens fit.
        """
        runner, cache = self._executor.runner, self._scheduler.cache
        chunk = self._scheduler.max_batch_tokens
        return MemoryReport(
            device=runner.device.type,
            ranks=self.config.tensor_parallel,
            weight_bytes=runner.model.weight_bytes,
            free_bytes=self._free_bytes,
            pages=cache.pool.num_pages,
            page_tokens=cache.page_size,
            page_bytes=runner.bytes_per_page,
            sequences={n: cache.pool.num_pages // cache.demand(n, chunk, ()) for n in lengths},
        )

    def forget_prefixes(self) -> None:
        """Forget what was computed for requests that have ended; for measurements."""
        self._scheduler.admitter.prefixes.clear()

    def check_integrity(self) -> None:
        """Assert that scheduler, page tables and pool agree; for tests, after any step."""
        self._scheduler.check_integrity()

    def close(self) -> None:
        """End the other ranks. The engine can't be used afterwards."""
        if not self._closed:
            self._closed = True
            self._flight = None
            self._constraints.close()
            self._executor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _make_scheduler(self, setup: RankSetup) -> Scheduler:
        runner = self._executor.runner
        on_cuda = setup.device_type == "cuda"
        tokens = self.config.max_batch_tokens or (
            CUDA_BATCH_TOKENS if on_cuda else CPU_BATCH_TOKENS
        )
        windows = layer_windows(self.model_config)
        sizing = HybridCache(0, runner.page_size, windows)
        self._free_bytes = free_bytes(runner.device)
        num_pages = count_pages(
            self.config.kv_cache_bytes or kv_share(self._free_bytes, runner.device),
            runner.bytes_per_page,
            most_pages(sizing, self.config.max_sequences, self.max_model_len, tokens),
            sizing.demand(min(tokens, self.max_model_len), tokens, ()),
        )
        self._executor.allocate(num_pages)
        idle = idle_pages(runner.bytes_per_page, runner.device)
        cache = HybridCache(num_pages, runner.page_size, windows, idle)
        # What it is worth was measured on CPUs alone.
        paced = self.config.schedule == "shard" and not on_cuda
        return Scheduler(
            cache,
            tokens,
            self.config.max_sequences,
            self.config.schedule,
            pacer=Pacer() if paced else None,
        )

    def _admission(self, request: Request) -> Admission:
        scheduler = self._scheduler
        cache, branches = scheduler.cache, request.branch_lengths()
        digests: list[bytes] = []
        if self.config.prefix_caching:
            digests = page_digests(request.prompt, cache.page_size, request.prefix_salt)
        admission = Admission(
            request.request_id,
            EngineSequence(
                request.request_id,
                list(request.prompt),
                cache.new_sequence(),
                PromptReader(request.readers),
                is_prompt=True,
                adapter=request.adapter,
            ),
            prompt_tokens=len(request.prompt),
            branches=branches,
            digests=digests,
            reusable=min(len(digests), request.first_row() // cache.page_size),
        )
        pages = cache.demand(admission.prompt_tokens, scheduler.max_batch_tokens, branches)
        if pages > cache.pool.num_pages:
            raise PromptError(
                f"{len(request.prompt)} prompt tokens and what follows need {pages} KV pages, the "
                f"cache holds {cache.pool.num_pages}: raise kv_cache_bytes or ask for fewer tokens"
            )
        if admission.width > scheduler.max_sequences:
            raise PromptError(
                f"the request branches into {admission.width} sequences, the engine runs "
                f"{scheduler.max_sequences}: raise max_sequences or ask for fewer answers or labels"
            )
        return admission

    def _launch(self) -> Flight | None:
        """Have the next step computed, if there is anything to compute."""
        chunks = self._scheduler.schedule()
        if not chunks:
            return None
        flight = Flight(chunks, self._scheduler.cache, self._executor, self._constraints)
        self._counts.steps += 1
        for chunk in chunks:
            if chunk.sequence.is_prompt:
                self._counts.prompt_tokens += chunk.count
            self._scheduler.launched(chunk)
        return flight

    def _settle(self, flight: Flight) -> list[str]:
        """Wait for a step and go on after it; returns the requests that it was computed for."""
        self._counts.output_tokens += flight.settle()
        # Some may have ended while it was on its way.
        chunks = [chunk for chunk in flight.chunks if not chunk.sequence.ended]
        for chunk in chunks:
            self._scheduler.settle(chunk)
        return [chunk.sequence.request_id for chunk in chunks]

    def _begin_compiled(self) -> list[RequestUpdate]:
        """Queue requests whose constraint is compiled; return those whose constraint is refused."""
        refused = []
        for admission, error in self._compiling.ready():
            if error is None:
                self._scheduler.add(admission)
            elif isinstance(error, GemmarayError):
                refused.append(self._failed(admission.request_id, error))
            else:
                raise error
        return refused

    def _failed(self, request_id: str, error: GemmarayError) -> RequestUpdate:
        self._scheduler.drop(request_id)
        del self._requests[request_id]
        self._counts.finished += 1
        return RequestUpdate(request_id, error=error)

    def _updates(self, request_ids: dict[str, None]) -> list[RequestUpdate]:
        updates = []
        for request_id in request_ids:
            request = self._requests[request_id]
            fault = self._constraints.fault(request.guides) if request.guides else None
            if fault is not None:
                updates.append(self._failed(request_id, fault))
                continue
            done = request_id not in self._scheduler.running
            deltas = request.deltas()
            if not done and not deltas:
                continue
            output = request.result() if done else None
            if done:
                del self._requests[request_id]
                self._counts.finished += 1
            updates.append(RequestUpdate(request_id, deltas, output))
        return updates
