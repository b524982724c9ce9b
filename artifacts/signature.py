"""Signatures of a manifest by OpenSSH (``ssh-keygen -Y``), whose keys people have. The manifest's sums cover the rest.

Source of the format: OpenSSH, PROTOCOL.sshsig; of the file of signers: ssh-keygen(1), "ALLOWED SIGNERS".
"""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from tokfilter.artifacts.files import existing_file
from tokfilter.artifacts.manifest import NAME, Manifest, manifest_from_bytes
from tokfilter.errors import DataError, MissingDependencyError, VerificationError

__all__ = ["NAMESPACE", "SIGNATURE", "check_signature"]

NAMESPACE: Final = "tokfilter"
SIGNATURE: Final = f"{NAME}.sig"


def check_signature(directory: str | Path, allowed_signers: str | Path) -> tuple[str, Manifest]:
    """The signer of ``directory/manifest.json``, and what was signed.

    allowed_signers: file of the signers that are accepted

    Raises DataError where a file is missing, VerificationError where the signature is of another key, of another
    purpose or of other bytes, MissingDependencyError without ssh-keygen.
    """
    program = shutil.which("ssh-keygen")
    if program is None:
        raise MissingDependencyError("signatures are checked by ssh-keygen: install OpenSSH 8.2 or later.")
    allowed = existing_file(
        allowed_signers, "--signed-by (lines of a name and a public key, as ssh-keygen(1) has them)"
    )
    path = existing_file(Path(directory) / NAME, "the manifest")
    content = path.read_bytes()
    signature = existing_file(
        Path(directory) / SIGNATURE,
        f"the signature (`ssh-keygen -Y sign -n {NAMESPACE} -f KEY {NAME}` writes it)",
    )
    found = _run(program, "find-principals", "-s", str(signature), "-f", str(allowed))
    signer = next(iter(found.stdout.decode(errors="replace").splitlines()), "")
    if found.returncode != 0 or not signer:
        raise _refused(directory, f"its key is none of {allowed}", found)
    options = ("-f", str(allowed), "-I", signer, "-n", NAMESPACE, "-s", str(signature))
    checked = _run(program, "verify", *options, content=content)
    if checked.returncode != 0:
        raise _refused(directory, f"it is not {signer}'s signature of these bytes for {NAMESPACE}", checked)
    return signer, manifest_from_bytes(content, path)


def _run(program: str, action: str, *options: str, content: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(
            [program, "-Y", action, *options], input=content, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"ssh-keygen could not check the signature: {error}.") from error


def _refused(directory: str | Path, why: str, process: "subprocess.CompletedProcess[bytes]") -> VerificationError:
    said = process.stderr.decode(errors="replace").strip().splitlines()
    return VerificationError(
        f"the signature of {Path(directory) / NAME} is refused: {why} ({said[0][:200] if said else 'ssh-keygen'}). Get "
        "the directory again from who exported it, or have it signed again after a change (engine and tune change it)."
    )
