import numpy as np
import pytest
from PIL import Image

from tokfilter.errors import DataError
from tokfilter.runtime.mask_pictures import classes_from_masks, mask_colours, mask_picture
from tokfilter.runtime.predict import Prediction, picture_from_prediction, probabilities_and_classes

VIEW = Image.fromarray(np.full((8, 12, 3), 100, np.uint8))


@pytest.mark.parametrize("count", [1, 2, 21, 150])
def test_classes_have_colours_of_their_own(count):
    colours = mask_colours(count)
    assert colours.shape == (count, 3)
    assert len(np.unique(colours.round(), axis=0)) == count


def test_pixels_have_the_colour_of_their_class_and_the_background_stays():
    classes = np.array([[0, 1, 2], [0, 0, 2]])
    found = np.asarray(mask_picture(VIEW, classes, ["Background", "cat", "dog"], scale=2)).astype(int)
    assert found.shape == (16, 24, 3)
    assert (found[:, :8] == 100).all() and (found[8:, 8:16] == 100).all()
    expected = 0.4 * 100 + 0.6 * mask_colours(3)
    assert np.abs(found[0, 8] - expected[1]).max() <= 1 and np.abs(found[15, 23] - expected[2]).max() <= 1


def test_masks_need_no_names_and_no_common_divisor_with_the_view():
    picture = mask_picture(VIEW, np.arange(35).reshape(5, 7) % 3, [])
    assert picture.size == (12, 8)


def test_a_class_without_a_name_is_refused():
    with pytest.raises(DataError, match="classes 0 to 2, and there are names for 2"):
        mask_picture(VIEW, np.array([[0, 2]]), ["sky", "sea"])


def test_areas_are_fractions_of_the_pixels_in_order():
    masks = np.zeros((3, 2, 4), np.float32)
    masks[2, 0], masks[1, 1, :1] = 5, 5
    probabilities, classes = probabilities_and_classes(masks)
    assert probabilities.shape == (3,) and abs(probabilities.sum() - 1) < 1e-9
    assert np.array_equal(classes, classes_from_masks(masks))
    found = Prediction(VIEW, (2, 3), probabilities, ["sky", "sea", "sand"], 4, np.array([0, 1, 2, 5]), classes=classes)
    assert [(area.name, area.probability) for area in found.areas] == [("sand", 0.5), ("sky", 0.375), ("sea", 0.125)]
    tokens = picture_from_prediction(Prediction(VIEW, (2, 3), probabilities, [], 4, found.indices))
    both = picture_from_prediction(found)
    assert both.height == tokens.height and both.width > 2 * tokens.width
