"""Signatures by the real ssh-keygen."""

import shutil
import subprocess

import pytest
from click.testing import CliRunner

from tokfilter.artifacts.manifest import NAME, load_manifest
from tokfilter.artifacts.signature import NAMESPACE, SIGNATURE, check_signature
from tokfilter.cli import cli
from tokfilter.errors import DataError, MissingDependencyError, VerificationError

needs_openssh = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="needs ssh-keygen: apt-get install openssh-client"
)


def key(folder, name):
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
    subprocess.run(command, check=True)
    return folder / name


def sign(directory, key, namespace=NAMESPACE):
    (directory / SIGNATURE).unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", namespace, str(directory / NAME)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    ann, eve = key(folder, "ann"), key(folder, "eve")
    allowed = folder / "allowed_signers"
    allowed.write_text(f'ann@example.com namespaces="{NAMESPACE}" {ann.with_suffix(".pub").read_text()}')
    return ann, eve, allowed


@pytest.fixture
def signed(export_directory, keys, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(export_directory, out)
    sign(out, keys[0])
    return out


@needs_openssh
def test_an_allowed_signer_is_named(signed, keys):
    assert check_signature(signed, keys[2]) == ("ann@example.com", load_manifest(signed))
    done = CliRunner().invoke(cli, ["verify", str(signed), "--signed-by", str(keys[2]), "--batch", "1"])
    assert done.exit_code == 0, done.output
    assert "files match the manifest, signed by ann@example.com" in done.output


@needs_openssh
@pytest.mark.parametrize("damage", ["one byte", "another key", "another purpose", "no signature", "garbage"])
def test_everything_else_is_refused(signed, keys, damage):
    error, words = VerificationError, "is refused"
    if damage == "one byte":
        text = (signed / NAME).read_text()
        (signed / NAME).write_text(text.replace('"opset": 18', '"opset": 19'))
    elif damage == "another key":
        sign(signed, keys[1])
        words = "its key is none of"
    elif damage == "another purpose":
        sign(signed, keys[0], "git")
    elif damage == "garbage":
        (signed / SIGNATURE).write_bytes(b"\xff\x00 no signature")
    else:
        (signed / SIGNATURE).unlink()
        error, words = DataError, "ssh-keygen -Y sign -n tokfilter"
    with pytest.raises(error, match=words):
        check_signature(signed, keys[2])
    done = CliRunner().invoke(cli, ["verify", str(signed), "--signed-by", str(keys[2])])
    assert done.exit_code == (1 if error is DataError else 3) and "match" not in done.stdout.replace(done.stderr, "")


@needs_openssh
def test_signers_that_are_missing_or_none(signed, keys, tmp_path):
    with pytest.raises(DataError, match="expected a file, but there is none"):
        check_signature(signed, tmp_path / "nobody")
    (tmp_path / "empty").write_text("")
    with pytest.raises(VerificationError, match="its key is none of"):
        check_signature(signed, tmp_path / "empty")
    bundle = tmp_path / "model.pt"
    bundle.write_bytes(b"")
    done = CliRunner().invoke(cli, ["verify", str(bundle), "--signed-by", str(keys[2])])
    assert done.exit_code == 2 and "a bundle has none" in done.output


def test_without_openssh(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="install OpenSSH 8.2"):
        check_signature(tmp_path, tmp_path / "allowed")
