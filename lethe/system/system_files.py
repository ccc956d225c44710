"""Hidden files, and files that operating systems and editors leave in folders."""

from __future__ import annotations

# Names in lower case. Names that begin with a dot (.DS_Store, ._photo.jpg, .ipynb_checkpoints) need no entry.
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
        "@eadir",  # Synology's thumbnails, in every folder
        "#recycle",
        "@recycle",  # QNAP
        "lost+found",
        "__pycache__",
    }
)


def is_system_file(name: str) -> bool:
    """Return whether a file or folder of that name is hidden or a system file."""
    return name.startswith((".", "~$")) or name.casefold() in OF_SYSTEMS
