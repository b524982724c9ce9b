"""`tokfilter page`: a static folder that runs an export in the browser, every token beside the filtered ones.

index.html, style.css, icon.svg, js/     as in ``static/``, copied unchanged
page.json                                the model's properties, the files' sizes and SHA-256 sums
model.onnx, full.onnx                    the export's graphs
onnxruntime-web/                         ONNX Runtime for WebAssembly, from its npm package
samples/                                 pictures to start with
"""
