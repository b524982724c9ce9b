"""tokfilter verify."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokfilter.commands.json_output import print_json
from tokfilter.commands.progress import step_status
from tokfilter.commands.session_options import BATCH, bounded_run, session_options, session_options_from

if TYPE_CHECKING:
    from tokfilter.runtime.verification import Verdict


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--batch", type=BATCH, multiple=True, help="Batch size; may be repeated.")
@click.option(
    "--signed-by",
    type=click.Path(path_type=Path),
    help="File of allowed signers (ssh-keygen): one of them must have signed the manifest (docs/bundle.md).",
)
@session_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(source: Path, batch: tuple[int, ...], signed_by: Path | None, as_json: bool, **params: Any) -> None:
    """Check the files of an export directory against its manifest, and its models against PyTorch's golden outputs.

    Runs every model of --runtime and --precision, including those for one budget. SOURCE may also be a bundle
    (model.pt), which PyTorch runs. Exit code 3 when an output differs by more than the tolerance of its precision.
    """
    from tokfilter.runtime.verification import checked_files, verdicts

    signer = None if signed_by is None else _signer(source, signed_by)
    files = [] if source.is_file() else checked_files(source).files
    options = session_options_from(params)
    found = verdicts(source, options, batch)
    with bounded_run(source, [options], max(batch, default=2)):
        if as_json:
            with step_status(f"running the models of {source}"):
                compared = [asdict(verdict) for verdict in found]
            print_json("verification", {"files": len(files), "signer": signer, "verdicts": compared})
            return
        if files:
            click.echo(f"{len(files)} files match the manifest{'' if signer is None else f', signed by {signer}'}")
        for verdict in found:
            click.echo(_line(verdict))


def _signer(source: Path, signed_by: Path) -> str:
    from tokfilter.artifacts.manifest import load_manifest
    from tokfilter.artifacts.signature import check_signature
    from tokfilter.artifacts.text import printable
    from tokfilter.errors import VerificationError

    if source.is_file():
        raise click.UsageError("--signed-by is for the manifest of an export directory; a bundle has none.")
    signer, signed = check_signature(source, signed_by)
    if load_manifest(source) != signed:
        raise VerificationError(f"the manifest of {source} has changed while its signature was checked. Try again.")
    return printable(signer)


def _line(verdict: "Verdict") -> str:
    verb = "matches" if verdict.compared == "embedding" else "match"
    parts = [f"{verdict.path}, batch {verdict.batch}, {verdict.tokens} tokens: {verdict.compared} {verb} PyTorch's"]
    if verdict.largest_difference is not None:
        parts.append(f"largest difference {verdict.largest_difference:.1e} (tolerance {verdict.tolerance:g})")
    if verdict.same_indices is not None:
        parts.append(f"{verdict.same_indices:.1%} of the kept tokens equal")
    return "; ".join(parts)
