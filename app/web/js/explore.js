// Accuracy against size: every checkpoint a point, a budget to drag, and what the service then answers.

import { drawArchitecture } from "./architecture.js";
import { budgetControl, rangeOf, usual } from "./budget.js";
import { plotly } from "./chart.js";
import { ask, inWords, latest, paramsOf } from "./choice.js";
import { drawClasses, drawCost, drawLineage, drawReadout } from "./detail.js";
import { h, notice, scroller } from "./dom.js";
import { COMPLEXITIES, count, percent } from "./format.js";
import { frontier } from "./frontier.js";
import { drawSnippets, snippetsOf } from "./snippets.js";
import { emptyZoo, loadDetail, loadFront } from "./zoo.js";

export const TITLE = "Explore";
export const prepare = plotly;

export async function show(page, { zoo, choice, remember, signal }) {
  const items = zoo.items.filter((item) => item.dataset === choice.dataset);
  if (items.length === 0) return page.append(emptyZoo());
  choice.value ??= usual(choice.goal, rangeOf(items, choice.x));

  const chart = await frontier({
    items,
    pick: (model) => change({ ...choice, model }),
    drag: (value) => change({ ...choice, value }),
    signal,
  });
  const readout = h("div", { class: "readout", "aria-live": "polite" });
  const detail = h("div", { class: "detail" });
  const control = budgetControl(change);
  const axes = h("select", { onchange: () => turn(axes.value) }, Object.entries(COMPLEXITIES).map(axisOption));
  const intervals = checkbox("Show 95 % intervals", false, () => chart.draw(picture()));
  const sure = checkbox("With 95 % confidence", choice.sure, () => change({ ...choice, sure: sure.input.checked, model: null }));
  let front = [];
  let shownId = null;

  const picture = () => ({ x: choice.x, front, withIntervals: intervals.input.checked });
  const addressOf = (view, next) => `#/${view}?${paramsOf(next)}`;

  function axisOption([name, { axis: title }]) {
    const known = items.some((item) => item[name] !== null);
    return h("option", { value: name, selected: name === choice.x, disabled: !known }, known ? title : `${title} (not measured)`);
  }

  const select = latest(async () => {
    try {
      const found = await loadDetail((await ask(choice, signal)).id, signal);
      if (shownId !== found.id) drawDetail(found);
      shownId = found.id;
      readout.replaceChildren(
        ...drawReadout(inWords(choice), found),
        h("p", { class: "actions" }, h("a", { class: "button primary", href: addressOf("download", choice) }, "Download"), h("a", { class: "button", href: addressOf("try", choice) }, "Try it")),
      );
      detail.querySelector(".lines").replaceChildren(drawSnippets(snippetsOf(choice, found.id)));
      chart.mark(found);
    } catch (error) {
      if (error.name === "AbortError") return;
      shownId = null;
      const nearest = error.problem?.best_available;
      const pick = () => change({ ...choice, model: nearest.id });
      readout.replaceChildren(notice(error, nearest && h("button", { type: "button", onclick: pick }, `Show ${nearest.name}`)));
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
    select();
  }

  async function turn(x) {
    front = await loadFront(choice.dataset, x, signal);
    choice = { ...choice, x, value: choice.goal === "size" ? usual("size", rangeOf(items, x)) : choice.value };
    await chart.draw(picture());
    change(choice);
  }

  function drawDetail(found) {
    const parent = zoo.items.find((item) => item.id === found.parent);
    const link = parent && h("a", { href: addressOf("explore", { ...choice, model: parent.id }) }, parent.name);
    detail.replaceChildren(
      section("Architecture", drawArchitecture(found.descriptor)),
      h(
        "div",
        { class: "columns" },
        section("Accuracy by class", drawClasses(found.descriptor)),
        h("div", {}, section("Lineage", ...drawLineage(found.descriptor, link)), section("Cost", drawCost(found.descriptor))),
      ),
      section("This choice, again", h("div", { class: "lines" })),
    );
  }

  page.append(
    h("h1", {}, "How small is good enough?"),
    h(
      "div",
      { class: "workbench" },
      h(
        "section",
        { "aria-label": "Budget" },
        h("div", { class: "toolbar" }, h("label", {}, h("span", { class: "away" }, "Size measured in"), axes), intervals.element, sure.element),
        chart.element,
        legend(choice.dataset),
        control.element,
        table(items, (item) => addressOf("explore", { ...choice, model: item.id })),
      ),
      readout,
    ),
    detail,
  );
  if (zoo.total > zoo.items.length) {
    const text = `The first ${count(zoo.items.length)} of ${count(zoo.total)} checkpoints are shown; the choice is made among all.`;
    page.append(h("p", { class: "quiet" }, text));
  }
  front = await loadFront(choice.dataset, choice.x, signal);
  await chart.start(picture());
  change(choice);
}

function checkbox(text, checked, onchange) {
  const input = h("input", { type: "checkbox", checked, onchange });
  return { input, element: h("label", { class: "check" }, input, text) };
}

function legend(dataset) {
  return h(
    "p",
    { class: "legend" },
    h("span", {}, h("i", { class: "key dot" }), "checkpoint"),
    h("span", {}, h("i", { class: "key front" }), "nothing is smaller and better"),
    dataset === "cifar10" && h("span", {}, h("i", { class: "key diamond" }), "SECNN paper, five trials"),
    h("span", {}, h("i", { class: "key chosen" }), "chosen"),
  );
}

/** The chart in words, and a way to its points without a mouse. */
function table(items, addressOf) {
  const head = ["Checkpoint", "Parameters", "Multiply-accumulates", "Bytes", "Accuracy"];
  const rows = items.map((item) =>
    h(
      "tr",
      {},
      h("td", {}, h("a", { href: addressOf(item) }, item.name)),
      [count(item.params), count(item.macs), count(item.bytes), percent(item.accuracy, 2)].map((text) => h("td", { class: "number" }, text)),
    ),
  );
  return h(
    "details",
    { class: "all" },
    h("summary", {}, `All ${items.length} as a table`),
    scroller("All checkpoints", h("table", {}, h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows))),
  );
}

function section(title, ...children) {
  return h("section", {}, h("h2", {}, title), ...children);
}
