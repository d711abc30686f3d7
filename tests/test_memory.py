"""Data sets larger than memory: training reads them from their file, and its own memory does not grow with them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is read from Linux' /proc")

ALLOWED = 50e6  # bytes: two permutations of two million rows are 32 MB


def sparse_cache(path: Path, images: int) -> Path:
    """A prepared data set of 64×64 colour images: the first hundred are noise, the rest is a hole in the file."""
    path.mkdir()
    shape = (images, 3, 64, 64)
    with open(path / "images.npy", "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        file.write(np.random.default_rng(0).integers(0, 256, (100, *shape[1:]), dtype=np.uint8).tobytes())
        file.truncate(file.tell() + (images - 100) * 3 * 64 * 64)
    rows = np.arange(images)
    np.save(path / "train.npy", rows[:-50])
    np.save(path / "test.npy", rows[-50:])
    np.save(path / "sizes.npy", np.full((images, 2), 64, np.int32))
    meta = {
        "shape": list(shape[1:]), "counts": {"total": images, "train": images - 50, "test": 50}, "source": "a hole",
        "content_hash": str(images), "not_images": {"count": 0, "first": []}, "damaged": {"count": 0, "first": []},
    }  # fmt: skip
    (path / "meta.json").write_text(json.dumps(meta))
    return path


TRAINS = """
import ctypes, json, re, sys
from pathlib import Path
import torch
from splitvae import train
from splitvae.data.cache import ImageCache
from splitvae.training import loop

torch.set_num_threads(1)
class Enough(Exception): pass

def anonymous():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def memory_of(path, steps, out):
    taken = []
    real = loop.ImageLoader.batch
    def batch(self, epoch, index, part=slice(None)):
        # The last steps are of the next epoch, which has its own order.
        taken.append(anonymous())
        if len(taken) > steps:
            raise Enough
        return real(self, epoch + (len(taken) > steps - 5), index, part)
    loop.open_data = lambda config: ImageCache.open(Path(path))
    loop.ImageLoader.batch = batch
    try:
        train(data=path, out=out, base_channels=4, embedding_dim=16, num_scales=2, latent_dim=4, batch_size=16,
              precision="fp32", device="cpu", quiet=True, epochs=2)
    except Enough:
        pass
    loop.ImageLoader.batch = real
    ctypes.CDLL(None).malloc_trim(0)
    return taken

small, large, out = sys.argv[1:]
memory_of(small, 40, out + "/warm")
print(json.dumps({"small": memory_of(small, 40, out + "/small"), "large": memory_of(large, 40, out + "/large")}))
"""


@pytest.mark.parametrize("images", [200_000, pytest.param(2_000_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_data_set(images: int, tmp_path: Path):
    small, large = sparse_cache(tmp_path / "a", 1_000), sparse_cache(tmp_path / "b", images)
    if (large / "images.npy").stat().st_blocks * 512 > 100e6:
        pytest.skip("this file system has no sparse files")
    command = [sys.executable, "-c", TRAINS, str(small), str(large), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr
    taken = json.loads(result.stdout.splitlines()[-1])
    assert len(taken["large"]) == 41
    assert max(taken["large"]) - max(taken["small"]) < ALLOWED
    settled = taken["large"][5:]
    assert max(settled) - min(settled) < ALLOWED
    print(f"{images:,} images: {(max(taken['large']) - max(taken['small'])) / 1e6:.0f} MB more than 1,000 images")
