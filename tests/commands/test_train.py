import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from click.testing import CliRunner

from tokfilter.benchmarks.documents import document_from_file
from tokfilter.benchmarks.study.scenes import SceneConfig, write_scenes
from tokfilter.cli import cli
from tokfilter.vit.bundle import load_bundle

MODEL = ["--arch", "vit_tiny_patch16_224"]
for argument in ("img_size=32", "patch_size=8", "embed_dim=16", "depth=1", "num_heads=2"):
    MODEL += ["--arch-arg", argument]
QUICK = ["--epochs", "1", "--batch", "16"]
UNCROPPED = ["--set", "data.crop_pct=1"]


def tokfilter(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return write_scenes(folder, 0, train=64, test=30, config=SceneConfig(size=32, digits=(16,), window=(40, 60)))


@pytest.fixture(scope="module")
def bundle(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "model.pt"
    result = tokfilter("train", data, "-o", path, *UNCROPPED, "--keep", 0.25, *MODEL, *QUICK)
    assert result.exit_code == 0, result.output
    return path


def test_train_writes_a_bundle_with_every_stages_record(bundle):
    found = load_bundle(bundle)
    assert found.keep == 0.25 and found.class_names == list("0123456789")
    assert {
        "start",
        "data",
        "seed",
        "backbone",
        "label",
        "filter",
        "finetune",
        "accuracy",
        "accuracy_before_finetune",
    } == found.training.keys()
    assert [row["tokens"] for row in found.training["accuracy_before_finetune"]] == [16]
    assert found.preprocessing.input_size == (3, 32, 32) and found.preprocessing.crop_pct == 1


def test_the_table_names_full_rows_and_has_the_accuracy_before_fine_tuning(bundle):
    from tokfilter.commands.train import _rows

    found = load_bundle(bundle)
    before, *after = _rows(found)
    assert (before["method"], before["tokens"]) == ("full, before fine-tuning", 16)
    assert [(row["method"], row["tokens"]) for row in after] == [("full", 16), ("filter", 8), ("filter", 4)]
    found.training.pop("accuracy_before_finetune")  # without the stage, or of an earlier version
    assert _rows(found) == after


def test_label_then_train_with_those_labels(data, bundle, tmp_path):
    result = tokfilter("label", data, bundle, "-o", tmp_path / "labels", "--set", "labels.mask=removed", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["images"], facts["tokens"]) == (64, 16)
    arguments = [
        "train",
        data,
        "--checkpoint",
        bundle,
        "--labels",
        tmp_path / "labels",
        "-o",
        tmp_path / "m.pt",
        *QUICK,
    ]
    result = tokfilter(*arguments)
    assert result.exit_code == 1
    assert "made with other mask than this run's" in result.output
    result = tokfilter(*arguments, "--set", "labels.mask=removed")
    assert result.exit_code == 0, result.output
    assert load_bundle(tmp_path / "m.pt").training["label"]["mask"]["value"] == "removed"


def test_eval_prints_a_document_that_fits_its_schema(data, bundle, tmp_path):
    result = tokfilter("eval", bundle, data, "--keep", "0.5,4", "-o", tmp_path / "accuracy.json", "--json")
    assert result.exit_code == 0, result.output
    document = document_from_file(tmp_path / "accuracy.json", "tokfilter/accuracy")
    assert document == json.loads(result.stdout)
    assert [(row["method"], row["tokens"]) for row in document["rows"]] == [("full", 16), ("filter", 8), ("filter", 4)]
    assert all(row["low"] <= row["mean"] <= row["high"] for row in document["rows"])
    assert document["data"]["images"] == 30
    same = tokfilter("eval", bundle, data / "test", "--keep", "0.5,4", "--json")  # a folder of classes alone
    assert json.loads(same.stdout)["rows"] == document["rows"]
    assert "top-1" in tokfilter("eval", bundle, data).stdout


@pytest.mark.parametrize("keep", ["0", "-1", "1.5", "nan", "17", "True"])
def test_eval_refuses_budgets_that_no_model_serves(data, bundle, keep):
    result = tokfilter("eval", bundle, data, "--keep", keep)
    assert result.exit_code == 1 and "keep must be" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --arch"),
        (["--arch", "resnet18"], "cannot be filtered"),
        (["--arch", "vit_tiny_patch16_224", "--arch-arg", "depth"], "expects NAME=VALUE"),
        (["--checkpoint", "nowhere.pt"], "there is none at nowhere.pt"),
        ([*MODEL, "--stages", "filter,export"], "stages are some of"),
        ([*MODEL, "--stages", "label,filter"], "add the stage `backbone`"),
        ([*MODEL, "--keep", "2000"], "16 patch tokens, got 2000"),
    ],
)
def test_train_refuses_what_cannot_be_done(data, tmp_path, arguments, words):
    result = tokfilter("train", data, "-o", tmp_path / "m.pt", *arguments)
    assert result.exit_code in (1, 2), result.output
    assert words in result.output
    assert not (tmp_path / "m.pt").exists()


