"""An S3 server that honours `If-None-Match: *`: moto's, as a process of its own.

    python -m tests.faults.s3_server

It prints its address, and ends when its standard input does.
"""

import logging
import os
import sys


def main() -> None:
    os.environ["S3_UPLOAD_PART_MIN_SIZE"] = "1"  # so that small parts make multipart uploads
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - it reads the environment

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
