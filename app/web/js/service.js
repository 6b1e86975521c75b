// The service's routes, its errors in its own words, and its token where it needs one.

/** What the service answered instead: `message` is its detail, `problem` the whole problem+json. */
export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `The server answered ${status}.`);
    this.status = status;
    this.problem = problem;
  }
}

const TOKEN = "zoo-token";
const POLL_MS = 3000;
let askToken = async () => null;

/** `ask(isRefused)` resolves to the token that a person gave; `isRefused`: the one given before is not it. */
export function onTokenNeeded(ask) {
  askToken = ask;
}

export const token = () => sessionStorage.getItem(TOKEN);

/** Paths are relative to the page, so that a zoo can live below any path of a host. */
export async function request(path, options = {}) {
  const headers = { ...options.headers, ...(token() ? { Authorization: `Bearer ${token()}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The server cannot be reached. It may have been stopped." });
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401) {
    sessionStorage.setItem(TOKEN, await askToken("Authorization" in headers));
    return request(path, options);
  }
  throw new Problem(response.status, problem);
}

export async function get(path, options) {
  return (await request(path, options)).json();
}

/** Calls `look` every few seconds while the page can be seen, until aborted; a server that is away is asked again. */
export async function poll(look, signal) {
  while (!signal.aborted) {
    await new Promise((resume) => setTimeout(resume, POLL_MS));
    if (signal.aborted || document.hidden) continue;
    try {
      await look();
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof Problem)) throw error;
    }
  }
}

/** Follows Server-Sent Events until aborted: `take(event, record)` for each. EventSource could send no token. */
export async function follow(path, after, take, signal) {
  while (!signal.aborted) {
    try {
      const response = await request(`${path}?after=${after}`, { signal });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        const blocks = (rest + part.value).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s, 2)));
          if (fields.data === undefined) continue;
          after = Number(fields.id);
          take(fields.event, JSON.parse(fields.data));
        }
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      await new Promise((resume) => setTimeout(resume, 2000));
    }
  }
}
