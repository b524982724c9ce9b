"""What several test files share: one small filtered model, its bundle, and the report of why GPU tests are skipped."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Two test processes' worth of spinning threads slow each other by an order of magnitude.
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
import torch

from tokfilter.artifacts.bundle import Architecture, Bundle, FilterConfig, Preprocessing
from tokfilter.benchmarks.study.scenes import SceneConfig, write_scenes
from tokfilter.train.data import splits_from_folder
from tokfilter.train.dataset import ImageDataset
from tokfilter.vit.backbone import create_backbone
from tokfilter.vit.bundle import save_bundle
from tokfilter.vit.golden import golden_from_model
from tokfilter.vit.info import preprocessing_from_backbone
from tokfilter.vit.model import FilteredViT, weights_from_model
from tokfilter.vit.scorers import TokenFilter

SMALL = Architecture(
    "vit_tiny_patch16_224",
    {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5},
)
TEN_CLASSES = Architecture(
    "vit_tiny_patch16_224",
    {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 10},
)


def has_gpu() -> bool:
    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not has_gpu():
        skip = pytest.mark.skip(reason="no NVIDIA GPU on this machine; `make test-gpu` on one that has it")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


def small_model(seed: int = 0, architecture: Architecture = SMALL) -> FilteredViT:
    torch.manual_seed(seed)
    backbone = create_backbone(architecture)
    model = FilteredViT(backbone, keep=0.5)
    model.drop.scorer = TokenFilter(model.channels, FilterConfig(width=8))
    return model.eval()


def small_bundle(seed: int = 0) -> Bundle:
    model = small_model(seed)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    backbone, scorer = weights_from_model(model)
    return Bundle(
        architecture=SMALL,
        backbone=backbone,
        filter_config=FilterConfig(width=8),
        filter=scorer,
        keep=0.5,
        preprocessing=Preprocessing((3, 32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        class_names=["ant", "bee", "cat", "dog", "eel"],
        golden=golden_from_model(model, images, [0.7, 0.5, 0.25]),
        training={"data": "random", "seeds": [seed]},
    )


@pytest.fixture
def model() -> FilteredViT:
    return small_model()


@pytest.fixture
def bundle() -> Bundle:
    return small_bundle()


@pytest.fixture(scope="session")
def bundle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "model.pt"
    save_bundle(small_bundle(), path)
    return path


@pytest.fixture
def ten_classes() -> Architecture:
    return TEN_CLASSES


@pytest.fixture(scope="session")
def scene_dataset(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """The views of 40 small scenes for a model of ``ten_classes``."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 0, train=40, test=40, config=SceneConfig(size=32, digits=(16,), window=(40, 60)))
    return ImageDataset(
        splits_from_folder(folder).test, preprocessing_from_backbone(create_backbone(TEN_CLASSES), crop_pct=1.0)
    )


@pytest.fixture(scope="session")
def export_directory(tmp_path_factory: pytest.TempPathFactory, bundle_file: Path) -> Path:
    """An export of the small bundle with a graph for 8 tokens. For reading: copy it before you change it."""
    from tokfilter.export.options import ExportOptions
    from tokfilter.export.pipeline import export_bundle

    directory = tmp_path_factory.mktemp("export") / "out"
    export_bundle(bundle_file, directory, ExportOptions(keeps=(0.5,)))
    return directory


@pytest.fixture(scope="session")
def traced_graph() -> Any:
    """The slots form of the small model, traced once. For reading: clone it before you change it."""
    from tokfilter.export.graph import slots_graph_from_model

    return slots_graph_from_model(small_model())


class ForeignViT(torch.nn.Module):
    """What stands around a token selection in a foreign model: [B, P+16, 8] to [B, 3, kept] and what else it gives."""

    def __init__(self, select: Callable[..., Any], prefix: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.score, self.head = torch.nn.Linear(8, 1), torch.nn.Linear(8, 3)
        self.select, self.prefix = select, prefix

    def forward(self, x: torch.Tensor) -> Any:
        x = x * 1.5
        results = self.select(x, self.score(x[:, self.prefix :]).squeeze(-1).softmax(-1))
        results = results if isinstance(results, tuple) else (results,)
        return tuple(self.head(r.relu()).transpose(1, 2) if r.is_floating_point() else r for r in results)


@pytest.fixture
def foreign_graph(tmp_path: Path) -> Callable[..., Path]:
    """A selection ``select(x, scores)`` through one of torch's exporters; ``free`` dimensions of x stay symbolic."""

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
