"""Images that sets share, and images in a file: the same numbers as from a tensor of one's own, without its
memory.
"""

import copy
import pickle
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import class_folders, plain, write

import lethe.data.decoded as decoding
from lethe.data import ForgetRequest, ImageSet, Normalisation, RawDataset, load_splits, memory, split
from lethe.data.chosen_images import Chosen, choose
from lethe.data.image_file import ImageFile
from lethe.data.memory import memory_budget
from lethe.training import Recipe, fit, generator_for

ROOT = Path(__file__).parent.parent
FEW = settings(max_examples=40)
HALF = Normalisation((0.5,) * 3, (0.5,) * 3)


def images_of(count=60, shape=(3, 8, 8)):
    return torch.randint(
        0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def in_file(images, folder):
    (folder / "images.u8").write_bytes(images.numpy().tobytes())
    return ImageFile(folder / "images.u8", tuple(images.shape))


def set_of(images, classes=3):
    count = len(images)
    return ImageSet(images, torch.arange(count) % classes, torch.arange(count), HALF)


# Shared


def test_the_parts_of_a_dataset_and_of_a_request_hold_the_same_images():
    images = images_of()
    parts = split(RawDataset((images, torch.arange(60) % 3), None, ("a", "b", "c")), "made", 0)
    division = ForgetRequest((1,)).divide(parts.train, 3, 0)
    forget, retain = division.forget, division.retain
    again = forget.joined(retain)
    for part in (
        parts.train,
        parts.validation,
        parts.test,
        forget,
        retain,
        again,
        parts.without_validation().train,
    ):
        assert part.images.base is images
        assert torch.equal(part.images[:], images[part.indexes])


@FEW
@given(st.data())
def test_chosen_rows_are_those_of_a_copy(data):
    images = images_of(20)
    rows = torch.tensor(data.draw(st.lists(st.integers(0, 19), min_size=1, max_size=30)))
    chosen, own = choose(images, rows), images[rows]
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    few = torch.tensor(data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9)), dtype=torch.int64)
    assert chosen.shape == own.shape and len(chosen) == len(own)
    for wanted in (mask, few, slice(1, None, 2), slice(None)):
        assert torch.equal(chosen[wanted], own[wanted])
    assert torch.equal(choose(chosen, few)[:], own[few]) and torch.equal(choose(chosen, mask)[:], own[mask])


def test_what_else_a_tensor_does_chosen_images_do():
    chosen = choose(images_of(), torch.tensor([3, 1]))
    assert torch.equal(chosen.flatten(1), images_of()[[3, 1]].flatten(1))
    assert torch.equal(torch.cat([chosen, chosen]), images_of()[[3, 1, 3, 1]])
    assert torch.equal(pickle.loads(pickle.dumps(chosen))[:], chosen[:]) and torch.equal(
        copy.deepcopy(chosen)[:], chosen[:]
    )


def test_all_sets_share_one_copy_on_a_device_while_one_of_them_lives():
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    first, second = (choose(images, torch.tensor(rows)).to("meta") for rows in ([0, 1, 2], [1, 2, 3]))
    assert first.base is second.base and first.base.device.type == "meta"
    del first, second
    assert choose(images, torch.tensor([0, 1])).to("meta").base is not images


def test_a_small_part_goes_to_a_device_alone_unless_the_images_are_there():
    images = torch.zeros(10, 1, 2, 2, dtype=torch.uint8)
    few = choose(images, torch.tensor([4, 5]))
    assert few.to("meta").shape == (2, 1, 2, 2) and not isinstance(few.to("meta"), Chosen)
    there = choose(images, torch.arange(9)).to("meta")
    assert few.to("meta").base is there.base


# In a file


@FEW
@given(rows=st.lists(st.integers(0, 59), max_size=40), stop=st.integers(0, 60), step=st.integers(1, 7))
def test_rows_of_a_file_are_those_of_the_tensor(tmp_path_factory, rows, stop, step):
    images = images_of()
    file = in_file(images, tmp_path_factory.mktemp("file"))
    assert torch.equal(
        file[torch.tensor(rows, dtype=torch.int64)], images[torch.tensor(rows, dtype=torch.int64)]
    )
    assert torch.equal(file[:stop:step], images[:stop:step])


