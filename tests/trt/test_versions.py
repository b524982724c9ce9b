"""The table of TensorRT's versions and ways."""

import itertools
from types import SimpleNamespace

import pytest

from tokfilter.errors import EngineError
from tokfilter.trt.versions import RTX_WAY, WAYS, creation_flags, way_of


def module(version, name="tensorrt", **flags):
    return SimpleNamespace(__name__=name, __version__=version, NetworkDefinitionCreationFlag=SimpleNamespace(**flags))


@pytest.mark.parametrize(
    ("version", "graph", "plugin", "precision"),
    [
        ("8.5.2.2", "tensorrt-8.5", "IPluginV2DynamicExt", "layers"),
        ("8.6.0", "tensorrt-8.6", "IPluginV2DynamicExt", "layers"),
        ("8.6.1.post1", "tensorrt-8.6", "IPluginV2DynamicExt", "layers"),
        ("10.3.0", "typed", "IPluginV3", "types"),
        ("10.16.1.11", "typed", "IPluginV3", "types"),
        ("11.0.0", "typed", "IPluginV3", "types"),
        ("11.4.1", "typed", "IPluginV3", "types"),
    ],
)
def test_each_supported_version_has_one_way(version, graph, plugin, precision):
    way = way_of(module(version))
    assert (way.graph, way.plugin, way.precision) == (graph, plugin, precision)


@pytest.mark.parametrize("version", ["7.2.1", "8.0.1", "8.4.3", "9.3.0", "10.0.1", "10.2.0"])
def test_other_versions_are_refused_with_what_is_supported(version):
    with pytest.raises(EngineError, match=rf"TensorRT {version} is not supported: expected 8.5, 8.6, 10.3.*JetPack"):
        way_of(module(version))


def test_the_ways_do_not_overlap_and_are_in_order():
    for earlier, later in itertools.pairwise(WAYS):
        assert earlier.first <= earlier.last < later.first <= later.last
    assert len({way.name for way in WAYS}) == len(WAYS)
    assert not [way for way in WAYS if (way.precision == "types") != (way.graph == "typed")]


def test_rtx_has_a_way_of_its_own_whatever_its_number():
    assert way_of(module("1.7.1", "tensorrt_rtx")) is RTX_WAY
    assert RTX_WAY.plugin is None


def test_networks_have_a_batch_dimension_in_8_and_strong_types_later():
    assert creation_flags(module("8.6.0", EXPLICIT_BATCH=0, EXPLICIT_PRECISION=1)) == 1
    assert creation_flags(module("10.3.0", STRONGLY_TYPED=1)) == 2
    assert creation_flags(module("11.4.1")) == 0, "every network of 11 is strongly typed"
