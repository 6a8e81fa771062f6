"""Libraries for arrays and tables, as people use them on S3."""

import pathlib

import pytest

from conftest import TOOLS
from masters import federation

PYTHON = str(TOOLS.parent / "s3fs/bin/python")
WORKLOAD = str(pathlib.Path(__file__).with_name("data_workload.py"))


def run(gateway, workload, directory, key=None, **env):
    key_id, secret = key or gateway.credentials()
    gateway.client(key=(key_id, secret)).create_bucket(Bucket="data-bucket")
    env |= {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret, "AWS_ALLOW_HTTP": "true"}
    assert gateway.run(PYTHON, WORKLOAD, workload, str(directory), **env).stdout.endswith("read what was written\n")


@pytest.mark.parametrize("workload", ["obstore", "zarr", "icechunk", "iceberg"])
def test_a_library_reads_what_it_wrote(own_gateway, tmp_path, workload):
    run(own_gateway, workload, tmp_path)


def test_two_writers_of_a_delta_table_on_two_masters(federation, tmp_path):
    first = federation.gateway("first")
    second = federation.gateway("second")
    run(first, "delta", tmp_path, FULA_SECOND_URL=second.url)
