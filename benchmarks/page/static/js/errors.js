// A failure that the reader of the page can act on: its message is a sentence that is shown as it is.
export class PageError extends Error {}

export function sentence(error) {
  if (error instanceof PageError) return error.message;
  return `The page failed: ${error?.message ?? error}`;
}
