"""What test files share: one small filtered model, its bundle and its export, and the reasons why tests are skipped."""

import os
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Threads that wait for each other spin: beside another busy process, two of them take three times the CPU time of one,
# and ten times as long. The models of the tests are too small to gain from a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

if TYPE_CHECKING:
    from tokfilter.artifacts.bundle import Architecture, Bundle
    from tokfilter.train.dataset import ImageDataset
    from tokfilter.vit.model import FilteredViT

HAS_TORCH = find_spec("torch") is not None

if find_spec("hypothesis") is not None:
    import hypothesis

    # No time limit per example: a test must not depend on the speed of the machine.
    hypothesis.settings.register_profile("no_deadline", deadline=None)
    hypothesis.settings.load_profile("no_deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--exported",
        type=Path,
        metavar="DIRECTORY",
        help="export of the small model by tests/tools/small_models.py, for an environment without torch",
    )
    parser.addoption(
        "--emulated",
        type=Path,
        metavar="DIRECTORY",
        help="programs for another processor, in wrappers that start an emulator, in place of those that tests build",
    )


def has_gpu() -> bool:
    if not HAS_TORCH:
        return False
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not has_gpu():
        skip = pytest.mark.skip(reason="no NVIDIA GPU on this machine; `make test-gpu` on one that has it")
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Without torch (`make test-py310`) a file that imports a package of the extras train or export is skipped."""
    report: Any = yield
    call = getattr(report, "call", None)  # a plugin may answer in pytest's place, as --last-failed does
    error = call and call.excinfo and call.excinfo.value.__cause__
    if not HAS_TORCH and isinstance(error, ModuleNotFoundError):
        report.outcome, report.longrepr = "skipped", (str(collector.path), 0, f"Skipped: needs {error.name}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """The same for a test that imports one, or a fixture of its."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if HAS_TORCH:
            raise
        pytest.skip(f"needs {error.name}")


pytest_runtest_setup = pytest_runtest_call


@pytest.fixture
def model() -> "FilteredViT":
    from small_models import small_model

    return small_model()


@pytest.fixture
def bundle() -> "Bundle":
    from small_models import small_bundle

    return small_bundle()


@pytest.fixture(scope="session")
def bundle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from small_models import small_bundle

    from tokfilter.vit.bundle import save_bundle

    path = tmp_path_factory.mktemp("bundle") / "model.pt"
    save_bundle(small_bundle(), path)
    return path


@pytest.fixture(scope="session")
def mask_bundle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the small model with three masks of 16 x 16 pixels."""
    from small_models import small_mask_model

    from tokfilter.vit.bundle import save_bundle

    path = tmp_path_factory.mktemp("masks") / "model.pt"
    save_bundle(small_mask_model(), path, class_names=["sky", "sea", "sand"])
    return path


@pytest.fixture
def ten_classes() -> "Architecture":
    from small_models import TEN_CLASSES

    return TEN_CLASSES


@pytest.fixture(scope="session")
def scene_dataset(tmp_path_factory: pytest.TempPathFactory) -> "ImageDataset":
    """40 small scenes, prepared for a model of ``ten_classes``."""
    from small_models import TEN_CLASSES

    from tokfilter.benchmarks.study.scenes import SceneConfig, write_scenes
    from tokfilter.train.data import splits_from_folder
    from tokfilter.train.dataset import ImageDataset
    from tokfilter.vit.backbone import create_backbone
    from tokfilter.vit.info import preprocessing_from_backbone

    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 0, train=40, test=40, config=SceneConfig(size=32, digits=(16,), window=(40, 60)))
    return ImageDataset(
        splits_from_folder(folder).test, preprocessing_from_backbone(create_backbone(TEN_CLASSES), crop_pct=1.0)
    )


@pytest.fixture(scope="session")
def export_directory(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """An export of the small bundle with a graph for 8 tokens. For reading: copy it before you change it."""
    exported: Path | None = request.config.getoption("--exported")
    if exported is not None:
        return exported
    from small_models import write_export

    directory = tmp_path_factory.mktemp("export") / "out"
    write_export(request.getfixturevalue("bundle_file"), directory)
    return directory


@pytest.fixture(scope="session")
def mask_export_directory(tmp_path_factory: pytest.TempPathFactory, mask_bundle_file: Path) -> Path:
    """Its export, with a graph for 8 tokens. For reading: copy it before you change it."""
    from small_models import write_export

    directory = tmp_path_factory.mktemp("mask-export") / "out"
    write_export(mask_bundle_file, directory)
    return directory


@pytest.fixture(scope="session")
def embedding_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model.pt`` of a model that gives an embedding, and its export ``out``. For reading."""
    from small_models import small_embedding_model, write_export

    from tokfilter.vit.bundle import save_bundle

    root = tmp_path_factory.mktemp("embedding")
    save_bundle(small_embedding_model(), root / "model.pt")
    write_export(root / "model.pt", root / "out")
    return root


@pytest.fixture(scope="session")
def traced_graph() -> Any:
    """The slots form of the small model, traced once. For reading: clone it before you change it."""
    from small_models import small_model

    from tokfilter.export.graph import slots_graph_from_model

    return slots_graph_from_model(small_model())


@pytest.fixture
def foreign_graph(tmp_path: Path) -> Callable[..., Path]:
    """A selection ``select(x, scores)`` through one of torch's exporters; ``free`` dimensions of x stay symbolic."""
    import torch
    from small_models import ForeignViT

    def export(
        select: Callable[..., Any], exporter: str, opset: int, prefix: int = 1, free: tuple[int, ...] = (0,)
    ) -> Path:
        path, dims = tmp_path / "foreign.onnx", {dim: f"d{dim}" for dim in free}
        options: dict[str, Any] = {"dynamo": False, "dynamic_axes": {"x": dims}}
        if exporter == "dynamo":
            shapes = {dim: torch.export.Dim(name) for dim, name in dims.items()}
            options = {"dynamo": True, "dynamic_shapes": (shapes or None,), "external_data": False, "verbose": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporters' own deprecations
            model, example = ForeignViT(select, prefix).eval(), torch.randn(2, prefix + 16, 8)
            torch.onnx.export(model, (example,), path, opset_version=opset, input_names=["x"], **options)
        return path

    return export
