import pytest

from tokfilter.artifacts.golden import golden_of
from tokfilter.runtime.sessions import SessionOptions, open_session


@pytest.fixture(scope="module")
def session(export_directory):
    with open_session(export_directory, options=SessionOptions(threads=1)) as opened:
        yield opened


@pytest.fixture(scope="module")
def images(session):
    return golden_of(session.model_file.directory, session.model_file.manifest).tiled(8)
