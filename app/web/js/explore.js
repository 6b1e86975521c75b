// Accuracy against size: every checkpoint a point, a budget to drag, and what the service then answers.

import { drawArchitecture } from "./architecture.js";
import { budgetControl, rangeOf, usual } from "./budget.js";
import { ask, inWords, latest, paramsOf } from "./choice.js";
import { drawConfusion } from "./confusion.js";
import { drawCard, drawClasses, drawCost, drawLineage, drawReadout } from "./detail.js";
import { h, notice, scroller } from "./dom.js";
import { COMPLEXITIES, count, percent } from "./format.js";
import { frontier } from "./frontier.js";
import { paperOf } from "./paper.js";
import { drawSnippets, snippetsOf } from "./snippets.js";
import { emptyZoo, loadDetail, loadFront } from "./zoo.js";

export const TITLE = "Explore";

export async function show(page, { zoo, choice, remember, again, signal }) {
  let items = zoo.items.filter((item) => item.dataset === choice.dataset);
  if (items.length === 0) return page.append(emptyZoo());
  choice.value ??= usual(choice.goal, rangeOf(items, choice.x));

  const chart = frontier({
    pick: (model) => change({ ...choice, model }),
    drag: (value) => change({ ...choice, value }),
    signal,
  });
  const told = h("div");
  const download = h("a", { class: "button primary" }, "Download");
  const attempt = h("a", { class: "button" }, "Try it");
  const actions = h("p", { class: "actions" }, download, attempt);
  const readout = h("div", { class: "readout", "aria-live": "polite" }, told, actions);
  const detail = h("div", { class: "detail" });
  const control = budgetControl(change);
  const axes = h("select", { onchange: () => turn(axes.value) }, Object.keys(COMPLEXITIES).map((x) => h("option", { value: x, selected: x === choice.x })));
  const intervals = checkbox("Show 95 % intervals", false, () => chart.draw(picture()));
  const sure = checkbox("With 95 % confidence", choice.sure, () => change({ ...choice, sure: sure.input.checked, model: null }));
  const paper = h("span", {}, h("i", { class: "key diamond" }), "SECNN paper, five trials");
  const distilled = h("span", {}, h("i", { class: "key ring" }), "distilled from a larger one");
  const table = drawTable();
  const partial = h("p", { class: "quiet" });
  let front = [];
  let shownId = null;

  const picture = () => ({ items, x: choice.x, front, withIntervals: intervals.input.checked });
  const addressOf = (view, next) => `#/${view}?${paramsOf(next)}`;

  /** What else depends on the zoo. */
  function list() {
    for (const option of axes.options) {
      const { axis: title } = COMPLEXITIES[option.value];
      option.disabled = items.every((item) => item[option.value] === null);
      option.textContent = option.disabled ? `${title} (not measured)` : title;
    }
    table.update(items);
    distilled.hidden = items.every((item) => item.distilled_from === null);
    partial.hidden = zoo.total <= zoo.items.length;
    partial.textContent = `The first ${count(zoo.items.length)} of ${count(zoo.total)} checkpoints are shown; the choice is made among all.`;
  }

  /** Links to checkpoints keep the rest of the choice. */
  function link() {
    download.href = addressOf("download", choice);
    attempt.href = addressOf("try", choice);
    for (const one of page.querySelectorAll("a[data-model]")) one.href = addressOf("explore", { ...choice, model: one.dataset.model });
  }

  const select = latest(async () => {
    try {
      const asked = choice; // It may change while the details are on their way; then this runs again.
      const found = await ask(asked, signal);
      told.replaceChildren(...drawReadout(inWords(asked), found));
      actions.hidden = false;
      chart.mark(found);
      if (shownId !== found.id) drawDetail(await loadDetail(found.id, signal));
      shownId = found.id;
      detail.querySelector(".lines").replaceChildren(drawSnippets(snippetsOf(asked, found.id)));
    } catch (error) {
      if (error.name === "AbortError") return;
      shownId = null;
      const nearest = error.problem?.best_available;
      const pick = () => change({ ...choice, model: nearest.id });
      told.replaceChildren(notice(error, nearest && h("button", { type: "button", onclick: pick }, `Show ${nearest.name}`)));
      actions.hidden = true;
      detail.replaceChildren();
      chart.mark(null);
    }
  });

  function change(next) {
    choice = { ...next, value: next.value ?? usual(next.goal, rangeOf(items, next.x)) };
    remember(paramsOf(choice));
    sure.input.checked = choice.sure;
    sure.element.hidden = choice.goal !== "accuracy";
    control.update(choice, rangeOf(items, choice.x));
    chart.place(choice);
    link();
    return select();
  }

  async function turn(x) {
    front = await loadFront(choice.dataset, x, signal);
    choice = { ...choice, x, value: choice.goal === "size" ? usual("size", rangeOf(items, x)) : choice.value };
    paper.hidden = paperOf(choice.dataset, x).length === 0;
    chart.draw(picture());
    await change(choice);
  }

  function drawDetail(found) {
    const parent = zoo.items.find((item) => item.id === found.parent);
    const origin = parent && h("a", { "data-model": parent.id }, parent.name);
    detail.replaceChildren(
      section("Architecture", drawArchitecture(found)),
      h(
        "div",
        { class: "columns" },
        section("Accuracy by class", drawClasses(found.descriptor)),
        h("div", {}, section("Lineage", ...drawLineage(found.descriptor, origin)), section("Cost", drawCost(found.descriptor))),
      ),
      section("Which class is taken for which", ...drawConfusion(found.descriptor)),
      section("Model card", drawCard(found, signal)),
      section("Commands for this choice", h("div", { class: "lines" })),
    );
    link();
  }

  /** Focus, budget and what was picked stay. */
  async function renew(next) {
    const found = next.items.filter((item) => item.dataset === choice.dataset);
    if (found.length === 0) return again();
    const { x } = choice;
    const above = await loadFront(choice.dataset, x, signal);
    if (choice.x === x) front = above; // else another axis was chosen meanwhile, with a front of its own
    [zoo, items] = [next, found];
    list();
    link();
    chart.draw(picture());
    control.update(choice, rangeOf(items, choice.x));
    const answer = await ask(choice, signal).catch(() => null);
    if (!answer || answer.id !== shownId) await select();
  }

  page.append(
    h("h1", {}, "How small is good enough?"),
    h("p", { class: "quiet lead" }, "Image classifiers of many sizes, grown in one training run: choose the smallest that is accurate enough, or the most accurate that is small enough; try it, and download it."),
    h(
      "div",
      { class: "workbench" },
      h(
        "section",
        { "aria-label": "Budget" },
        h("div", { class: "toolbar" }, h("label", {}, h("span", { class: "away" }, "Size measured in"), axes), intervals.element, sure.element),
        chart.element,
        legend(distilled, paper),
        control.element,
        table.element,
      ),
      readout,
    ),
    detail,
    partial,
  );
  list();
  paper.hidden = paperOf(choice.dataset, choice.x).length === 0;
  chart.draw(picture());
  const above = loadFront(choice.dataset, choice.x, signal);
  await change(choice);
  front = await above;
  chart.draw(picture());
  return renew;
}

