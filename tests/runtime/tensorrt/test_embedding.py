"""The TensorRT session with a model that gives an embedding, on a fake TensorRT."""

from dataclasses import replace

import numpy as np
import pytest

from tokfilter.artifacts.golden import golden_of
from tokfilter.errors import EngineError, VerificationError
from tokfilter.runtime.tensorrt_session import TensorRTSession
from tokfilter.runtime.verification import verify


@pytest.fixture
def source(embedding_folder):
    return embedding_folder / "out"


@pytest.mark.parametrize("graph", [False, True])
def test_a_session_gives_the_embedding_and_verify_names_it(plan, fake, graph):
    golden = golden_of(plan.directory, plan.manifest)
    with TensorRTSession(plan, cuda_graph=graph) as session:
        assert [spec.name for spec in session.outputs] == ["embedding", "indices"]
        assert session.outputs[0].shape == ("batch", 24)
        found = session.run(golden.images, 8)
        np.testing.assert_allclose(found.embedding, golden.logits[8], atol=1e-4)
        verdict = verify(session, plan, golden, 2, 8)
        assert verdict.compared == "embedding and indices" and verdict.largest_difference < 1e-3
        assert verdict.same_top1 is None
        changed = replace(golden, logits={**golden.logits, 8: golden.logits[8][:, ::-1].copy()})
        with pytest.raises(VerificationError, match=r"8 tokens: embedding [\d.]+ \(") as error:
            verify(session, plan, changed, 2, 8)
        assert "class" not in str(error.value) and "logit" not in str(error.value)


def test_a_plan_that_calls_its_output_logits_is_refused(plan, fake):
    fake.engine.names = ("images", "slots", "logits", "indices")
    fake.engine.output = "logits"
    with pytest.raises(EngineError, match="an output embedding; this one has .*logits.* Export again"):
        TensorRTSession(plan).__enter__()
