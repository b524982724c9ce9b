// The page: settings, models, sources of pictures, and the panes that show the answers.
import { Budget } from "./budget.js";
import { Engine } from "./engine.js";
import { sentence } from "./errors.js";
import { Loop } from "./loop.js";
import { Pane } from "./pane.js";
import { loadSettings } from "./settings.js";
import { Sources } from "./sources.js";

const byId = (id) => document.getElementById(id);

function failed(text) {
  byId("failure").textContent = text;
  byId("failure").hidden = false;
  document.body.classList.remove("loading");
}

async function main() {
  const engine = new Engine(); // first: its worker loads while the rest is set up
  const settings = await loadSettings();
  describe(settings);
  const panes = { filtered: new Pane(byId("filtered"), settings), full: new Pane(byId("full"), settings) };
  const best = {};

  function show(name, answer, picture) {
    byId("failure").hidden = true;
    document.body.classList.remove("loading");
    best[name] = panes[name].show(answer, picture);
    const same = best.full?.name === best.filtered.name;
    byId("agrees").textContent = best.full ? (same ? "same class" : "another class") : "";
    byId("agrees").dataset.same = same;
    // Read aloud for a picture that stands still; a live one would never stop.
    if (!loop.frames && name === "filtered") {
      byId("spoken").textContent = `${answer.tokens} tokens: ${best.filtered.name}, ${best.filtered.percent}`;
    }
  }

  function timed() {
    const [full, filtered] = [loop.milliseconds("full"), loop.milliseconds("filtered")];
    panes.full.showTime(full);
    panes.filtered.showTime(filtered);
    byId("ratio").textContent = full && filtered ? `${(full / filtered).toFixed(2)}×` : "…";
    byId("ratio").classList.toggle("settling", !loop.settled);
  }

  const loop = new Loop(engine, settings, { show, timed, failed });
  new Budget(byId("budget"), settings, (tokens) => {
    loop.setTokens(tokens);
    timed();
  });
  const sources = new Sources(settings, {
    picture: (picture) => loop.setPicture(picture),
    live: (frames) => loop.setLive(frames),
    failed,
  });
  await engine.start(settings);
  byId("threads").textContent = engine.threads === 1 ? "one thread" : `${engine.threads} threads`;
  loop.setTokens(settings.keep); // opens the model while the first picture is decoded
  if (settings.samples.length) sources.choose(0);
  else document.body.classList.remove("loading");
}

function describe(settings) {
  const { width, height } = settings.preprocessing;
  document.title = `${settings.architecture}: fewer tokens, live`;
  byId("model").textContent = settings.architecture;
  byId("patches").textContent = settings.patches;
  byId("size").textContent = `${width} × ${height} pixels, ${settings.patches} patch tokens, ${settings.classes} classes`;
  byId("precision").textContent = settings.precision;
  byId("engine").textContent = `ONNX Runtime Web ${settings.onnxruntime_web} (WebAssembly, SIMD)`;
}

main().catch((error) => failed(sentence(error)));
