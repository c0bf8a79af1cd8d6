"""Files of data sets: found, checked, downloaded; the embedded digits."""

import hashlib
import http.server
import threading

import numpy as np
import pytest

from apalu_jax.experiments import ExperimentError, data
from apalu_jax.experiments.data import digits, downloads
from apalu_jax.experiments.data.downloads import File, Source

CONTENT = b"0,1,2\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = File(path="toy/table.csv", sha256=SHA256)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """The three places where files are looked for, all empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("APALU_DATA_DIR", str(tmp_path / "environment"))
    return {
        "given": tmp_path / "given",
        "environment": tmp_path / "environment",
        "cache": tmp_path / "cache" / "apalu_jax" / "data",
    }


def put(folder, content=CONTENT):
    path = folder / "toy" / "table.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_folders_are_searched_in_order(folders):
    with pytest.raises(ExperimentError, match="toy/table.csv is in none of .*given"):
        downloads.find(FILE, folders["given"])
    for place in ("cache", "environment", "given"):
        path = put(folders[place])
        assert downloads.find(FILE, folders["given"]) == path
        assert downloads.fetch(FILE, folders["given"]) == path


def test_damaged_file_is_named_and_never_passed_over(folders):
    put(folders["cache"])
    damaged = put(folders["given"], CONTENT + b"3")
    for look in (downloads.find, downloads.fetch):
        with pytest.raises(ExperimentError, match=f"{damaged}: damaged .*{SHA256}"):
            look(FILE, folders["given"])
    assert damaged.read_bytes() == CONTENT + b"3"


@pytest.fixture
def server():
    """Serves `answers` by path on this machine."""
    answers = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content, length = answers.get(self.path, (None, 0))
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        host, port = running.server_address
        yield answers, f"http://{host}:{port}"
        running.shutdown()


def test_download_into_the_cache(folders, server):
    answers, address = server
    answers["/official.csv"] = CONTENT, len(CONTENT)
    file = File(path="toy/table.csv", sha256=SHA256, url=f"{address}/official.csv")
    path = downloads.fetch(file, folders["given"])
    assert path == folders["cache"] / "toy" / "table.csv"
    assert path.read_bytes() == CONTENT
    answers.clear()
    assert downloads.fetch(file) == path


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((b"other", 5), "cannot be downloaded: SHA256 hash"),
        ((CONTENT[:2], len(CONTENT)), "cannot be downloaded"),
        ((None, 0), "cannot be downloaded: 404"),
    ],
)
def test_failed_download_leaves_nothing(folders, server, answer, message):
    answers, address = server
    answers["/official.csv"] = answer
    file = File(path="toy/table.csv", sha256=SHA256, url=f"{address}/official.csv")
    with pytest.raises(ExperimentError, match=message):
        downloads.fetch(file)
    assert list((folders["cache"] / "toy").iterdir()) == []


def test_unreachable_source_is_named(folders):
    file = File(path="toy/table.csv", sha256=SHA256, url="http://127.0.0.1:9/x")
    with pytest.raises(ExperimentError, match="127.0.0.1:9/x cannot be downloaded"):
        downloads.fetch(file)


def test_file_without_official_source_is_explained():
    with pytest.raises(ExperimentError, match="no official download; put it into"):
        downloads.fetch(FILE)


def test_data_set_with_files(folders, monkeypatch):
    class Toy:
        SOURCE = Source(title="toy", origin="here", license="CC0", files=(FILE,))

    monkeypatch.setitem(data._MODULES, "toy", Toy)
    with pytest.raises(ExperimentError, match="is in none of"):
        data.verify("toy")
    path = put(folders["given"])
    assert data.verify("toy", folders["given"]) == [path]
    assert data.download("toy", folders["given"]) == [path]


def test_digits_need_nothing_and_are_checked(monkeypatch):
    assert data.verify("digits") == []
    assert data.download("digits") == []
    monkeypatch.setattr(digits, "_SHA256", "0" * 64)
    with pytest.raises(ExperimentError, match="digits have SHA-256 87ff0c9e"):
        data.verify("digits")


def test_digits_folds_are_stratified_splits_by_seed():
    dataset = data.load({"name": "digits"})
    fold = dataset.splits(3)
    everything = np.concatenate([part["inputs"] for part in fold])
    reference = dataset.splits(4)
    assert [len(part["targets"]) for part in fold] == [1257, 270, 270]
    assert fold.train["inputs"].dtype == np.float32
    assert (everything.min(), everything.max()) == (0, 1)
    # The three parts are the whole set, each example once.
    other = np.concatenate([part["inputs"] for part in reference])
    assert np.array_equal(
        np.unique(everything, axis=0, return_counts=True)[1],
        np.unique(other, axis=0, return_counts=True)[1],
    )
    counts = np.bincount(np.concatenate([part["targets"] for part in fold]))
    for part in fold:
        share = len(part["targets"]) / counts.sum()
        assert abs(np.bincount(part["targets"]) - share * counts).max() <= 1
    assert not np.array_equal(fold.test["targets"], reference.test["targets"])
    again = data.load({"name": "digits"}).splits(3)
    for part, same in zip(fold, again, strict=True):
        assert np.array_equal(part["inputs"], same["inputs"])


def test_unknown_data_set_is_refused():
    with pytest.raises(ExperimentError, match="`data` must be one of .*digits"):
        data.load({"name": "no-such"})
