import tract
from protocol import run_cases


def prepare(model, case):
    """tract plans a graph for the shapes that it is given. Without ``slots`` the batch stays open, as in the file."""
    graph = tract.onnx().load(model)
    names = [graph.input_name(i) for i in range(graph.input_count())]
    facts = {"images": ",".join(map(str, case["shape"])) + ",f32", "slots": f"{case['tokens']},i32"}
    if "slots" in names:
        for i, name in enumerate(names):
            graph.set_input_fact(i, facts[name])
    graph.analyse()
    runnable = graph.into_model().into_runnable()
    return lambda feeds: runnable.run([feeds[name] for name in names])[0].to_numpy()  # logits are first


run_cases(prepare)
