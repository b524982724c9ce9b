// A file of the page, held to the size and SHA-256 in page.json: a cut or changed model is not run.
import { PageError } from "./errors.js";

export async function checkedBytes(file) {
  const wrong = (found) =>
    new PageError(`${file.path} is not the file that page.json describes: ${found}. Make the page again: tokfilter page.`);
  let answer;
  try {
    // The sum in the address keeps a browser from taking the model of an older page out of its cache.
    answer = await fetch(new URL(`../${file.path}?${file.sha256.slice(0, 12)}`, import.meta.url));
  } catch (error) {
    throw new PageError(`${file.path} could not be loaded (${error.message}). Is the server still running?`);
  }
  if (!answer.ok) throw wrong(`the server answers with status ${answer.status}`);
  const bytes = await answer.arrayBuffer();
  if (bytes.byteLength !== file.bytes) throw wrong(`expected ${file.bytes} bytes, got ${bytes.byteLength}`);
  // Browsers offer SHA-256 on https and localhost only.
  if (globalThis.crypto?.subtle && (await digest(bytes)) !== file.sha256) throw wrong("its bytes have changed");
  return new Uint8Array(bytes);
}

async function digest(bytes) {
  const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(sum, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
