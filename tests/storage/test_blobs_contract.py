"""One suite for all stores of blobs: a folder, the database, and S3."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.support.gevent_process import GeventProcess
from tests.support.moto import REGION, Moto
from tests.support.servers import free_port
from webapp import setting_parsers
from webapp.errors import StoreUnavailable
from webapp.storage.blobs import BlobMissing, BlobStore, make_blob_store
from webapp.storage.blobs.object_store import PART, ObjectBlobStore
from webapp.storage.database import Database

BUCKET = "weir-files"
CHUNK = 256 * 1024
# Sizes around the rows of the table, and around nothing.
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK]


@pytest.fixture(scope="module")
def aws() -> Iterator[Moto]:
    with Moto() as server:
        location = {"LocationConstraint": REGION}
        server.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=location)
        yield server


@pytest.fixture(params=["folder", "sqlite", "postgresql", "s3"])
def blobs(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BlobStore]:
    if request.param == "s3":
        for name, value in request.getfixturevalue("aws").environment.items():
            monkeypatch.setenv(name, value)
        # A prefix for each test, as a database is.
        yield ObjectBlobStore(f"s3://{BUCKET}/{tmp_path.name}")
        return
    if request.param == "postgresql":
        url = request.getfixturevalue("fresh_database")
        database = Database(url.replace("postgresql://", "postgresql+psycopg://"))
        files_url = ""
    else:
        file = shutil.copy(request.getfixturevalue("migrated_file"), tmp_path)
        database = Database(f"sqlite:///{file}")
        files_url = "" if request.param == "folder" else "database://"
    yield make_blob_store(files_url, tmp_path, database)
    database.engine.dispose()


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def all_of(blobs: BlobStore, name: str, *part: Any) -> bytes:
    return b"".join(blobs.read(name, *part))


@pytest.mark.parametrize("size", SIZES)
def test_a_blob_comes_back_as_it_was(blobs: BlobStore, size: int) -> None:
    whole = content(size)
    pieces = [whole[at : at + 100_000] for at in range(0, size, 100_000)]
    assert blobs.write("file-a", iter(pieces)) == size
    assert all_of(blobs, "file-a") == whole


def test_a_part_is_read_from_anywhere(blobs: BlobStore) -> None:
    whole = content(3 * CHUNK + 7)
    blobs.write("file-a", [whole])
    for start, length in [
        (0, 0), (0, 1), (5, 10), (CHUNK - 1, 2), (CHUNK, CHUNK), (CHUNK + 3, None),
        (len(whole) - 1, 5), (len(whole), None), (len(whole) + 9, 3), (0, len(whole) + 9),
    ]:  # fmt: skip
        end = None if length is None else start + length
        assert all_of(blobs, "file-a", start, length) == whole[start:end], (start, length)


def test_a_blob_is_read_in_small_chunks(blobs: BlobStore) -> None:
    blobs.write("file-a", [content(2 * CHUNK), content(3 * CHUNK)])
    assert max(map(len, blobs.read("file-a"))) <= 1024 * 1024


def test_what_is_not_there_is_missing(blobs: BlobStore) -> None:
    with pytest.raises(BlobMissing):
        all_of(blobs, "file-a")
    blobs.delete("file-a")


def test_a_deleted_blob_is_missing_and_another_one_stays(blobs: BlobStore) -> None:
    blobs.write("file-a", [content(70 * CHUNK)])
    blobs.write("file-b", [b"b"])
    blobs.delete("file-a")
    with pytest.raises(BlobMissing):
        all_of(blobs, "file-a")
    assert all_of(blobs, "file-b") == b"b"
    blobs.write("file-a", [b"again"])
    assert all_of(blobs, "file-a") == b"again"


class CutError(Exception):
    """What the source of a blob raises."""


def cut(size: int) -> Iterator[bytes]:
    yield content(size)
    raise CutError


@pytest.mark.parametrize("size", [1, 3 * CHUNK])
def test_what_was_cut_is_removed_and_can_be_written_anew(blobs: BlobStore, size: int) -> None:
    with pytest.raises(CutError):
        blobs.write("file-a", cut(size))
    blobs.delete("file-a")
    with pytest.raises(BlobMissing):
        all_of(blobs, "file-a")
    blobs.write("file-a", [b"again"])
    assert all_of(blobs, "file-a") == b"again"


def test_s3_gets_large_blobs_in_parts_and_keeps_none_of_a_cut_one(
    aws: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws.environment.items():
        monkeypatch.setenv(name, value)
    blobs, client = ObjectBlobStore(f"s3://{BUCKET}/parts"), aws.client("s3")
    whole = content(2 * PART + 5)
    blobs.write("file-a", [whole])
    assert all_of(blobs, "file-a") == whole
    assert client.head_object(Bucket=BUCKET, Key="parts/file-a")["ETag"].endswith('-3"')
    with pytest.raises(CutError):
        blobs.write("file-b", cut(2 * PART))
    blobs.delete("file-b")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET)
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix="parts/")["Contents"]
    assert [one["Key"] for one in listed] == ["parts/file-a"]


@pytest.mark.parametrize("bucket", ["not-there", BUCKET])
def test_a_store_that_is_away_or_has_no_such_bucket_is_told(
    bucket: str, aws: Moto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in aws.environment.items():
        monkeypatch.setenv(name, value)
    if bucket == BUCKET:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailable, match="storage of files"):
        ObjectBlobStore(f"s3://{bucket}/x").write("file-a", [b"x"])
    assert f"s3://{bucket}/x, cannot be used" in caplog.text


def test_stores_work_in_a_worker_where_their_calls_run_in_threads(
    aws: Moto, tmp_path: Path, migrated_file: Path
) -> None:
    file = shutil.copy(migrated_file, tmp_path)
    with GeventProcess() as worker:
        for files_url in (f"file://{tmp_path}/files", "database://", f"s3://{BUCKET}/worker"):
            assert worker.run(write_and_read, files_url, f"sqlite:///{file}", aws.environment)


def write_and_read(files_url: str, database_url: str, environment: dict[str, str]) -> bool:
    os.environ.update(environment)
    blobs = make_blob_store(files_url, Path(), Database(database_url))
    whole = content(5 * CHUNK + 5)
    jobs = [gevent.spawn(blobs.write, f"file-{n}", [whole]) for n in range(3)]
    gevent.joinall(jobs, raise_error=True)
    return all(all_of(blobs, f"file-{n}") == whole for n in range(3))


@pytest.mark.parametrize(
    "files_url",
    [
        "file://", "file:///", "file://relative/folder", "database://other", "s3://", "gs:///prefix",
        "az://", "ftp://folder", "folder",
    ],
)  # fmt: skip
def test_a_place_that_is_none_is_refused_at_the_start(files_url: str) -> None:
    with pytest.raises(ValueError, match="must"):
        setting_parsers.files_url(files_url)


@pytest.mark.parametrize(
    "files_url", ["", "file:///folder", "database://", "s3://bucket", "gs://bucket/a/prefix"]
)
def test_a_place_is_taken_as_it_is(files_url: str) -> None:
    assert setting_parsers.files_url(files_url) == files_url
