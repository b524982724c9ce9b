"""An engine is compared with the golden tensors before it is done; where fp16 is too narrow, layers are kept in fp32.

The comparison runs the engine, which is ``runtime``'s work: ``commands`` passes it as an ``EngineCheck``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokfilter.artifacts.manifest import Entry, Manifest
from tokfilter.errors import EngineError, MissingDependencyError, TokfilterError, VerificationError
from tokfilter.export.fp32_search import FP32_REMEDY, merged, nodes_of, search
from tokfilter.export.options import ExportOptions

if TYPE_CHECKING:
    from tokfilter.export.layer_groups import Group

__all__ = ["Build", "EngineCheck", "EngineGate"]

EngineCheck = Callable[[Path, Manifest, Entry], str | None]
"""(folder, manifest, engine) -> why its logits could not be compared, if so.

Raises VerificationError, or MissingDependencyError where the engine cannot run here.
"""

Build = Callable[[Sequence[str]], Entry]
"""Build an engine with these nodes of its graph in fp32; returns its entry."""

_FULL_PRECISION: Final = "Every layer of it is fp32 already: build it again, and report this if it fails again."

_QUANTIZED: Final = (
    "Which layers of it stay fp32 was decided when it was exported: export again with a lower --max-drop, which keeps "
    "more of them, or choose another --precision."
)


@dataclass
class EngineGate:
    """Build the engines of one runtime, and compare each.

    All engines of a precision keep the same layers in fp32, so that full and filtered differ in tokens only.

    folder: holds the graphs, and gets the engines
    manifest: lists the golden tensors and the plugin, both in ``folder``
    check: None where nothing can run the engines
    """

    folder: Path
    manifest: Manifest
    options: ExportOptions
    check: EngineCheck | None
    progress: Callable[[str], None]
    _kept: dict[str | None, dict[str, Any]] = field(default_factory=dict, init=False)
    _built: list[tuple[Entry, Build]] = field(default_factory=list, init=False)
    _probes: int = field(default=0, init=False)

    def engines(self, graph: Entry, build: Build) -> Iterator[Entry]:
        """The engine of ``graph``; then again those before it, if more layers have to stay fp32 than they kept.

        Raises VerificationError with figures and the remedy, EngineError, and what ``build`` raises. An engine that
        failed leaves no file.
        """
        entry, failure = self._attempt(graph, build, self._kept.get(graph.precision, {}))
        if failure is None:
            yield entry
        else:
            yield self._searched(graph, build, failure)
            for earlier, again in self._built:
                if earlier.precision == graph.precision:
                    yield self._rebuilt(earlier, again)
        self._built.append((graph, build))

    def _attempt(self, graph: Entry, build: Build, kept: dict[str, Any]) -> tuple[Entry, VerificationError | None]:
        """The entry of a new engine, and how it differs from the golden tensors, if it does."""
        entry = build(nodes_of(kept))
        if kept or graph.kept_fp32:
            entry = replace(entry, kept_fp32=merged(graph.kept_fp32, kept))
        if not self.options.verify:
            return replace(entry, verified=False, unverified="--no-verify was given"), None
        if self.check is None:
            return replace(entry, verified=False, unverified="the caller gave nothing to run it with"), None
        self.progress(f"comparing {entry.path} with the golden tensors")
        try:
            reason = self.check(self.folder, self.manifest, entry)
        except MissingDependencyError as error:
            return replace(entry, verified=False, unverified=str(error)), None
        except BaseException as error:
            (self.folder / entry.path).unlink()
            if isinstance(error, VerificationError):
                return entry, error
            if isinstance(error, TokfilterError):
                raise EngineError(
                    f"{entry.path} was built, and could not be compared with the golden tensors: {error} --no-verify "
                    "builds without comparing."
                ) from error
            raise
        return replace(entry, verified=reason is None, unverified=reason), None

    def _rebuilt(self, graph: Entry, build: Build) -> Entry:
        entry, failure = self._attempt(graph, build, self._kept[graph.precision])
        if failure is not None:
            raise VerificationError(f"{failure} Choose another --precision.") from failure
        return entry

    def _searched(self, graph: Entry, build: Build, failure: VerificationError) -> Entry:
        """The engine with the fewest groups of layers in fp32 that passes."""
        if graph.precision == "fp32":
            raise VerificationError(f"{failure} {_FULL_PRECISION}") from failure
        if graph.precision in ("int8", "fp8"):
            raise VerificationError(f"{failure} {_QUANTIZED}") from failure
        if not self.options.auto_fp32:
            raise VerificationError(f"{failure} {FP32_REMEDY}") from failure
        before = self._kept.get(graph.precision, {})
        passed = self.folder / f"{graph.path}.passed"
        found: list[Entry] = []

        def passes(kept: dict[str, Any]) -> bool:
            entry, error = self._attempt(graph, build, merged(before, kept))
            if error is None:
                (self.folder / entry.path).replace(passed)
                found.append(entry)
            return error is None

        left = self.options.auto_fp32_builds - self._probes
        try:
            kept = search(graph.path, self._groups(graph, before), passes, left, self.progress, failure)
            passed.replace(self.folder / found[-1].path)
        finally:
            passed.unlink(missing_ok=True)
        self._probes += kept["probes"]
        self._kept[graph.precision] = kept = merged(before, kept)
        return replace(found[-1], kept_fp32=merged(graph.kept_fp32, kept))

    def _groups(self, graph: Entry, kept: dict[str, Any]) -> "list[Group]":
        """The groups of a graph's layers that are not fp32 yet."""
        try:
            from tokfilter.export.layer_groups import groups_from_graph
            from tokfilter.export.onnx_file import load_graph
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"--auto-fp32 reads the graph, which needs the package {error.name}: pip install onnx onnx-ir, or "
                "choose another --precision."
            ) from error
        return [
            group
            for group in groups_from_graph(load_graph(self.folder / graph.path))
            if group.name not in kept.get("groups", {})
        ]