def test_an_undecodable_image_is_named_and_skipped(data, bundle, tmp_path):
    broken = data / "test/3/broken.png"
    broken.write_bytes(b"no image")
    try:
        result = tokfilter("eval", bundle, data, "--json")
    finally:
        broken.unlink()
    assert result.exit_code == 0
    assert "skipped" in result.stderr and "broken.png" in result.stderr
    assert json.loads(result.stdout)["data"]["images"] == 30


def test_ctrl_c_and_resume_give_what_an_undisturbed_run_gives(data, tmp_path):
    """A real interrupt of a real process."""
    options = [*UNCROPPED, *MODEL, *QUICK, "--set", "backbone.epochs=25", "--set", "save_seconds=0"]

    def command(name, *more):
        program = [sys.executable, "-m", "tokfilter.cli", "train", str(data), "-o", str(tmp_path / name)]
        return [*program, *options, *more]

    run_dir = tmp_path / "halved.pt.work"
    # A process started by a background job ignores interrupts by default.
    interruptible = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command("halved.pt"), **pipes, **interruptible) as process:
        try:
            while not (run_dir / "backbone.checkpoint.pt").exists() and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, log = process.communicate()
        finally:
            process.kill()
    assert process.returncode == 1 and b"Aborted" in log
    assert not (tmp_path / "halved.pt").exists()
    done = len(torch.load(run_dir / "backbone.checkpoint.pt", weights_only=True)["losses"])
    assert 0 < done < 100

    subprocess.run(command("halved.pt", "--resume"), check=True, capture_output=True)
    subprocess.run(command("whole.pt"), check=True, capture_output=True)
    whole, halved = load_bundle(tmp_path / "whole.pt"), load_bundle(tmp_path / "halved.pt")
    for one, other in ((whole.backbone, halved.backbone), (whole.filter, halved.filter)):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_global_context_is_added_by_fine_tuning_and_exported(data, bundle, tmp_path):
    options = ["--checkpoint", bundle, "--stages", "finetune", "--set", "filter.global_context=3", *QUICK]
    result = tokfilter("train", data, "-o", tmp_path / "context.pt", *options)
    assert result.exit_code == 0, result.output
    context, plain = load_bundle(tmp_path / "context.pt"), load_bundle(bundle)
    assert context.filter_config.summary == 3 and context.filter["summary.expand.weight"].any()
    scoring = {name: value for name, value in plain.filter.items() if not name.startswith("summary.")}
    assert len(scoring) > 4 and all(torch.equal(context.filter[name], value) for name, value in scoring.items())
    result = tokfilter("export", tmp_path / "context.pt", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    result = tokfilter("train", data, "-o", tmp_path / "no.pt", *options, "--set", "filter.global_context=-1")
    assert result.exit_code == 1 and "expects a whole number in [0, inf), got -1" in result.output
    assert not (tmp_path / "no.pt").exists()


def test_a_printed_recipe_trains_as_the_options_that_made_it(data, bundle, tmp_path):
    options = ["--epochs", "0.5", "--batch", "16", "--keep", "4t", "--seed", "3", "--set", "labels.limit=20"]
    printed = tokfilter("train", "--print-recipe", *options)
    assert printed.exit_code == 0 and printed.output.count("epochs = 0.5") == 3
    (tmp_path / "recipe.toml").write_text(printed.output)
    arguments = ["train", data, "--checkpoint", bundle, "--json", "-o"]
    one = tokfilter(*arguments, tmp_path / "a.pt", *options)
    other = tokfilter(*arguments, tmp_path / "b.pt", "--recipe", tmp_path / "recipe.toml")
    assert one.exit_code == 0 and one.stdout == other.stdout
    record = json.loads(one.stdout)["training"]
    assert record["label"]["images"] == 20 and record["seed"] == 3 and record["label"]["share"] == 0.15
    assert load_bundle(tmp_path / "a.pt").keep == load_bundle(tmp_path / "b.pt").keep == 4


def test_the_last_word_is_a_settings_own():
    printed = tokfilter("train", "--print-recipe", "--epochs", "2", "--set", "finetune.epochs=1").output
    assert printed.count("epochs = 2.0") == 2 and printed.count("epochs = 1.0") == 1


@pytest.mark.parametrize("verb", ["train", "label"])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("labels.masks=zero", "Did you mean labels.mask"),
        ("labels.chunk=many", "labels.chunk expects a whole number in [1, inf), got 'many'"),
        ("labels.precision=int8", "labels.precision expects one of fp32, fp16, bf16, got 'int8'"),
        ("keep=1", "ambiguous: write 1.0 or 100%"),
    ],
)
def test_a_wrong_setting_ends_before_any_image_is_read(tmp_path, verb, setting, words):
    model = [tmp_path / "no.pt", "-o", tmp_path / "out"] if verb == "label" else ["-o", tmp_path / "out"]
    result = tokfilter(verb, tmp_path / "nowhere", *model, "--set", setting)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert words in " ".join(result.output.split()) and "Traceback" not in result.output


