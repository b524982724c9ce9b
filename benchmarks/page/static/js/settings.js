// page.json: what the model is, written by `tokfilter page`. Names in it are data: they are shown as text only.
import { PageError } from "./errors.js";

export async function loadSettings(url = "page.json") {
  let settings;
  try {
    const answer = await fetch(url, { cache: "no-cache" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    settings = await answer.json();
  } catch (error) {
    throw new PageError(`page.json could not be read (${error.message}). Make the page again: tokfilter page.`);
  }
  if (settings.format !== "tokfilter-page" || settings.version !== 1) {
    throw new PageError("page.json is not of this page. Make the page again: tokfilter page.");
  }
  return settings;
}

// The budget k of a ratio: floor, at least one token (artifacts/budget.py).
export function tokensOf(ratio, patches) {
  return Math.max(1, Math.floor(ratio * patches + 1e-9));
}

export function className(settings, index) {
  return settings.class_names[index] ?? `class ${index}`;
}
