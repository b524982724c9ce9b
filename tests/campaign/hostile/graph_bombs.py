"""Functions that double or call themselves, and branches within branches, in ONNX files."""

from onnx import helper


def functions(model, rng):
    kind, depth = rng.choice(("doubling", "recursion", "twice", "chain")), rng.choice((5, 30, 2000))
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("bomb", 1)]
    made = []
    for i in range(depth if kind in ("doubling", "chain") else 1):
        name = "f0" if kind in ("recursion",) else f"f{i + 1}"
        step = "Identity" if kind in ("twice",) or (i == depth - 1 and kind != "recursion") else name
        domain = "" if step == "Identity" else "bomb"
        nodes = [
            helper.make_node(step, ["x"], ["y"], domain=domain),
            helper.make_node(step, ["y"], ["z"], domain=domain),
        ]
        made.append(
            helper.make_function(
                "bomb",
                f"f{i}",
                ["x"],
                ["z"],
                nodes[: 1 if kind == "chain" else 2]
                if kind != "chain"
                else [helper.make_node(step, ["x"], ["z"], domain=domain)],
                opset,
            )
        )
    if kind == "twice":
        made.append(made[0])
    model.functions.extend(made)
    if not any(one.domain == "bomb" for one in model.opset_import):
        model.opset_import.add(domain="bomb", version=1)
    node = next((one for one in model.graph.node if one.output), None)
    if node is None:
        return kind
    model.graph.node.append(helper.make_node("f0", [node.output[0]], ["bombed"], domain="bomb"))
    return f"{kind} {depth}"


def subgraphs(model, rng):
    depth = rng.choice((3, 60, 400))
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", [], [helper.make_tensor_value_info("y", 1, None)]
    )
    try:
        for _ in range(depth):
            node = helper.make_node("If", ["c"], ["y"])
            node.attribute.append(helper.make_attribute("then_branch", inner))
            inner = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", 1, None)])
        model.graph.node.extend(inner.node)
        model.SerializeToString()
    except Exception:  # protobuf limits the depth of what it writes
        del model.graph.node[-1:]
        return "too deep to write"
    return depth
