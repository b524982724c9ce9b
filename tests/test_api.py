"""The public names: what they are, and what they refuse."""

import ast
import subprocess
import sys
import warnings

import numpy as np
import pytest
import timm
import torch
from paths import ROOT
from PIL import Image

import tokfilter
from tokfilter.artifacts.bundle import FilterConfig
from tokfilter.errors import BudgetError, DataError, MissingDependencyError, UnsupportedModelError

SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
NAN = float("nan")


def backbone(**changes):
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **SHAPE | changes)


@pytest.fixture
def patched():
    return tokfilter.patch(backbone()).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_dir_shows_the_public_names_and_the_version():
    assert dir(tokfilter) == sorted([*tokfilter.__all__, "__version__"])
    for name in tokfilter.__all__:
        assert getattr(tokfilter, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tokfilter.nonsense


def test_types_and_names_agree():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed == {name: module for name, (module, _) in tokfilter._PUBLIC.items()}
    assert (ROOT / "py.typed").is_file()


def test_the_package_alone_imports_nothing_heavy():
    program = "import sys, tokfilter; dir(tokfilter); print({'torch', 'numpy', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_absent_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokfilter.vit.patch", None)
    monkeypatch.delitem(vars(tokfilter), "patch", raising=False)

    def absent(name):
        raise ModuleNotFoundError("No module named 'timm'", name="timm")

    monkeypatch.setattr(tokfilter, "import_module", absent)
    with pytest.raises(MissingDependencyError, match=r"tokfilter\.patch needs the package timm.*tokfilter\[train\]"):
        _ = tokfilter.patch


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, SHAPE),
        ({"global_pool": "avg"}, {**SHAPE, "global_pool": "avg"}),
        ({"class_token": False, "global_pool": "avg"}, {**SHAPE, "class_token": False, "global_pool": "avg"}),
        ({"reg_tokens": 2, "mlp_ratio": 2}, {**SHAPE, "reg_tokens": 2, "mlp_ratio": 2}),
        ({"img_size": (16, 32), "num_heads": 2}, {**SHAPE, "img_size": (16, 32), "num_heads": 2}),
    ],
)
def test_the_arguments_of_a_model_are_recovered(changes, expected):
    found = tokfilter.patch(backbone(**changes)).info
    default = {"num_heads": 3}  # of vit_tiny_patch16_224 itself
    assert found.problem == ""
    assert found.architecture.name == "vit_tiny_patch16_224"
    assert dict(found.architecture.kwargs) == {n: v for n, v in expected.items() if default.get(n) != v}


def test_arguments_that_cannot_be_recovered_are_asked_for(tmp_path, images):
    model = backbone(init_values=1e-5)
    patched = tokfilter.patch(model)
    patched.scorer.trained = True
    with pytest.raises(
        UnsupportedModelError, match=r"blocks.0.ls1.gamma is \[24\] here and absent there.*architecture="
    ):
        tokfilter.save_bundle(patched, tmp_path / "model.pt")
    with pytest.raises(tokfilter.TokfilterError, match="backbone has 4 tensors too many"):
        tokfilter.save_bundle(patched, tmp_path / "model.pt", architecture=("vit_tiny_patch16_224", SHAPE))
    given = ("vit_tiny_patch16_224", {**SHAPE, "init_values": 1e-5})
    tokfilter.save_bundle(patched, tmp_path / "model.pt", architecture=given)
    again = tokfilter.load_model(tmp_path / "model.pt")
    assert torch.equal(again(images), patched.eval()(images))
    with pytest.raises(UnsupportedModelError, match="does not describe this model"):
        tokfilter.patch(backbone(init_values=1e-5), architecture=("vit_tiny_patch16_224", SHAPE))
    assert tokfilter.patch(backbone(init_values=1e-5), architecture=given).info.problem == ""


def test_what_cannot_be_patched_is_refused_with_the_reason(patched):
    import torchvision

    class Mine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = backbone()

    for model, words in (
        (torchvision.models.VisionTransformer(32, 8, 1, 2, 24, 48), "it is not a timm model .*torchvision"),
        (torch.nn.Linear(2, 2), r"Linear cannot be filtered: it is not a timm model \(its class is in torch\.nn"),
        (timm.create_model("resnet18"), "ResNet cannot be filtered: it has no patch_drop slot"),
        (Mine(), r"holds one as 'encoder'.*model\.get_submodule\('encoder'\)"),
        (torch.compile(backbone(), backend="eager"), "holds one as '_orig_mod'"),
        (patched, r"patched already: .*model\.keep"),
        (patched.backbone, "patched already"),
        (torch.nn.Sequential(patched), "patched already"),
        ("vit_tiny_patch16_224", "patch expects a model, got str"),
    ):
        with pytest.raises(UnsupportedModelError, match=words):
            tokfilter.patch(model)


def test_a_filter_of_the_users_own_is_taken_or_refused(images):
    trained = tokfilter.patch(backbone()).scorer
    model = tokfilter.patch(backbone().bfloat16(), filter=trained)
    assert model.scorer is trained and model(images.bfloat16()).dtype == torch.bfloat16
    for other in (tokfilter.TokenFilter(25), tokfilter.TokenFilter(24, FilterConfig(summary=4), num_patches=9)):
        model = backbone()
        with pytest.raises(UnsupportedModelError, match="24 channels and 16 patch tokens, its filter was made for"):
            tokfilter.patch(model, filter=other)
        with pytest.raises(BudgetError, match="keep must be"):
            tokfilter.patch(model, keep=17)
        assert tokfilter.patch(model).keep_tokens == 8  # a refusal leaves the model as it was
    near = tokfilter.TokenFilter(24, FilterConfig(neighbours=True), grid=(2, 8))
    with pytest.raises(UnsupportedModelError, match="4 x 4 patch tokens, its filter reads neighbours in 2 x 8"):
        tokfilter.patch(backbone(), filter=near)


