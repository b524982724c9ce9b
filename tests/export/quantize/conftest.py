"""Folders of images for the small model, which are of another size than it takes."""

import pytest
from quantize_images import CLASSES, write_images


@pytest.fixture(scope="session")
def labelled_folder(tmp_path_factory):
    """80 images, 16 of each class. For reading."""
    folder = tmp_path_factory.mktemp("labelled")
    for seed, name in enumerate(CLASSES):
        write_images(folder / name, 16, seed)
    return folder


@pytest.fixture(scope="session")
def pools(labelled_folder, bundle_file):
    from tokfilter.export.quantize.images import pools_from_folders
    from tokfilter.vit.bundle import load_bundle

    return pools_from_folders(labelled_folder, None, load_bundle(bundle_file).preprocessing, CLASSES, 5)
