"""Every dataset is in docs/datasets.md, and a run says where its own came from."""

from pathlib import Path

import pytest
from pictures import class_folders

from lethe.data import DATASETS, origin

ROOT = Path(__file__).parent.parent


def test_every_dataset_is_on_the_page():
    text = (ROOT / "docs" / "datasets.md").read_text()
    own = {entry.name for entry in DATASETS if entry.file is None}
    assert [name for name in sorted(own) if f"`{name}`" not in text] == []
    assert "`folder:PATH`" in text and "`hf:NAME`" in text


def test_an_unknown_name_lists_the_families_too():
    reason = r"Datasets: CIFAR10, .*folder:PATH, hf:NAME\[:IMAGE_COLUMN:LABEL_COLUMN\]"
    with pytest.raises(ValueError, match=reason):
        DATASETS["nothing like it"]


def test_a_run_names_the_folder_or_the_hubs_dataset_whole(tmp_path):
    class_folders(tmp_path / "own", {"a": 1, "b": 1})
    (tmp_path / "made.py").write_text("def made(folder):\n    return None\n")
    assert origin(f"folder:{tmp_path}/own") == f"folder:{tmp_path}/own"
    assert origin("hf:somebody/something") == "hf:somebody/something"
    assert origin("cifar10") is None and origin(f"{tmp_path}/made.py:made") == f"{tmp_path}/made.py"
