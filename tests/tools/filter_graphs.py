"""Every form of a small filtered model's graph, run in ONNX Runtime and compared with torch."""

import numpy as np
import onnx
import torch

from tokfilter.export.graph import fixed_graph_from_slots, full_graph_from_slots, slots_graph_from_model
from tokfilter.export.onnx_file import cpu_session, save_graph


def forms_that_equal_torch(model, images, budgets, folder):
    """Form and budget -> its graph, once all of them give the model's logits. budgets: fewer than every token."""
    slots, patches = slots_graph_from_model(model), model.num_patches
    graphs = {f"slots {k}": (slots.clone(), k) for k in (*budgets, patches)}
    graphs |= {f"fixed {k}": (fixed_graph_from_slots(slots, k), k) for k in budgets}
    graphs["full"] = full_graph_from_slots(slots, patches), patches
    for name, (graph, k) in graphs.items():
        path = folder / f"{name}.onnx"
        save_graph(graph, path)
        onnx.checker.check_model(str(path), full_check=True)
        feed = {"images": images.numpy()} | ({"slots": np.zeros(k, np.int32)} if "slots" in name else {})
        found = cpu_session(path, "fp32").run(None, feed)[0]
        with torch.inference_mode():
            np.testing.assert_allclose(found, model(images, k).numpy(), rtol=1e-4, atol=2e-6)
    return {name: graph for name, (graph, _) in graphs.items()}
