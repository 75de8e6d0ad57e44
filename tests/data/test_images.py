"""Image sources: their contents, and what is refused. Archives are tiny fakes; the network is a local server."""

import hashlib
import io
import resource
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_density.data.archives import UnavailableError, obtain, tar_members
from diffusion_density.data.catalogue import Archive
from diffusion_density.data.images import cifar10, imagenet32, load
from diffusion_density.machine.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 2, 3, 32, 32), dtype=np.uint8)


def described(path: Path, url: str | None = None) -> Archive:
    content = path.read_bytes()
    return Archive(path.name, hashlib.sha256(content).hexdigest(), len(content), url)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def fake_cifar10(path: Path) -> Archive:
    """Two images a batch, labels 7, members in an order that is not the official one."""
    with tarfile.open(path, "w:gz") as archive:
        for i in (5, 3, 0, 1, 2, 4):
            name = "test_batch" if i == 5 else f"data_batch_{i + 1}"
            records = np.concatenate([np.full((2, 1), 7, np.uint8), PIXELS[i].reshape(2, -1)], 1)
            add(archive, f"cifar-10-batches-bin/{name}.bin", records.tobytes())
    return described(path)


# Embedded sets


def test_digits_are_the_published_images_split_once() -> None:
    from sklearn.datasets import load_digits

    digits = load("digits", Path("unused"))
    assert (digits.shape, digits.levels) == ((1, 8, 8), 17)
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    ours = torch.cat([digits.test, digits.train]).flatten(1)
    published = torch.from_numpy(load_digits().images.astype(np.uint8)).flatten(1)
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, published.tolist()))
    assert digits.sha256 == load("digits", Path("unused")).sha256
    # every class is in both parts: the file's own order cycles through the classes, a stride would not do
    assert digits.sha256["pixels"].startswith("22ccb51d")


def test_photos_are_crops_of_disjoint_photographs() -> None:
    photos = load("photos32", Path("unused"))
    assert (photos.shape, photos.levels) == ((3, 32, 32), 256)
    assert len(photos.train) > 10_000
    assert len(photos.test) == 88  # 7 × 4 of chelsea, 10 × 6 of flower
    assert torch.equal(photos.train[0, :, :, 4:], photos.train[1, :, :, :-4])  # neighbours, four pixels apart
    train = {image.numpy().tobytes() for image in photos.train}
    assert not any(image.numpy().tobytes() in train for image in photos.test)
    assert photos.train.float().std() > 30


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="digits, photos32, cifar10"):
        load("mnist", tmp_path)


# npz files


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, allow_pickle=True, **arrays)
    return path


def test_npz_round_trip(tmp_path: Path) -> None:
    train, test = PIXELS[:3].reshape(-1, 32, 32, 3), PIXELS[3].reshape(-1, 32, 32, 3)
    path = save(tmp_path / "mine.npz", train=train, test=test, train_labels=np.zeros(6))
    images = load(f"npz:{path}", tmp_path)
    assert (images.name, images.levels, images.shape) == ("mine", 256, (3, 32, 32))
    assert np.array_equal(images.train.numpy(), train.transpose(0, 3, 1, 2))
    assert np.array_equal(images.test.numpy(), test.transpose(0, 3, 1, 2))
    assert images.sha256 == {"mine.npz": hashlib.sha256(path.read_bytes()).hexdigest()}


