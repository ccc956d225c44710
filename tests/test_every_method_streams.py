"""Every method does the same with images in a file as with images in memory."""

from dataclasses import replace

import pytest
import torch
from test_every_method_on_every_model import ALONE, quick, splits_of, trained

from lethe.data import ForgetRequest
from lethe.data.image_file import ImageFile
from lethe.unlearn import ForgetData, Oracles, unlearn
from tests import short_log


@pytest.fixture(scope="module")
def in_files(tmp_path_factory):
    """The small colour images of the other test, each part of the split in a file."""
    folder, splits = tmp_path_factory.mktemp("files"), splits_of("colour")

    def part(name):
        images = getattr(splits, name)
        (folder / name).write_bytes(images.images[:].numpy().tobytes())
        return replace(images, images=ImageFile(folder / name, tuple(images.images.shape)))

    return replace(splits, **{name: part(name) for name in ("train", "validation", "test")})


@pytest.mark.parametrize("entry", ALONE, ids=lambda entry: entry.name)
def test_the_same_weights_come_out(entry, in_files):
    request, outputs = ForgetRequest((1,)), []
    ideal = trained("cnn", "colour", request)
    for splits in (splits_of("colour"), in_files):
        oracles = Oracles(lambda seeds: [ideal for _ in seeds], judges=(1,))
        data = ForgetData.of(splits, request, ideal=lambda: ideal, oracles=oracles, updates=short_log.updates)
        assert data.forget.streamed == (splits is in_files)
        torch.manual_seed(0)
        result = unlearn(entry.name, trained("cnn", "colour"), data, **quick(entry))
        with torch.inference_mode():
            outputs.append(result.model(next(data.retain.batches(5))[0]))
    assert torch.equal(*outputs)
