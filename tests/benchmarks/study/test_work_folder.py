"""A work folder belongs to its settings."""

import pytest

from tokfilter.benchmarks.study.work_folder import check_work_folder
from tokfilter.errors import DataError


def test_a_folder_takes_the_settings_that_it_was_made_with_and_no_others(tmp_path):
    folder = tmp_path / "new" / "work"
    check_work_folder(folder, [1, {"precision": "fp32"}, (2, 3)])
    check_work_folder(folder, [1, {"precision": "fp32"}, [2, 3]])
    with pytest.raises(DataError, match="holds results of other settings"):
        check_work_folder(folder, [1, {"precision": "bf16"}, [2, 3]])
    check_work_folder(folder, "other", "other.json")
    assert sorted(path.name for path in folder.iterdir()) == ["other.json", "setting.json"]
