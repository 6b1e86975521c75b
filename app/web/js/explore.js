// Accuracy against size: every checkpoint a point, a budget to drag, and what the service then answers.

import { drawArchitecture } from "./architecture.js";
import { budgetControl, rangeOf, usual } from "./budget.js";
import { ask, inWords, latest, paramsOf } from "./choice.js";
import { drawConfusion } from "./confusion.js";
import { drawCard, drawClasses, drawCost, drawLineage, drawReadout } from "./detail.js";
import { h, notice } from "./dom.js";
import { filesOf } from "./elastic.js";
import { COMPLEXITIES, count } from "./format.js";
import { frontier } from "./frontier.js";
import { paperOf } from "./paper.js";
import { drawSnippets, snippetsOf } from "./snippets.js";
import { drawTable } from "./table.js";
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
  const elastic = h("span", {}, h("i", { class: "key levels" }), "levels of one file");
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
    elastic.hidden = filesOf(items).length === 0;
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
    const origin = parent ? h("a", { "data-model": parent.id }, parent.name) : found.parent && `${found.parent.slice(0, 12)}, which is not here`;
    detail.replaceChildren(
      section("Architecture", drawArchitecture(found)),
      h(
        "div",
        { class: "columns" },
        section("Accuracy by class", drawClasses(found.descriptor)),
        h("div", {}, section("Lineage", ...drawLineage(found.descriptor, origin)), section("Cost", drawCost(found.descriptor))),
      ),
      section("Confusion matrix", ...drawConfusion(found.descriptor)),
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
        legend(distilled, elastic, paper),
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

function legend(distilled, elastic, paper) {
  return h(
    "p",
    { class: "legend" },
    h("span", {}, h("i", { class: "key dot" }), "checkpoint"),
    distilled,
    elastic,
    h("span", {}, h("i", { class: "key front" }), "Pareto front"),
    paper,
    h("span", {}, h("i", { class: "key chosen" }), "chosen"),
  );
}

function section(title, ...children) {
  return h("section", {}, h("h2", {}, title), ...children);
}
