// onnxruntime-node and onnxruntime-web (WASM, in Node): PACKAGE MODEL CASES. Answers as protocol.py has them.
import fs from "node:fs";

const [name, model, list] = process.argv.slice(2);
const ort = await import(name);
const cases = JSON.parse(fs.readFileSync(list, "utf8"));
let session;
for (const [number, { shape, tokens, images, output }] of cases.entries()) {
  const start = performance.now();
  let answer;
  try {
    session ??= await ort.InferenceSession.create(new Uint8Array(fs.readFileSync(model)));
    const bytes = fs.readFileSync(images);
    const pixels = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    const feeds = { images: new ort.Tensor("float32", pixels, shape) };
    if (tokens !== null) feeds.slots = new ort.Tensor("int32", new Int32Array(tokens), [tokens]);
    const { logits } = await session.run(feeds, ["logits"]);
    fs.writeFileSync(output, new Uint8Array(logits.data.buffer, logits.data.byteOffset, logits.data.byteLength));
    answer = { case: number, shape: logits.dims };
  } catch (error) {
    answer = { case: number, error: String(error).split("\n")[0].slice(0, 300) };
  }
  answer.seconds = (performance.now() - start) / 1000;
  console.log("PROBE " + JSON.stringify(answer));
}
process.exit(0);
