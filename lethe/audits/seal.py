"""Sign the manifest of a run with a key of one's own (Ed25519), and check such a signature.

The signed bytes are those of the artifact manifest.json. The signatures are in manifest.signature.json beside
it: a list of {"public_key": ..., "signature": ...}, both in hexadecimal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.audits.recorded_run import RecordedRun
from lethe.audits.verified import Verification
from lethe.audits.verified_manifest import check_manifest
from lethe.commands import started
from lethe.system.foreign_files import read_foreign, reason_of
from lethe.system.temporary_files import replaced
from lethe.tracking.manifest import MANIFEST, SIGNATURE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM = "Ed25519"
PASSWORD = "LETHE_KEY_PASSWORD"  # environment variable: of an encrypted private key


def new_key(path: Path) -> Path:
    """Write a new private key to `path`, and its public key to `path`.pub. Returns the path of the latter.

    Only the user can read the private key. Raises ValueError if one of the files exists.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public_path = path.with_name(f"{path.name}.pub")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: expected a file in a folder that exists, got none such. Make the folder")
    for file in (path, public_path):
        if file.exists():
            raise ValueError(f"{file}: expected a new file, and it exists. Choose another name")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with writable(path.parent):
        with replaced(path) as partial:
            partial.touch(mode=0o600)
            partial.write_bytes(private)
        with replaced(public_path) as partial:
            partial.write_bytes(public)
    return public_path


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Raise an OSError of the block as a ValueError of the folder that it writes to."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{folder}: expected a folder that you may write to ({reason_of(error)}). Make it writable, or "
            "choose another"
        ) from error


def private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key, in PEM or as OpenSSH writes it. Raises ValueError for anything else."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    content = read_foreign(path)
    read = (
        serialization.load_ssh_private_key
        if b"OPENSSH PRIVATE KEY" in content
        else serialization.load_pem_private_key
    )
    password = os.environ.get(PASSWORD, "").encode() or None
    try:
        key = read(content, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: of its password
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: expected a private key of {ALGORITHM}, got another file ({reason}). {_make_one()}; the "
            f"password of an encrypted key is read from {PASSWORD}"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path}: expected a private key of {ALGORITHM}, got another kind. {_make_one()}")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key, in PEM or as OpenSSH writes it. Raises ValueError for anything else."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    content = read_foreign(path)
    ssh = content.startswith(b"ssh-")
    read = serialization.load_ssh_public_key if ssh else serialization.load_pem_public_key
    try:
        key = read(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        private = b"PRIVATE KEY" in content
        got = "a private one: name its .pub file" if private else "another file"
        raise ValueError(f"{path}: expected a public key of {ALGORITHM}, got {got}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{path}: expected a public key of {ALGORITHM}, got another kind")
    return key


def signature_of(run: RecordedRun, key: Ed25519PrivateKey) -> str:
    """Return the run's signatures, as JSON, with that of `key`.

    Raises ValueError for a run without a manifest, and for one that differs from its manifest.
    """
    done = Verification()
    if not check_manifest(run, done):
        raise ValueError(
            f"run {run.record.run_id}: expected the artifact {MANIFEST}, and there is none: the run is of an "
            "earlier version. Run its command again"
        )
    wrong = [check.what for check in done.checks if not check.holds]
    if wrong:
        raise ValueError(
            f"run {run.record.run_id}: expected a run as it was when it ended, and changed are: "
            f"{'; '.join(wrong)}. Restore them"
        )
    own = {
        "public_key": _hexadecimal(key.public_key()),
        "signature": key.sign(run.content(MANIFEST)).hex(),
    }
    others = [one for one in _signatures(run) if one.get("public_key") != own["public_key"]]
    return json.dumps({"algorithm": ALGORITHM, "signatures": [*others, own]}, indent=1)


def check_signature(run: RecordedRun, done: Verification, key: Ed25519PublicKey) -> None:
    """Check that the owner of `key` signed the run's manifest."""
    from cryptography.exceptions import InvalidSignature

    what, wanted = "signature of the manifest", f"one of the key {_hexadecimal(key)}"
    if not run.has(MANIFEST):
        done.check(what, wanted, None)
        return
    try:
        signatures = _signatures(run)
    except ValueError as error:
        done.check(what, wanted, str(error))
        return
    own = [one.get("signature") for one in signatures if one.get("public_key") == _hexadecimal(key)]
    if not own:
        others = ", ".join(str(one.get("public_key"))[:64] for one in signatures)
        done.check(what, wanted, f"those of {others}" if others else "none")
        return
    try:
        key.verify(bytes.fromhex(str(own[0])), run.content(MANIFEST))
    except (InvalidSignature, ValueError):
        done.check(what, wanted, "one of this key that is of another manifest")
        return
    done.check(what, wanted, wanted)


def _signatures(run: RecordedRun) -> list[dict[str, Any]]:
    """Return the run's signatures; none if it is not sealed. Raises ValueError for another file."""
    if not run.has(SIGNATURE):
        return []
    try:
        found = json.loads(run.content(SIGNATURE))
        signatures = found["signatures"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ValueError(f"{SIGNATURE} can't be read ({type(error).__name__}). Remove it") from error
    if not isinstance(signatures, list) or not all(isinstance(one, dict) for one in signatures):
        raise ValueError(f"{SIGNATURE} has no list of signatures. Remove it")
    return signatures


def _hexadecimal(key: Ed25519PublicKey) -> str:
    return key.public_bytes_raw().hex()


def _make_one() -> str:
    return f"Make one: {started('seal')} --new_key FILE"
