"""Sign a finished run with a key of your own, so that others can see that nobody changed it since.

    python -u seal.py --new_key mine.pem             write a new private key, and mine.pem.pub to give away
    python -u seal.py RUN_ID --key mine.pem          sign the run's manifest
    python -u audit.py verify RUN_ID --key mine.pem.pub

The manifest has the digests of all artifacts, and all params, tags and metrics, as they were when the run
ended. A run that differs from its manifest is not signed. Keys are of Ed25519, in PEM or as OpenSSH writes
them. The password of an encrypted key is read from the environment variable LETHE_KEY_PASSWORD.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lethe import command_line
from lethe.commands import as_started, named
from lethe.experiment.shared_flags import path_or_none

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Make a key, or sign a run."""
    summary, _, details = as_started(__doc__ or "").partition("\n")
    parser = command_line.OneLineParser(summary, details.strip())
    run_id = f"32 digits and letters; {named('parse')} lists them"
    parser.add_argument("run_id", metavar="RUN_ID", nargs="?", help=run_id)
    parser.add_argument("--key", metavar="FILE", help="your private key")
    parser.add_argument("--new_key", metavar="FILE", help="write a new private key, and FILE.pub, and end")
    moved = "the folder of the experiments' artifacts, if they were moved or copied (default: from the store)"
    parser.add_argument("--artifact_root", metavar="FOLDER", help=moved)
    options = command_line.parsed(parser, argv)

    from lethe.audits import seal

    if options.new_key is not None:
        if options.run_id is not None or options.key is not None:
            raise ValueError("--new_key makes a key and signs nothing. Give it alone")
        public = seal.new_key(Path(options.new_key))
        print(f"wrote {options.new_key}, to keep to yourself, and {public}, to give away")
        return 0
    if options.run_id is None or options.key is None:
        raise ValueError("expected RUN_ID and --key FILE, or --new_key FILE. See --help")
    return _sealed(options.run_id, seal.private_key(Path(options.key)), path_or_none(options.artifact_root))


def _sealed(run_id: str, key: Ed25519PrivateKey, artifact_root: Path | None) -> int:
    """Sign a run, and log the signature as its artifact; into `artifact_root` if the run's were moved."""
    from lethe.audits.recorded_run import RecordedRun
    from lethe.audits.seal import signature_of, writable
    from lethe.system.temporary_files import replaced
    from lethe.tracking.manifest import SIGNATURE
    from lethe.tracking.record import add_artifact, read_record

    record = read_record(run_id, artifact_root)
    text = signature_of(RecordedRun(record), key)
    if artifact_root is not None:
        with writable(record.folder), replaced(record.folder / SIGNATURE) as partial:
            partial.write_text(text, encoding="utf-8")
    else:
        with writable(record.folder), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / SIGNATURE
            path.write_text(text, encoding="utf-8")
            add_artifact(run_id, path)
    print(f"sealed {record.name}: the artifact {SIGNATURE} signs its manifest")
    return 0
