from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from cluster.submission.jobs import Jobs

URL = "http://127.0.0.1:28265"
JOB = """
input: s3://bucket/in.parquet
output: s3://bucket/{output}
model: google/gemma-2-2b
prompt_column: body
tasks: [{{generate: {{max_tokens: {tokens}}}}}]
"""


@dataclass
class FakeClient:
    """Ray's client, as far as we use it, over a dictionary."""

    jobs: dict[str, JobDetails] = field(default_factory=dict)
    packages: dict[str, list[str]] = field(default_factory=dict)
    logs: dict[str, list[str | Exception]] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    clock: int = 0

    def submit_job(
        self,
        *,
        entrypoint: str,
        submission_id: str,
        runtime_env: dict[str, Any],
        metadata: dict[str, str],
    ) -> str:
        if submission_id in self.jobs:
            text = f"Traceback\nValueError: Job with submission_id {submission_id} already exists."
            raise RuntimeError(f"Request failed with status code 500: {text}")
        self.clock += 1000
        folder = Path(runtime_env["working_dir"])
        self.packages[submission_id] = [
            *(path.name for path in folder.iterdir()),
            *(Path(path).name for path in runtime_env.get("py_modules", [])),
        ]
        self.jobs[submission_id] = JobDetails(
            type=JobType.SUBMISSION,
            submission_id=submission_id,
            status=JobStatus.RUNNING,
            entrypoint=entrypoint,
            start_time=self.clock,
            metadata=metadata,
            runtime_env=runtime_env,
        )
        return submission_id

    def list_jobs(self) -> list[JobDetails]:
        return list(self.jobs.values())

    def get_job_info(self, job: str) -> JobDetails:
        if job not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job} does not exist.")
        return self.jobs[job]

    def stop_job(self, job: str) -> bool:
        self.stopped.append(job)
        self.end(job, "STOPPED")
        return True

    def get_job_logs(self, job: str) -> str:
        self.get_job_info(job)
        return "".join(text for text in self.logs.get(job, []) if isinstance(text, str))

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        """Give the log from its start, up to the next time that it breaks off."""
        log = self.logs.get(job, [])
        for index, text in enumerate(log):
            if isinstance(text, Exception):
                del log[index]
                raise text
            yield text
        if not self.jobs[job].status.is_terminal():
            self.end(job, "SUCCEEDED")

    def end(self, job: str, status: str, **more: Any) -> None:
        update = {"status": JobStatus(status), "end_time": self.clock + 500, **more}
        self.jobs[job] = self.jobs[job].model_copy(update=update)


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def jobs(client: FakeClient) -> Jobs:
    return Jobs(URL, client)  # type: ignore[arg-type]


@pytest.fixture
def reached(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Have commands reach the fake cluster; gives the addresses that they named."""
    named: list[str | None] = []

    def at(address: str | None) -> Jobs:
        named.append(address)
        return jobs

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setattr(Jobs, "at", at)
    return named


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "my tickets.yaml"
    path.write_text(JOB.format(output="out", tokens=8))
    return path
