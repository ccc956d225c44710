"""Files that systems, editors and cloud folders leave behind are no class, no image and no value."""

import pytest
from pictures import class_folders, noise, write

from lethe.data import DATASETS
from lethe.system.system_files import is_system_file
from lethe.tracking.readers.folder import FolderStore

LEFT_BEHIND = [".DS_Store", "._loss", ".gitkeep", "desktop.ini", "Thumbs.db", ".loss.swp"]
RUN = "a" * 32


@pytest.mark.parametrize(
    "name",
    [*LEFT_BEHIND, "__MACOSX", "@eaDir", "System Volume Information", "~$cats.png", ".ipynb_checkpoints"],
)
def test_it_is_known_by_its_name(name):
    assert is_system_file(name)


@pytest.mark.parametrize("name", ["cat", "loss", "desktop", "a.DS_Store", "_loss", "eaDir"])
def test_other_names_are_a_persons_own(name):
    assert not is_system_file(name)


@pytest.mark.parametrize("name", LEFT_BEHIND)
@pytest.mark.parametrize("below", ["metrics", "params", "tags"])
def test_an_old_tracking_folder_is_read_without_it(tmp_path, below, name):
    run = tmp_path / "mlruns" / "0" / RUN
    for folder in ("metrics", "params", "tags"):
        (run / folder).mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text(
        "experiment_id: '0'\nlifecycle_stage: active\nname: Default\n"
    )
    (run / "meta.yaml").write_text(
        f"experiment_id: '0'\nlifecycle_stage: active\nrun_id: {RUN}\nstart_time: 1\nend_time: 2\nstatus: 3\n"
    )
    (run / "metrics" / "loss").write_text("1 0.5 0\n")
    (run / "params" / "lr").write_text("0.1")
    (run / below / name).write_bytes(b"\0\5\26\7\377")

    (found,) = FolderStore(str(tmp_path / "mlruns")).runs()[1]

    assert (found.metrics, found.params) == ({"loss": 0.5}, {"lr": "0.1"})


def test_a_system_folder_beside_runs_and_experiments_is_none(tmp_path):
    for place in ("mlruns/0", "mlruns/0/@eaDir", "mlruns/@eaDir"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text(
        "experiment_id: '0'\nlifecycle_stage: active\nname: Default\n"
    )

    assert list(FolderStore(str(tmp_path / "mlruns")).runs()[1]) == []


def test_thumbnails_are_neither_classes_nor_images(tmp_path):
    class_folders(tmp_path / "own", {"cat": 2, "dog": 2})
    for number, place in enumerate(("@eaDir", "cat/@eaDir/1.png", "cat/.thumbnails", "dog/$RECYCLE.BIN")):
        write(tmp_path / "own" / place / "SYNOPHOTO_THUMB_M.png", noise(90 + number))
    write(tmp_path / "own" / "cat" / "._000.png", noise(99))
    (tmp_path / "own" / "cat" / "Thumbs.db").write_bytes(b"no image")

    raw = DATASETS[f"folder:{tmp_path}/own"](tmp_path / "data")

    assert (raw.class_names, len(raw.train[1])) == (("cat", "dog"), 4)