@pytest.mark.parametrize("keep", [0, -1, 17, 1.5, 0.0, NAN, True, "50%", None])
def test_budgets_are_checked_where_they_are_set(patched, images, keep):
    with pytest.raises(BudgetError, match="keep must be"):
        tokfilter.patch(backbone(), keep=keep)
    with pytest.raises(BudgetError, match="keep must be"):
        patched.keep = keep
    with pytest.raises(BudgetError, match="must be a"):
        patched.keep_tokens = keep
    if keep is not None:
        with pytest.raises(BudgetError, match="keep must be"):
            patched(images, keep=keep)
    assert patched.keep == 0.5 and patched.keep_tokens == 8


def test_a_float_is_a_ratio_and_an_int_a_count(patched, images):
    for keep, tokens in ((1, 1), (1.0, 16), (0.5, 8), (12, 12), (np.int64(3), 3)):
        patched.keep = keep
        assert patched.keep_tokens == tokens
        patched(images)
        assert patched.last.indices is None if tokens == 16 else patched.last.indices.shape == (2, tokens)
    patched.keep_tokens = 5
    assert patched.keep == 5


def test_an_untrained_filter_warns_once_and_where_it_is_called(patched, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patched(images, keep=1.0)
    with pytest.warns(UserWarning, match=r"untrained.*tokfilter\.fit.*model\.scorer\.trained = True") as caught:
        patched(images)
        patched.forward_features(images)
    assert len(caught) == 1 and caught[0].filename == __file__
    other = tokfilter.patch(backbone())
    other.load_state_dict(patched.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other(images)


def test_saving_remembers_that_a_filter_is_untrained(patched, tmp_path):
    tokfilter.save_bundle(patched, tmp_path / "model.pt")
    assert tokfilter.load_bundle(tmp_path / "model.pt").training == {
        "filter": "untrained",
        "golden": "random images, seed 0",
    }
    again = tokfilter.load_model(tmp_path / "model.pt")
    assert not again.scorer.trained
    again.scorer.trained = True
    tokfilter.save_bundle(again, tmp_path / "model.pt")
    assert tokfilter.load_model(tmp_path / "model.pt").scorer.trained


def test_what_is_saved_is_loaded(patched, images, tmp_path):
    patched.keep = 3
    tokfilter.save_bundle(patched.bfloat16(), tmp_path / "model.pt", class_names=list("abcde"), examples=images)
    again = tokfilter.load_model(tmp_path / "model.pt")
    assert (again.keep, again.info.class_names) == (3, tuple("abcde"))
    assert torch.equal(again(images), patched.float()(images))
    assert torch.equal(tokfilter.load_bundle(tmp_path / "model.pt").golden.images, images)
    for bad in (images[0], images[:0], images[..., :16], images.int()):
        with pytest.raises(DataError, match=r"examples must be float images \[G, 3, 32, 32\]"):
            tokfilter.save_bundle(patched, tmp_path / "model.pt", examples=bad)


@pytest.mark.parametrize("function", ["save_bundle", "export_model"])
def test_models_that_are_not_patched_are_refused_with_the_remedy(function, patched, tmp_path):
    save = getattr(tokfilter, function)
    for model in (backbone(), torch.nn.Linear(2, 2), "model.pt", None):
        with pytest.raises(
            UnsupportedModelError, match=r"expected a model patched by tokfilter.*tokfilter\.patch\(model\)"
        ):
            save(model, tmp_path / "out")
    with pytest.raises(UnsupportedModelError, match=r"give model\._orig_mod"):
        save(torch.compile(patched, backend="eager"), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UnsupportedModelError, match="expected a model patched"):
        tokfilter.fit(backbone(), tmp_path)


def test_exporting_an_untrained_filter_warns(patched, images, tmp_path):
    with pytest.warns(UserWarning, match="exporting a model whose token filter is untrained") as caught:
        manifest = tokfilter.export_model(patched, tmp_path / "out", examples=images)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert manifest.model.keep == 8
    photo = Image.fromarray(np.zeros((40, 50), np.uint8))  # grey
    with tokfilter.open_session(tmp_path / "out") as session, torch.inference_mode():
        np.testing.assert_allclose(
            session.run(images.numpy(), keep=0.5).logits, patched(images, keep=0.5), atol=1e-5, rtol=1e-4
        )
        for keep, tokens in ((1, 1), (1.0, 16), (0.5, 8), (12, 12)):
            assert session.run(images.numpy(), keep=keep).indices.shape == (2, tokens)
        for keep in (0, -1, 17, 1.5, NAN, True, "50%"):
            with pytest.raises(BudgetError, match="keep must be"):
                session.run(images.numpy(), keep=keep)
        figures = [
            tokfilter.kept_tokens_figure(source, photo, keep=[1.0, 1])
            for source in (session, patched, tmp_path / "out")
        ]
    assert all(np.array_equal(figures[0], figure) for figure in figures)
    with pytest.raises(DataError, match="at least one budget"):
        tokfilter.kept_tokens_figure(patched, photo, keep=[])
