"""Files and folders that nobody put there on purpose: what systems, editors and cloud folders leave among a person's own."""

from __future__ import annotations

# By their names in lower case. What begins with a dot (.DS_Store, ._photo.jpg, .gitkeep, .ipynb_checkpoints) needs no entry.
OF_SYSTEMS = frozenset(
    {
        "__macosx",  # what macOS adds to a zip
        "icon\r",
        "thumbs.db",  # Windows
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "$recycle.bin",
        "system volume information",
        "@eadir",  # a Synology's thumbnails: JPEGs, in a folder of every folder
        "#recycle",
        "@recycle",  # a QNAP's
        "lost+found",
        "__pycache__",
    }
)


def is_system_file(name: str) -> bool:
    """Whether a file or folder of that name is hidden or a system's own."""
    return name.startswith((".", "~$")) or name.casefold() in OF_SYSTEMS
