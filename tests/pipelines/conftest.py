import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mutations",
        type=int,
        default=200,
        help="damaged Parquet files to read (pytest tests/pipelines/test_mutations.py)",
    )