function checkbox(text, checked, onchange) {
  const input = h("input", { type: "checkbox", checked, onchange });
  return { input, element: h("label", { class: "check" }, input, text) };
}

function legend(distilled, paper) {
  return h(
    "p",
    { class: "legend" },
    h("span", {}, h("i", { class: "key dot" }), "checkpoint"),
    distilled,
    h("span", {}, h("i", { class: "key front" }), "Pareto front"),
    paper,
    h("span", {}, h("i", { class: "key chosen" }), "chosen"),
  );
}

/** The chart in words, and a way to its points without a mouse: { element, update }. */
function drawTable() {
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

  const row = (item) =>
    h(
      "tr",
      {},
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
    const ids = new Set(items.map((item) => item.id));
    for (const [id, old] of rows) {
      if (ids.has(id)) continue;
      old.remove();
      rows.delete(id);
    }
    items.forEach((item, index) => {
      if (!rows.has(item.id)) rows.set(item.id, row(item));
      // A row that is moved would lose the focus.
      if (body.children[index] !== rows.get(item.id)) body.insertBefore(rows.get(item.id), body.children[index] ?? null);
    });
  }

  const table = h("table", {}, h("thead", {}, h("tr", {}, heads)), body);
  return { element: h("details", { class: "all" }, summary, scroller("All checkpoints", table)), update };
}

function section(title, ...children) {
  return h("section", {}, h("h2", {}, title), ...children);
}
