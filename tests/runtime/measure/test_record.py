import json

import pytest

from tokfilter.runtime.measure.record import write_json


def test_write_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"value": 1.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"value": 1.5}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