GOOD = np.zeros((2, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"train": GOOD}, "lacks the key test; it has train"),
        ({"train": GOOD.astype(np.float32), "test": GOOD}, "train is float32"),
        ({"train": GOOD, "test": GOOD[0]}, "test is uint8 \\(8, 8, 1\\)"),
        ({"train": GOOD[:, :4], "test": GOOD[:, :4]}, "square"),
        ({"train": GOOD.repeat(2, 3), "test": GOOD.repeat(2, 3)}, "1 or 3 channels"),
        ({"train": GOOD, "test": GOOD.repeat(3, 3)}, "differ in image shape"),
        ({"train": GOOD[:0], "test": GOOD}, "no images"),
        ({"train": GOOD + 17, "test": GOOD, "levels": np.array(17)}, "beyond the 17 levels"),
        ({"train": GOOD, "test": GOOD, "levels": np.array(999)}, "levels must be one integer"),
        ({"train": np.array([{}], dtype=object), "test": GOOD}, "allow_pickle"),
    ],
)
def test_npz_with_the_wrong_content_is_refused(arrays: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    path = save(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(InputError, match=said) as caught:
        load(f"npz:{path}", tmp_path)
    assert "\n" not in str(caught.value)


def test_npz_that_is_no_whole_npz_is_refused(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.npz", train=GOOD, test=GOOD).read_bytes()
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, GOOD)
    corrupt = bytearray(whole)
    corrupt[whole.index(b"NUMPY") + 200] ^= 1  # a pixel: the member's CRC notices
    contents = {
        "truncated.npz": whole[:-40],
        "empty.npz": b"",
        "pickle.npz": b"\x80\x04N.",
        "corrupt.npz": bytes(corrupt),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in (*contents, "single.npz", "absent.npz"):
        with pytest.raises(InputError, match=name) as caught:
            load(f"npz:{tmp_path / name}", tmp_path)
        assert "\n" not in str(caught.value)


# Official archives


def test_cifar10_is_read_in_the_official_order(tmp_path: Path) -> None:
    images = cifar10(tmp_path, fake_cifar10(tmp_path / "cifar.tar.gz"), per_batch=2)
    assert np.array_equal(images.train.numpy(), PIXELS[:5].reshape(10, 3, 32, 32))
    assert np.array_equal(images.test.numpy(), PIXELS[5])


def test_tampered_truncated_and_wrong_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cifar.tar.gz"
    archive = fake_cifar10(path)
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match="truncated"):
        cifar10(tmp_path, archive, per_batch=2)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="tampered"):
        cifar10(tmp_path, archive, per_batch=2)
    path.write_bytes(content[: len(content) // 2])  # under a checksum that agrees: still one line, from the reader
    with pytest.raises(InputError, match="cannot be read"):
        cifar10(tmp_path, described(path), per_batch=2)
    with tarfile.open(path, "w:gz") as other:
        add(other, "notes.txt", b"hello")
    with pytest.raises(InputError, match="lacks cifar-10-batches-bin/data_batch_1"):
        cifar10(tmp_path, described(path), per_batch=2)
    fake_cifar10(path)
    with pytest.raises(InputError, match="6,146 bytes, not 9,219"):
        cifar10(tmp_path, described(path), per_batch=3)


def test_members_that_are_links_or_leave_the_folder_do_no_harm(tmp_path: Path) -> None:
    inner = tmp_path / "in" / "bad.tar"
    inner.parent.mkdir()
    with tarfile.open(inner, "w") as archive:
        add(archive, "../outside.bin", b"xx")
        link = tarfile.TarInfo("link.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert tar_members(inner, ["../outside.bin"], size=2) == {"../outside.bin": b"xx"}
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["bad.tar", "in"]
    with pytest.raises(InputError, match=r"link.bin is not a regular file"):
        tar_members(inner, ["link.bin"], size=0)


def fake_imagenet(folder: Path, variant: str, images: np.ndarray, stem: str) -> Archive:
    path = folder / f"{stem}.{'zip' if variant == 'new' else 'tar'}"
    if variant == "new":
        with zipfile.ZipFile(path, "w") as archive:
            for i in (10, 2, 1):  # numbered, not alphabetical
                part = io.BytesIO()
                np.savez(part, data=images[[1, 2, 10].index(i) :: 3].reshape(-1, 3072), labels=np.ones(1))
                archive.writestr(f"folder/{stem}_batch_{i}.npz", part.getvalue())
    else:
        with tarfile.open(path, "w") as archive:
            for i, image in enumerate(images):
                png = io.BytesIO()
                Image.fromarray(image.transpose(1, 2, 0)).save(png, "png")
                add(archive, f"{stem}/{i}.png", png.getvalue())
    return described(path)


@pytest.mark.parametrize("variant", ["new", "old"])
def test_imagenet32_becomes_a_memory_mapped_file(variant: str, tmp_path: Path) -> None:
    images = PIXELS[:3].reshape(6, 3, 32, 32)
    archives = tuple(fake_imagenet(tmp_path, variant, images, stem) for stem in ("train", "val"))
    loaded = imagenet32(tmp_path, variant, archives)
    expected = np.concatenate([images[i::3] for i in range(3)]) if variant == "new" else images
    assert loaded.variant == variant
    assert np.array_equal(loaded.train.numpy(), expected)
    for archive in archives:  # the unpacked copies serve alone
        (tmp_path / archive.file).unlink()
    again = imagenet32(tmp_path, variant, archives)
    assert torch.equal(again.train, loaded.train)
    assert {path.suffix for path in tmp_path.iterdir()} == {".uint8"}


def test_imagenet32_that_finds_no_room_says_so_and_leaves_nothing_behind(tmp_path: Path) -> None:
    archive = fake_imagenet(tmp_path, "old", PIXELS[:3].reshape(6, 3, 32, 32), "train")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"uint8: cannot be written \(File too large\)"):
            imagenet32(tmp_path, "old", (archive, archive))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == [archive.file]


def test_imagenet32_says_where_to_get_what(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"Imagenet32_train_npz.zip \(3,580,435,279 bytes.*login"):
        load("imagenet32", tmp_path)
    with pytest.raises(UnavailableError, match=r"train_32x32.tar \(sha256 244a323d"):
        load("imagenet32-old", tmp_path)


@pytest.mark.parametrize("data", [np.zeros((2, 3071), np.uint8), np.zeros((2, 3072), np.int64)])
def test_imagenet32_with_the_wrong_content_leaves_nothing_behind(data: np.ndarray, tmp_path: Path) -> None:
    part = io.BytesIO()
    np.savez(part, data=data)
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        archive.writestr("train_1.npz", part.getvalue())
    archives = (described(tmp_path / "train.zip"),) * 2
    with pytest.raises(InputError, match="not uint8"):
        imagenet32(tmp_path, "new", archives)
    assert [p.name for p in tmp_path.iterdir()] == ["train.zip"]


# Downloads


class Server(ThreadingHTTPServer):
    """Serves `content`, keeps the Range headers it saw, and fails as a test asks for."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges = content, []
        self.cut_at, self.knows_ranges, self.status = None, True, 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.ranges.append(self.headers["Range"])
        if server.status != 200:
            return self.send_error(server.status)
        start = 0
        if self.headers["Range"] and server.knows_ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        self.wfile.write(server.content[start : server.cut_at])
        server.cut_at = None
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(bytes(range(256)) * 40) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def published(server: Server) -> Archive:
    return Archive("file.bin", hashlib.sha256(server.content).hexdigest(), len(server.content), server.url)


def test_a_broken_download_resumes_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cut_at = 1000
    path = obtain(published(server), tmp_path, progress=False)
    assert path.read_bytes() == server.content
    assert server.ranges == [None, "bytes=1000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]
    obtain(published(server), tmp_path)  # present: verified, not fetched
    assert len(server.ranges) == 2


def test_a_part_of_an_earlier_run_is_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(server.content[:5000])
    assert obtain(published(server), tmp_path, progress=False).read_bytes() == server.content
    assert server.ranges == ["bytes=5000-"]


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    (tmp_path / "file.bin.part").write_bytes(b"stale" * 100)
    assert obtain(published(server), tmp_path, progress=False).read_bytes() == server.content


@pytest.mark.parametrize("content", [b"longer" * 9999, bytes(256 * 40)])
def test_a_download_of_other_bytes_is_refused_and_removed(content: bytes, server: Server, tmp_path: Path) -> None:
    archive = published(server)
    server.content = content
    with pytest.raises(InputError, match="the published file"):
        obtain(archive, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_refusal_is_not_asked_again(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(UnavailableError, match=r"404.*put it into"):
        obtain(published(server), tmp_path, progress=False)
    assert len(server.ranges) == 1


def test_a_silent_server_is_given_up_after_the_time_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        archive = Archive("file.bin", "0" * 64, 10, f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(UnavailableError, match="timed out"):
            obtain(archive, tmp_path, timeout=0.1, attempts=2, progress=False)


def test_nothing_is_fetched_when_downloads_are_off(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="10,240 bytes"):
        obtain(published(server), tmp_path / "new", download=False)
    assert server.ranges == []
    with pytest.raises(UnavailableError, match=r"cifar-10-binary\.tar\.gz.*170,052,171 bytes.*cs\.toronto\.edu"):
        load("cifar10", tmp_path, download=False)