def test_a_recipe_file_with_an_unknown_name_is_refused(data, tmp_path):
    (tmp_path / "recipe.toml").write_text("[finetune]\nlearning_rate = 1e-4\n")
    result = tokfilter("train", data, "--recipe", tmp_path / "recipe.toml", *MODEL)
    assert result.exit_code == 1 and "a recipe has no setting 'finetune.learning_rate'" in result.output


def test_data_may_be_left_out_for_printing_only():
    result = tokfilter("train", *MODEL)
    assert result.exit_code == 2 and "Missing argument 'DATA'" in result.output


@pytest.fixture
def timm_folder(tmp_path):
    """A folder as hubs have it, of a model for the digits whose names stand in reverse."""
    import timm
    from timm.models import save_for_hf

    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    own = timm.create_model("vit_tiny_patch16_224", **shape, num_classes=10)
    save_for_hf(own, tmp_path / "own", model_args=shape, model_config={"label_names": list("9876543210")})
    return tmp_path / "own"


def test_a_folder_of_timm_is_trained_with_its_classes_and_given_pixels(data, timm_folder, tmp_path):
    pixels = ["--mean", "0.5", "--std", "0.2,0.3,0.4", "--interpolation", "bilinear", "--crop-mode", "squash"]
    arguments = [
        "train",
        data,
        "--checkpoint",
        timm_folder,
        "-o",
        tmp_path / "m.pt",
        *QUICK,
        "--stages",
        "label,filter",
    ]
    result = tokfilter(*arguments, *pixels, "--crop-pct", "1.0", "--input-size", "24x32")
    assert result.exit_code == 0, result.output
    found = load_bundle(tmp_path / "m.pt")
    assert found.class_names == list("9876543210") and found.training["start"] == "timm's folder own"
    assert found.preprocessing.input_size == (3, 24, 32) and found.preprocessing.mean == (0.5, 0.5, 0.5)
    assert found.preprocessing.std == (0.2, 0.3, 0.4) and found.preprocessing.interpolation == "bilinear"
    assert (found.preprocessing.crop_pct, found.preprocessing.crop_mode) == (1.0, "squash")


def test_a_folder_of_transformers_is_labelled(data, tmp_path):
    from hf_folders import write_folder

    write_folder(tmp_path / "hf", "ViTForImageClassification", classes=10, patch_size=16)
    result = tokfilter("label", data, tmp_path / "hf", "-o", tmp_path / "labels", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["tokens"] == 4


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--arch", "vit_small_patch16_224"], "gives vit_tiny_patch16_224, --arch says vit_small_patch16_224: leave"),
        (["--arch-arg", "depth=2"], "whose config.json has the arguments: leave --arch-arg out"),
        (["--mean", "0.5,0.5"], "expected one number, or three with commas between, got '0.5,0.5'"),
        (["--mean", "nan"], "expected one number, or three"),
        (["--std", "0"], "a positive std for three channels"),
        (["--input-size", "0"], "expected a size such as 224 or 224x160"),
        (["--input-size", "32x32x32"], "expected a size such as 224 or 224x160"),
        (["--crop-mode", "corner"], "'corner' is not one of 'center'"),
    ],
)
def test_options_that_do_not_fit_a_folder_are_refused(data, timm_folder, tmp_path, options, problem):
    result = tokfilter("train", data, "--checkpoint", timm_folder, "-o", tmp_path / "m.pt", *options)
    assert result.exit_code in (1, 2) and problem in " ".join(result.output.split())
    assert not (tmp_path / "m.pt").exists()


