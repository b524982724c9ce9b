"""`tokfilter verify`: the bytes of an export directory against its manifest, its engines against the golden tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tokfilter.manifest import Entry, Manifest, checked_path, load_manifest
from tokfilter.runtime.artefacts import Artefact, Role, artefact
from tokfilter.runtime.golden import GoldenArrays, Verdict, golden_of, verify
from tokfilter.runtime.session import Budgets
from tokfilter.runtime.sessions import EngineOptions, session_for

__all__ = ["checked_files", "verdicts"]

_ROLES: Final[tuple[Role, ...]] = ("full", "filtered")


def checked_files(directory: str | Path) -> Manifest:
    """The manifest of a directory whose files are all there, byte by byte. Raises DataError, EngineError."""
    manifest = load_manifest(directory)
    for entry in manifest.files:
        checked_path(directory, entry)
    return manifest


def verdicts(
    directory: str | Path, options: EngineOptions | None = None, batches: Sequence[int] = ()
) -> Iterator[Verdict]:
    """Run every model file of a runtime and precision on the golden images, at each budget that torch computed.

    batches: none means the smallest that an engine serves, and two images where it does
    Raises VerificationError at the first that differs, DataError, EngineError, MissingDependencyError.
    """
    options = options or EngineOptions()
    for chosen in _artefacts(directory, options):
        golden = golden_of(chosen)
        with session_for(chosen, options) as session:
            for batch in batches or _batches(chosen.entry):
                for k in _budgets(golden, session.budgets):
                    yield verify(session, chosen, golden, batch, k)


def _artefacts(directory: str | Path, options: EngineOptions) -> Iterator[Artefact]:
    """All that `bench` may take a time of: the full file, the filtered one, those made for one budget."""
    for role in _ROLES:
        first = artefact(directory, role, options.runtime, options.precision)
        for entry in first.manifest.entries(role, options.runtime):
            if entry.precision == options.precision:
                yield replace(first, entry=entry)


def _batches(entry: Entry) -> list[int]:
    low, _, high = entry.batch_range or (1, 1, 2)
    return sorted({low, min(max(2, low), high)})


def _budgets(golden: GoldenArrays, served: Budgets) -> list[int]:
    """The engine's own default comes with them: where torch computed no logits, the kept tokens are compared."""
    return sorted({served.default} | {k for k in golden.logits if served.low <= k <= served.high})