def test_a_row_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(IndexError, match="expected rows from 0 to 59, got 0 to 60"):
        in_file(images_of(), tmp_path)[torch.tensor([0, 60])]


def test_a_file_that_ends_early_is_named(tmp_path):
    file = in_file(images_of(), tmp_path)
    file.path.write_bytes(file.path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"images\.u8: expected 11520 bytes, and it ends earlier"):
        file[torch.tensor([59])]


def test_a_set_in_a_file_is_the_set_in_memory(tmp_path):
    here, there = set_of(images_of()), set_of(in_file(images_of(), tmp_path))
    assert there.streamed and there.subset(torch.arange(5)).streamed and not here.streamed
    assert (there.digest, there.image_shape) == (here.digest, here.image_shape)
    assert Normalisation.of(there.images, 255) == Normalisation.of(here.images, 255)
    for one, other in (
        (here, there),
        (here.of_classes(1), there.of_classes(1)),
        (here.without_classes(1), there.without_classes(1)),
    ):
        for settings_ in ({}, {"generator": 1}, {"generator": 1, "augment": True}):
            drawn = [
                dict(settings_) | ({"generator": torch.Generator().manual_seed(1)} if settings_ else {})
                for _ in range(2)
            ]
            for mine, theirs in zip(one.batches(7, **drawn[0]), other.batches(7, **drawn[1]), strict=True):
                assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])


def test_training_on_a_file_is_training_on_memory(tmp_path):
    weights = []
    for images in (images_of(), in_file(images_of(), tmp_path)):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
        fit(
            model,
            set_of(images).without_classes(2),
            Recipe(2, augment=True),
            generator=generator_for(1, "train"),
        )
        weights.append(model[1].weight)
    assert torch.equal(*weights)


def test_all_images_of_a_file_at_once_are_refused_with_what_to_do(tmp_path):
    chosen = choose(in_file(images_of(), tmp_path), torch.arange(60))
    with pytest.raises(ValueError, match=r"too large for memory: expected images\[rows\] or batches"):
        chosen.flatten()


def test_a_dataset_larger_than_the_budget_is_streamed_with_the_same_numbers(tmp_path, monkeypatch):
    class_folders(tmp_path / "own", {"a": 20, "b": 20})
    in_memory = load_splits(f"folder:{tmp_path}/own", tmp_path / "data")
    monkeypatch.setattr(decoding, "memory_budget", lambda: 40 * 192 - 1)
    streamed = load_splits(f"folder:{tmp_path}/own", tmp_path / "data")
    assert streamed.train.streamed and streamed.test.streamed and not in_memory.train.streamed
    assert (
        streamed.digest == in_memory.digest and streamed.train.normalisation == in_memory.train.normalisation
    )


# Memory


def child(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [float(word) for word in done.stdout.split()]


@pytest.mark.slow
def test_the_budget_follows_the_limits_of_the_process():
    before, after = child("""
        import resource
        from lethe.data.memory import memory_budget
        before = memory_budget()
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 10_000_000, resource.RLIM_INFINITY))
        print(before, memory_budget())
    """)
    assert 0 <= after <= 5_000_000 < before


GROUPS = {
    "a limit above": ("0::/user/job", {"": None, "user": (1000, 400, 0), "user/job": ("max", 300, 0)}, 600),
    "its own is less": ("0::/user/job", {"user": (1000, 400, 0), "user/job": (500, 300, 0)}, 200),
    "in a container": ("0::/", {"": (1000, 400, 0)}, 600),
    "in a container that begins below": ("0::/docker/1f2e", {"": (1000, 400, 0)}, 600),
    "files that were read once": ("0::/job", {"job": (1000, 900, 700)}, 800),
    "beside groups of version 1": ("4:memory:/job\n0::/job", {"job": (1000, 400, 0)}, 600),
    "none": ("", {}, 10**6),
}


@pytest.mark.parametrize("case", GROUPS)
@pytest.mark.parametrize("processes", [1, 4])
def test_the_budget_follows_the_control_groups_and_is_shared_by_the_processes_of_torchrun(
    tmp_path, monkeypatch, case, processes
):
    said, groups, left = GROUPS[case]
    (tmp_path / "proc").write_text(said)
    for name, numbers in groups.items():
        folder = tmp_path / "sys" / name
        folder.mkdir(parents=True, exist_ok=True)
        if numbers is not None:
            limit, used, inactive = numbers
            (folder / "memory.max").write_text(f"{limit}\n")
            (folder / "memory.current").write_text(f"{used}\n")
            (folder / "memory.stat").write_text(f"anon 7\ninactive_file {inactive}\n")
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "sys")
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**6))
    monkeypatch.setattr(memory, "_of_the_process", list)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert memory_budget() == left // processes // 2


