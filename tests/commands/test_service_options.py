"""Options of `tokfilter serve`: one for each limit, in the units that a user types."""

from dataclasses import fields

import click
import pytest
from click.testing import CliRunner

from tokfilter.commands.serve import serve
from tokfilter.commands.service_options import limits_from
from tokfilter.runtime.service.limits import Limits


def limits(*arguments):
    return limits_from(serve.make_context("serve", ["out", *arguments]).params)


def test_without_options_the_limits_are_the_defaults():
    found = limits()
    assert found == Limits()
    assert [type(value) for value in vars(found).values()] == [type(value) for value in vars(Limits()).values()]


def test_every_limit_has_an_option():
    assert {field.name for field in fields(Limits)} <= {parameter.name for parameter in serve.params}


def test_units_are_those_that_the_names_say():
    found = limits("--body-mb", "0.5", "--header-kb", "1.5", "--megapixels", "2", "--no-draft", "--wait-ms", "0")
    assert (found.body_bytes, found.header_bytes, found.pixels) == (500_000, 1536, 2_000_000)
    assert (found.draft, found.wait_ms) == (False, 0.0)


@pytest.mark.parametrize("option", ["--queue", "--decoders", "--per-address", "--header-kb", "--body-s"])
def test_values_below_the_least_are_refused(option):
    with pytest.raises(click.BadParameter, match="not in the range"):
        limits(option, "0")


def test_shapes_are_not_compiled_while_requests_wait():
    refused = CliRunner().invoke(serve, ["out", "--runtime", "openvino", "--fixed-shapes"])
    assert refused.exit_code == 2 and "--fixed-shapes compiles again for each number of images" in refused.output