def test_a_bundle_keeps_its_preprocessing(data, bundle, tmp_path):
    result = tokfilter("train", data, "--checkpoint", bundle, "-o", tmp_path / "m.pt", "--mean", "0.5")
    assert result.exit_code == 2
    assert "is a bundle with a preprocessing of its own: leave --mean out" in " ".join(result.output.split())


@pytest.fixture
def no_image_is_read(monkeypatch):
    def read(*_):
        raise AssertionError("an image was read")

    for name in ("image", "key"):
        monkeypatch.setattr(f"tokfilter.train.data.ImageList.{name}", read)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --arch"),
        (["--arch", "resnet18"], "cannot be filtered"),
        (["--checkpoint", "nowhere.pt"], "there is none at nowhere.pt"),
        ([*MODEL, "--stages", "label,filter"], "add the stage `backbone`"),
        ([*MODEL, "--stages", "backbone,filter"], "needs labels"),
        ([*MODEL, "--keep", "2000"], "16 patch tokens, got 2000"),
        ([*MODEL, "--set", "finetune.fixed_keep=2000"], "16 patch tokens, got 2000"),
        ([*MODEL, "--set", "filter.width=0"], "filter.width"),
        ([*MODEL, "--labels", "nowhere"], "nowhere has no labels"),
        ([*MODEL, "-o", "."], "expected the name of a file"),
        ([*MODEL, "-o", "file/model.pt"], "is a file, not a folder"),
        ([*MODEL, "--run-dir", "file"], "expected the name of a folder"),
        (["--checkpoint", "BUNDLE", "--crop-pct", "0.5"], "crop_pct of its own (1, got 0.5)"),
        (["--checkpoint", "BUNDLE", "--set", "data.crop_pct=0.5"], "crop_pct of its own (1, got 0.5)"),
        (["--checkpoint", "BUNDLE", "--mean", "0.5"], "leave --mean out"),
        ([*MODEL, "--reducer", "evit", "--set", "reducer.stages=4,7"], "acts at blocks 4, 7, and this model has 1 bl"),
        (
            [*MODEL, "--reducer", "tome", "--set", "reducer.fuse=true"],
            "the settings of tome are stages, schedule, got 'fuse'",
        ),
        ([*MODEL, "--reducer", "evit", "--set", "finetune.token_cut=20"], "token-cut loss is that of the reducer idle"),
        ([*MODEL, "--set", "finetune.token_cut=20"], "token-cut loss is that of the reducer idle"),
        ([*MODEL, "--reducer", "tome", "--keep", "0.25"], "tome needs a budget of at least 8 of this model's 16 patch"),
        ([*MODEL, "--reducer", "tome", "--set", "finetune.fixed_keep=3"], "tome needs a budget of at least 8 of this"),
        (
            [*MODEL, "--reducer", "idle", "--arch-arg", "class_token=False", "--arch-arg", "global_pool=avg"],
            "idle ranks tokens by the class token",
        ),
        (
            ["--arch", "eva02_tiny_patch14_224", "--arch-arg", "img_size=28", "--reducer", "tome"],
            "tome cannot act in Eva: its blocks rotate queries and keys",
        ),
        (["--checkpoint", "MASKS"], "gives masks, and `tokfilter train` and `tokfilter label` read class labels"),
    ],
)
def test_train_refuses_options_before_the_first_image_is_read(
    data, bundle, mask_bundle_file, tmp_path, monkeypatch, no_image_is_read, arguments, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    arguments = [{"BUNDLE": bundle, "MASKS": mask_bundle_file}.get(value, value) for value in arguments]
    result = tokfilter("train", data, *([] if "-o" in arguments else ["-o", "m.pt"]), *arguments)
    assert result.exit_code in (1, 2) and words in " ".join(result.output.split()), result.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_label_refuses_options_before_the_first_image_is_read(data, bundle, tmp_path, no_image_is_read):
    def refused(*arguments):
        result = tokfilter("label", data, *arguments)
        assert result.exit_code in (1, 2), result.output
        return " ".join(result.output.split())

    (tmp_path / "file").write_text("")
    assert "expected the name of a folder" in refused(bundle, "-o", tmp_path / "file")
    assert "labels.chunk" in refused(bundle, "-o", tmp_path / "out", "--set", "labels.chunk=0")
    assert "crop_pct of its own" in refused(bundle, "-o", tmp_path / "out", "--crop-pct", "0.5")
    assert "there is none at" in refused(tmp_path / "none.pt", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_of_fewer_images_name_the_option(data, bundle, tmp_path):
    limit = ["--set", "labels.limit=20"]
    assert tokfilter("label", data, bundle, "-o", tmp_path / "labels", *limit).exit_code == 0
    arguments = ["train", data, "--checkpoint", bundle, "--labels", tmp_path / "labels", "--stages", "filter", *QUICK]
    result = tokfilter(*arguments, "-o", tmp_path / "m.pt")
    words = " ".join(result.output.split())
    assert result.exit_code == 1 and "They are of 20 images, this run uses 64" in words
    assert "--set labels.limit=20" in words
    again = tokfilter("label", data, bundle, "-o", tmp_path / "labels", *limit, "--set", "labels.mask=mean")
    assert again.exit_code == 1 and "made with other mask" in again.output
    assert tokfilter(*arguments, "-o", tmp_path / "m.pt", *limit).exit_code == 0


def test_an_existing_bundle_is_not_replaced_silently(data, bundle, tmp_path):
    output = tmp_path / "model.pt"
    output.write_bytes(b"mine")
    arguments = ["train", data, "-o", output, "--checkpoint", bundle, "--stages", "finetune", *QUICK]
    result = tokfilter(*arguments)
    assert result.exit_code == 2 and "--overwrite replaces it" in " ".join(result.output.split())
    assert output.read_bytes() == b"mine" and not (tmp_path / "model.pt.work").exists()
    assert tokfilter(*arguments, "--overwrite").exit_code == 0
    written = load_bundle(output).training
    assert tokfilter(*arguments, "--resume").exit_code == 0  # every stage is done: the same bundle again
    assert load_bundle(output).training == written


def test_two_runs_do_not_share_a_folder_or_a_bundle(data, bundle, tmp_path, monkeypatch):
    from tokfilter.artifacts.locks import held
    from tokfilter.train import pipeline

    path = tmp_path / "model.pt"
    command = ["train", data, "--checkpoint", bundle, "--stages", "finetune", *QUICK, "-o", path]
    work = tmp_path / "model.pt.work"
    work.mkdir()
    with held(work):
        result = tokfilter(*command, "--overwrite")
        assert result.exit_code == 1 and f"another process writes in {work}: wait until it has ended" in result.stderr
        labels = tokfilter("label", data, bundle, "-o", work)
        assert labels.exit_code == 1 and f"another process writes in {work}" in labels.stderr
    assert list(work.iterdir()) == []
    evaluate = pipeline.evaluate

    def evaluated(*arguments, **options):
        path.write_text("of another run")
        return evaluate(*arguments, **options)

    monkeypatch.setattr(pipeline, "evaluate", evaluated)
    result = tokfilter(*command)
    assert result.exit_code == 1 and "was written by another run meanwhile and is not overwritten" in result.stderr
    assert path.read_text() == "of another run"
    other = tmp_path / "other.pt"
    result = tokfilter(*command[:-1], other, "--resume", "--run-dir", work)
    assert result.exit_code == 0, result.output
    assert "finetune" in load_bundle(other).training


def test_a_reducer_is_trained_with_its_settings_and_its_bundle_is_trained_on(data, tmp_path):
    depth = [{"depth=1": "depth=2"}.get(value, value) for value in MODEL]
    options = ["--reducer", "frequency", "--set", "reducer.stages=2", "--set", "reducer.windows=1"]
    first = tokfilter("train", data, "-o", tmp_path / "m.pt", *depth, *options, *QUICK, *UNCROPPED)
    assert first.exit_code == 0, first.output
    before = load_bundle(tmp_path / "m.pt")
    assert before.reducer.as_dict() == {"name": "frequency", "settings": {"stages": [2], "windows": [1]}}
    again = [
        "--checkpoint",
        tmp_path / "m.pt",
        *QUICK,
        "--set",
        "finetune.lr=1e-9",
        "--set",
        "finetune.distill_features=1",
    ]
    result = tokfilter("train", data, "-o", tmp_path / "again.pt", *again)
    assert result.exit_code == 0, result.output
    after = load_bundle(tmp_path / "again.pt")
    assert after.reducer == before.reducer and after.training["finetune"]["distill_features"] == 1.0
    assert "label" not in after.training and float(before.filter["w1"].abs().sum()) > 0
    for old, new in ((before.filter, after.filter), (before.backbone, after.backbone)):
        assert old.keys() == new.keys()
        assert all(torch.allclose(value, new[name], atol=1e-6) for name, value in old.items())
    other = tokfilter("train", data, "-o", tmp_path / "evit.pt", *again[:6], "--reducer", "evit")
    assert other.exit_code == 0, other.output
    assert load_bundle(tmp_path / "evit.pt").reducer.name == "evit"