def test_what_is_left_to_a_process_alone_is_not_shared(monkeypatch):
    monkeypatch.setattr(memory, "_of_the_groups", list)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**6))
    monkeypatch.setattr(memory, "_of_the_process", lambda: [1000])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory_budget() == 500


def test_the_budget_is_positive_here():
    assert memory_budget() > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory are Linux's")
def test_a_dataset_larger_than_what_a_process_may_take_is_decoded_trained_on_and_hashed(tmp_path):
    # 1,200 images of 224 x 224 x 3 are 181 MB; the process may take 120 MB more than it has before it sees
    # them.
    for name, colour in (("a", "red"), ("b", "blue")):
        file = write(tmp_path / "own" / name / "0.jpg", plain(colour, (224, 224)), "JPEG")
        for number in range(1, 600):
            shutil.copy(file, file.with_name(f"{number}.jpg"))
    streamed, digest_is_whole, over = child(
        """
        import resource, sys, warnings
        import torch
        from PIL import Image
        from lethe.training import Recipe, fit, generator_for, warm_up
        from lethe.data import ForgetRequest, load_splits
        import lethe.data.scanned as scanned
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        scanned.AT_ONCE = 32
        model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 2))
        model(torch.zeros(8, 3, 224, 224)).sum().backward()
        warm_up()
        limit = 120_000_000
        used = int(open("/proc/self/status").read().partition("VmData:")[2].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + limit, resource.RLIM_INFINITY))
        try:
            torch.empty(1200 * 3 * 224 * 224, dtype=torch.uint8)
            over = 1
        except RuntimeError:
            over = 0
        splits = load_splits("folder:" + sys.argv[1], sys.argv[2])
        division = ForgetRequest((1,)).divide(splits.train, 2, 0)
        forget, retain = division.forget, division.retain
        fit(model, retain.joined(forget), Recipe(1, batch_size=8), generator=generator_for(1, "train"))
        print(int(splits.train.streamed), int(len(splits.digest) == 64), over)
        """,
        tmp_path / "own",
        tmp_path / "data",
    )
    assert (streamed, digest_is_whole, over) == (1, 1, 0)


@pytest.mark.slow
def test_the_images_of_a_dataset_are_in_memory_once(tmp_path):
    # 20,000 images of 3 x 32 x 32 are 61 MB; splits, a request, digests and an epoch add less than half of
    # that.
    (grown,) = child("""
        import resource
        import torch
        from lethe.data import ForgetRequest, RawDataset, split
        torch.set_num_threads(1)
        labels = torch.arange(20_000) % 10
        names = tuple("0123456789")
        few = torch.zeros(100, 3, 32, 32, dtype=torch.uint8)
        warm = RawDataset((few, labels[:100]), None, names)
        for _ in split(warm, "warm", 0).train.batches(128, generator=torch.Generator()): pass
        split(warm, "warm", 0).digest
        images = torch.randint(0, 256, (20_000, 3, 32, 32), dtype=torch.uint8)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        made = RawDataset((images, labels), (images[:2000], labels[:2000]), names)
        parts = split(made, "made", 0)
        division = ForgetRequest((3,)).divide(parts.train, 10, 0)
        forget, retain = division.forget, division.retain
        for some in (parts.train, parts.validation, parts.test, forget, retain):
            some.digest
            for _ in some.batches(128, generator=torch.Generator()): pass
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
    """)
    assert grown < 61_440_000 / 2
