"""Reference, torch op and ONNX function agree with the contract."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tokfilter.errors import ContractError
from tokfilter.kernels.onnx_function import token_select_function
from tokfilter.kernels.op import ATTRIBUTES, DOMAIN, NAME, ORDERS, VERSION, check_call
from tokfilter.kernels.reference import token_select as reference
from tokfilter.kernels.torch_op import token_select

SPECIAL = [0.0, -0.0, 1.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45]


@st.composite
def calls(draw):
    batch, patches, channels = draw(st.integers(1, 3)), draw(st.integers(1, 40)), draw(st.integers(1, 5))
    prefix, k = draw(st.integers(0, 5)), draw(st.integers(1, patches))
    values = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32))
    scores = draw(st.lists(values, min_size=batch * patches, max_size=batch * patches))
    tokens = np.arange(batch * (prefix + patches) * channels, dtype=np.float32)
    return (
        tokens.reshape(batch, prefix + patches, channels),
        np.array(scores, np.float32).reshape(batch, patches),
        k,
        prefix,
        draw(st.sampled_from(ORDERS)),
    )


def by_hand(scores, k, order):
    """The contract in plain Python, one image at a time."""
    kept = []
    for row in scores:
        keyed = [(-(-np.inf if np.isnan(s) else float(s) + 0.0), i) for i, s in enumerate(row)]
        best = [i for _, i in sorted(keyed)[:k]]
        kept.append(sorted(best) if order == "position" else best)
    return np.array(kept, np.int32)


@settings(deadline=None)
@given(calls())
def test_the_reference_keeps_the_contract(call):
    tokens, scores, k, prefix, order = call
    selected, indices = reference(tokens, scores, k, prefix, order)
    expected = by_hand(scores, k, order)
    np.testing.assert_array_equal(indices, expected)
    for image, rows in enumerate(expected):
        np.testing.assert_array_equal(selected[image, :prefix], tokens[image, :prefix])
        np.testing.assert_array_equal(selected[image, prefix:], tokens[image, prefix + rows])
    assert indices.dtype == np.int32


@settings(deadline=None)
@given(calls())
def test_torch_equals_the_reference(call):
    tokens, scores, k, prefix, order = call
    selected, indices = token_select(torch.from_numpy(tokens), torch.from_numpy(scores), k, prefix, order)
    expected, positions = reference(tokens, scores, k, prefix, order)
    np.testing.assert_array_equal(selected.numpy(), expected)
    np.testing.assert_array_equal(indices.numpy(), positions)
    assert indices.dtype == torch.int32


def model_of_one_node(budget, order, k, prefix, channels, opset, rows="flat", constants=False):
    numbers = (k, prefix, True)
    attributes = {"prefix_tokens": prefix, "order": order} | ({"k": k} if budget == "attribute" else {})
    inputs = ["tokens", "scores"] + (["slots"] if budget == "slots" else [])
    node = helper.make_node(NAME, inputs, ["selected", "indices"], domain=DOMAIN, **attributes)
    value = helper.make_tensor_value_info
    graph_inputs = [value("tokens", TensorProto.FLOAT, ["B", "T", channels]), value("scores", 1, ["B", "N"])]
    if budget == "slots":
        graph_inputs.append(value("slots", TensorProto.INT32, ["k"]))
    outputs = [value("selected", 1, ["B", "M", channels]), value("indices", TensorProto.INT32, ["B", "K"])]
    model = helper.make_model(
        helper.make_graph([node], "one_node", graph_inputs, outputs),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)],
        functions=[token_select_function(opset, budget, order, rows, *(numbers if constants else ()))],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


BODIES = [("flat", False), ("flat", True), ("cuda", False), ("cuda", True)]


@settings(max_examples=60, deadline=None)
@given(calls(), st.sampled_from(["slots", "attribute"]), st.sampled_from([12, 13, 18, 21]), st.sampled_from(BODIES))
def test_the_onnx_function_equals_the_reference(call, budget, opset, body):
    tokens, scores, k, prefix, order = call
    model = model_of_one_node(budget, order, k, prefix, tokens.shape[2], opset, *body)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"tokens": tokens, "scores": scores} | ({"slots": np.zeros(k, np.int32)} if budget == "slots" else {})
    selected, indices = session.run(None, feeds)
    expected, positions = reference(tokens, scores, k, prefix, order)
    np.testing.assert_array_equal(indices, positions)
    np.testing.assert_array_equal(selected, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_types_select_the_same_tokens(dtype):
    scores = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    tokens = torch.randn(4, 52, 3).to(dtype)
    narrow = scores.float().numpy().astype(ml_dtypes.bfloat16 if dtype == torch.bfloat16 else np.float32)
    selected, indices = token_select(tokens, scores, 20, 2, "score")
    expected, positions = reference(tokens.float().numpy(), narrow, 20, 2, "score")
    np.testing.assert_array_equal(indices.numpy(), positions)
    np.testing.assert_array_equal(selected.float().numpy(), expected)


def test_non_contiguous_input():
    tokens = torch.randn(7, 2, 12).transpose(0, 1)[:, :, ::2]
    scores = torch.randn(6, 2).t()
    selected, indices = token_select(tokens, scores, 3)
    again, positions = token_select(tokens.contiguous(), scores.contiguous(), 3)
    assert torch.equal(selected, again)
    assert torch.equal(indices, positions)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own checker reads it
def test_torchs_opcheck_passes():
    tokens = torch.randn(2, 9, 4, requires_grad=True)
    arguments = (tokens, torch.randn(2, 8), 3, 1, "position")
    results = torch.library.opcheck(torch.ops.tokfilter.token_select.default, arguments)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("order", ORDERS)
def test_the_gradient_flows_to_the_kept_rows(order):
    tokens = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    scores = torch.randn(2, 7, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: token_select(t, scores, 4, 2, order)[0], tokens)
    token_select(tokens, scores, 4, 2, order)[0].sum().backward()
    assert scores.grad is None
    assert tokens.grad.sum().item() == 2 * (2 + 4) * 3


@pytest.mark.parametrize(
    ("tokens", "scores", "k", "prefix", "order", "words"),
    [
        ((1, 5, 2), (1, 4), 5, 1, "position", "between 1 and 4"),
        ((1, 5, 2), (1, 4), 0, 1, "position", "between 1 and 4"),
        ((1, 5, 2), (1, 4), 2, -1, "position", "prefix_tokens >= 0"),
        ((1, 5, 2), (1, 4), 2, 0, "position", r"need scores \[1, 5\]"),
        ((2, 5, 2), (1, 4), 2, 1, "position", "one score per patch"),
        ((1, 5, 2), (1, 4), 2, 1, "random", "position, score"),
        ((1, 5), (1, 4), 2, 1, "position", "channels"),
        ((1, 5, 0), (1, 4), 2, 1, "position", "no empty dimension"),
        ((1, 1, 2), (1, 0), 0, 1, "position", "no empty dimension"),
        ((0, 5, 2), (0, 4), 2, 1, "position", "no empty dimension"),
    ],
)
def test_violations_are_named(tokens, scores, k, prefix, order, words):
    for call in (
        lambda: check_call(tokens, scores, k, prefix, order),
        lambda: reference(np.zeros(tokens), np.zeros(scores, np.float32), k, prefix, order),
        lambda: token_select(torch.zeros(tokens), torch.zeros(scores), k, prefix, order),
    ):
        with pytest.raises(ContractError, match=words):
            call()


def test_scores_of_another_type_are_refused():
    with pytest.raises(ContractError, match="got int64"):
        reference(np.zeros((1, 3, 1)), np.zeros((1, 2), np.int64), 1)
    with pytest.raises(ContractError, match=r"got torch.float64"):
        token_select(torch.zeros(1, 3, 1), torch.zeros(1, 2, dtype=torch.float64), 1)


@pytest.mark.parametrize(
    ("opset", "budget", "order"), [(11, "slots", "position"), (18, "k", "position"), (18, "slots", "x")]
)
def test_unsupported_functions_are_refused(opset, budget, order):
    with pytest.raises(ContractError, match="expects opset >= 12"):
        token_select_function(opset, budget, order)


def test_domain_name_and_version():
    assert (DOMAIN, NAME, VERSION) == ("tokfilter", "TokenSelect", "1")
    function = token_select_function(18, "slots", "position")
    assert (function.domain, function.name) == (DOMAIN, NAME)
    assert [a.name for a in function.attribute_proto] == list(ATTRIBUTES)
    outputs = [output for node in function.node for output in node.output]
    assert len(outputs) == len(set(outputs))
