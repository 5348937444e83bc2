"""Tables from results: every engine beside one of them, as ratios from one run, with spread.

    python benchmarks/tables.py benchmarks/results/FILE.jsonl
    python benchmarks/tables.py benchmarks/results/FILE.jsonl --write docs/performance.md

Reads the lines of offline.py and whole_job.py; of the same engine on the same workload the last
one counts. A ratio is of two engines' runs in the same turn: given is the median turn's, and the
least and the greatest in brackets. `--write` puts the tables between two marks of a document:

    <!-- bench:table -->
    <!-- bench:end -->
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- bench:table -->", "<!-- bench:end -->"
Line = dict[str, Any]


def ratio(baseline_s: Sequence[float], own_s: Sequence[float]) -> str:
    """Say how many times as fast as the baseline an engine is, by seconds of the same turns."""
    turns = [base / own for base, own in zip(baseline_s, own_s, strict=False)]
    spread = f" ({min(turns):.2f} to {max(turns):.2f})" if len(turns) > 1 else ""
    return f"{statistics.median(turns):.2f}{spread}"


def latest(lines: Sequence[Line]) -> list[Line]:
    """Return the last line of each engine, variant and workload, in the order of the first."""
    names = ("benchmark", "job", "shape", "workload", "engine", "variant")
    found: dict[tuple[Any, ...], Line] = {}
    for line in lines:
        found[tuple(line.get(name) for name in names)] = line
    return list(found.values())


def throughput(lines: Sequence[Line], baseline: str) -> Iterator[str]:
    """Yield a table for each shape."""
    shown = [line for line in lines if line["benchmark"] == "offline"]
    for shape in dict.fromkeys(line["shape"] for line in shown):
        rates = ("total tok/s", f"{baseline} = 1", "GFLOP/s", "of the ceiling", "GiB", "ready, s")
        rows = [
            [
                line["workload"],
                _engine(line),
                f"{line['total_tokens_per_s']:.0f}",
                _ratio_to(baseline, line, shown, "walls_s"),
                f"{line['gemm_gflops']:.0f}",
                "" if line["ceiling_pct"] is None else f"{line['ceiling_pct']:.0f} %",
                f"{line['peak_rss_gib']:.2f}",
                f"{line['start_s']:.1f}",
            ]
            for line in shown
            if line["shape"] == shape
        ]
        yield f"`{shape}`:\n\n" + markdown(["workload", "engine"], list(rates), _grouped(rows))


def whole_jobs(lines: Sequence[Line], baseline: str) -> Iterator[str]:
    """Yield the table of whole jobs, and a sentence for the first token."""
    shown = [line for line in lines if line["benchmark"] == "whole_job"]
    jobs = [line for line in shown if line["job"] != "first token"]
    rows = [
        [
            _engine(line) + (", `gemmaray run`" if line["job"] == "gemmaray run" else ""),
            f"{statistics.median(line['last_row_s']):.1f}",
            _ratio_to(baseline, line, jobs, "last_row_s"),
            _median_of_known(line["ready_s"]),
            f"{line['peak_rss_gib']:.2f}",
        ]
        for line in jobs
    ]
    if rows:
        yield f"A whole job on `{jobs[0]['shape']}`, {jobs[0]['workload']}:\n\n" + markdown(
            ["engine"], ["last row, s", f"{baseline} = 1", "engine ready, s", "GiB"], rows
        )
    for line in shown:
        if line["job"] == "first token":
            yield (
                f"The demo model's first token, from a cold process: "
                f"{statistics.median(line['last_row_s']):.1f} s ({_engine(line)})."
            )


def heading(lines: Sequence[Line]) -> str:
    """Say what was measured when, on what, and what its matmuls reach."""
    line = lines[-1]
    machine = line["machine"]
    ceilings = {
        measured["precision"]: measured["ceiling_gflops"]
        for measured in lines
        if measured.get("ceiling_gflops")
    }
    reach = ", ".join(f"{name} {rate:.0f}" for name, rate in sorted(ceilings.items()))
    text = (
        f"{line['run'][:10]}, {machine['cpu']} ({machine['cpu_capability']}), "
        f"{line['threads']} threads on {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"torch {machine['torch']}, {_turns(lines)} turns."
    )
    return text + (f" Matmul ceilings in the same run, GFLOP/s: {reach}." if reach else "")


def markdown(left: list[str], right: list[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table; columns of `right` are aligned to the right."""
    head = [*left, *right]
    rule = ["---"] * len(left) + ["--:"] * len(right)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def tables(lines: Sequence[Line], baseline: str) -> str:
    """Lay out everything."""
    known = [line for line in lines if line.get("benchmark") in {"offline", "whole_job"}]
    if not known:
        sys.exit("tables.py: these files hold no lines of offline.py or whole_job.py")
    last = latest(known)
    parts = [heading(known), *throughput(last, baseline), *whole_jobs(last, baseline)]
    return "\n\n".join(parts)


def write(document: Path, text: str) -> None:
    """Replace what is between the marks of a document."""
    before, begin, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"tables.py: {document} has no {BEGIN} and {END} to write between")
    document.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def _engine(line: Line) -> str:
    return " ".join(filter(None, (line["engine"], line["version"], line["variant"])))


def _ratio_to(baseline: str, line: Line, lines: Sequence[Line], seconds: str) -> str:
    """Hold a line against the baseline's on the same shape and workload."""
    for other in lines:
        same = all(other[name] == line[name] for name in ("shape", "workload"))
        if same and baseline == f"{other['engine']} {other['variant']}".rstrip():
            return ratio(other[seconds], line[seconds])
    return ""


def _grouped(rows: list[list[str]]) -> list[list[str]]:
    """Name a workload in its first row only."""
    above = ["", *(row[0] for row in rows)]
    return [["" if row[0] == name else row[0], *row[1:]] for name, row in zip(above, rows)]  # noqa: B905


def _median_of_known(seconds: Sequence[float | None]) -> str:
    known = [value for value in seconds if value is not None]
    return f"{statistics.median(known):.1f}" if known else ""


def _turns(lines: Sequence[Line]) -> str:
    counts = sorted({len(line.get("walls_s") or line["last_row_s"]) for line in lines})
    return " or ".join(map(str, counts))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables, or write them into a document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", nargs="+", type=Path, help="files of JSON lines")
    parser.add_argument("--baseline", default="vllm", help="the engine that is 1")
    parser.add_argument("--write", type=Path, help="the document that the tables belong in")
    args = parser.parse_args(argv)
    lines = [
        json.loads(line)
        for path in args.results
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    text = tables(lines, args.baseline)
    if args.write:
        write(args.write, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
