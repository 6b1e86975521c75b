// What the zoo holds, as far as a page can show it.

import { h } from "./dom.js";
import { get, request } from "./service.js";

const MAX_PAGES = 5;

/** { items, total, defaultDataset, datasets }: all checkpoints of all data sets, up to 1,000, the smallest first. */
export async function loadZoo(signal) {
  const listed = get("datasets", { signal });
  listed.catch(() => {}); // Awaited below, unless the first page of checkpoints fails before.
  const items = [];
  let total = 0;
  let next = "models?dataset=*&limit=200&prefer=params";
  for (let page = 0; next && page < MAX_PAGES; page += 1) {
    const response = await request(next, { signal });
    const answer = await response.json();
    items.push(...answer.items);
    total = answer.count;
    // The link is a path from the root; the page may live deeper.
    const following = response.headers.get("link")?.match(/<[^>?]*\?([^>]*)>;\s*rel="next"/);
    next = following && `models?${following[1]}`;
  }
  const defaultDataset = (await listed).items.find((dataset) => dataset.default)?.name ?? null;
  const datasets = [...new Set(items.map((item) => item.dataset))].sort();
  return { items, total, datasets, defaultDataset };
}

/** How many checkpoints there are, of all data sets. */
export async function countAll(signal) {
  return (await get("models?dataset=*&limit=1", { signal })).count;
}

const details = new Map();

/** One checkpoint with its descriptor; checkpoints never change, so each is asked for once. */
export async function loadDetail(id, signal) {
  if (!details.has(id)) details.set(id, await get(`models/${id}`, { signal }));
  return details.get(id);
}

export async function loadFront(dataset, x, signal) {
  return (await get(`models/pareto?${new URLSearchParams({ dataset, x })}`, { signal })).items;
}

export function emptyZoo() {
  return h(
    "div",
    { class: "empty" },
    h("h1", {}, "This zoo is empty"),
    h("p", {}, "Grow some checkpoints into its directory; they appear here within a few seconds:"),
    h("pre", { tabindex: "0" }, h("code", {}, "zoo-train digits --data digits --zoo DIR")),
  );
}
