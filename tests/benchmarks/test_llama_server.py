import sys
from pathlib import Path

import pytest

from benchmarks.peers.llama_server import LlamaCpp
from benchmarks.spec import BenchmarkError, Request, Spec

# Answers as llama-server does: health on GET, tokens on POST; here each one more than the last.
FAKE_SERVER = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({{"status": "ok"}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["ignore_eos"] and not asked["cache_prompt"] and asked["temperature"] == 0
        first = asked["prompt"][-1] + 1
        self.answer({{"tokens": list(range(first, first + asked["n_predict"]))}})

    def answer(self, document):
        self.send_response({status})
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert options["-m"] == "model.gguf" and options["-c"] == "320" and options["-t"] == "3", options
ThreadingHTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()
"""


def spec(folder: Path, program: str) -> Spec:
    server = folder / "llama-server"
    server.write_text(program)
    server.chmod(0o755)
    settings = {"server": str(server), "gguf": "model.gguf", "parallel": 4, "context": 80}
    return Spec("llama.cpp", folder, "bfloat16", "cpu", 3, settings=settings)


def test_requests_are_posted_and_answered_in_order(tmp_path: Path) -> None:
    contender = LlamaCpp(spec(tmp_path, FAKE_SERVER.format(python=sys.executable, status=200)))
    try:
        assert contender.run([Request([2, 10], 3), Request([2, 50], 1)]) == [[11, 12, 13], [51]]
        assert (contender.settings, contender.precision) == ("bf16 np4 ub512", "bfloat16")
    finally:
        contender.close()


def test_a_server_that_ends_is_told(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="llama-server ended while it loaded"):
        LlamaCpp(spec(tmp_path, "#!/bin/sh\nexit 3\n"))
