// All checkpoints as a table, sorted by any column; the levels of one file stand together.

import { h, scroller } from "./dom.js";
import { filesOf } from "./elastic.js";
import { count, percent, plural } from "./format.js";

/** The chart in words, and a way to its points without a mouse: { element, update }. */
export function drawTable() {
  const columns = {
    Checkpoint: (item) => item.name,
    Parameters: (item) => item.params,
    "Multiply-accumulates": (item) => item.macs,
    Bytes: (item) => item.bytes,
    Accuracy: (item) => item.accuracy ?? -1,
    Distilled: (item) => (item.distilled_from ? 1 : 0),
  };
  let shown = [];
  let order = { by: "Parameters", descending: false };
  const heads = Object.keys(columns).map((name) => h("th", { scope: "col" }, h("button", { type: "button", class: "plain", onclick: () => sort(name) }, name)));
  const summary = h("summary");
  const body = h("tbody");
  const rows = new Map();

  /** What is drawn, in order, by id. The levels of a file stand together, below its head, where the first of them is due. */
  function grouped(items) {
    const lines = new Map();
    const files = new Map(filesOf(items).flatMap((file) => file.items.map((item) => [item.id, file])));
    for (const item of items) {
      const file = files.get(item.id);
      if (file) {
        lines.set(file.digest, () => fileRow(file));
        for (const level of items.filter((one) => files.get(one.id) === file)) lines.set(level.id, () => row(level, file));
      } else lines.set(item.id, () => row(item));
    }
    return lines;
  }

  const fileRow = (file) =>
    h("tr", { class: "file-row" }, h("td", { colspan: heads.length }, `One file, ${plural(file.numLevels, "level")} (${file.digest.slice(0, 8)})`));

  const row = (item, file) =>
    h(
      "tr",
      { class: file ? "level-row" : "" },
      h("td", {}, h("a", { "data-model": item.id }, item.name)),
      [count(item.params), count(item.macs), count(item.bytes), percent(item.accuracy, 2)].map((text) => h("td", { class: "number" }, text)),
      h("td", {}, item.distilled_from && `by ${item.distilled_from.slice(0, 8)}`),
    );

  function sort(name) {
    order = { by: name, descending: order.by === name && !order.descending };
    update(shown);
  }

  function update(given) {
    shown = given;
    const key = columns[order.by];
    const items = given.toSorted((one, other) => {
      const [a, b] = order.descending ? [key(other), key(one)] : [key(one), key(other)];
      return typeof a === "string" ? a.localeCompare(b) : a - b;
    });
    for (const head of heads) {
      if (head.textContent === order.by) head.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    summary.textContent = `All ${items.length} as a table`;
    const lines = grouped(items);
    for (const [id, old] of rows) {
      if (lines.has(id)) continue;
      old.remove();
      rows.delete(id);
    }
    [...lines].forEach(([id, draw], index) => {
      if (!rows.has(id)) rows.set(id, draw());
      // A row that is moved would lose the focus.
      if (body.children[index] !== rows.get(id)) body.insertBefore(rows.get(id), body.children[index] ?? null);
    });
  }

  const table = h("table", {}, h("thead", {}, h("tr", {}, heads)), body);
  return { element: h("details", { class: "all" }, summary, scroller("All checkpoints", table)), update };
}
