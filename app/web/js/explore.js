// Accuracy against size: every checkpoint a point, a budget to drag, and what the service then answers.

import { drawArchitecture } from "./architecture.js";
import { budgetControl, rangeOf, rounded, usual } from "./budget.js";
import { axis, colors, CONFIG, layout, MARGIN, onTheme, plotly } from "./chart.js";
import { ask, inWords, latest, paramsOf } from "./choice.js";
import { drawClasses, drawCost, drawLineage, drawReadout } from "./detail.js";
import { h, notice, scroller } from "./dom.js";
import { amount, COMPLEXITIES, count, percent } from "./format.js";
import { PAPER } from "./paper.js";
import { drawSnippets, snippetsOf } from "./snippets.js";
import { emptyZoo, loadDetail, loadFront } from "./zoo.js";

export const TITLE = "Explore";

export async function show(page, { zoo, choice, remember, signal }) {
  const items = zoo.items.filter((item) => item.dataset === choice.dataset);
  if (items.length === 0) return page.append(emptyZoo());
  const Plotly = await plotly();

  const withPaper = choice.dataset === "cifar10";
  const plot = h("div", { class: "plot" });
  const line = h("div", { class: "budget-line", "aria-hidden": "true" }, h("span"));
  const shade = h("div", { class: "budget-shade", "aria-hidden": "true" });
  const chart = h("div", { class: "chart", role: "group", "aria-label": "Accuracy against size" }, shade, plot, line);
  const readout = h("div", { class: "readout", "aria-live": "polite" });
  const detail = h("div", { class: "detail" });
  const control = budgetControl(change);
  const axes = h("select", { onchange: () => turn(axes.value) }, Object.entries(COMPLEXITIES).map(axisOption));
  const intervals = checkbox("Show 95 % intervals", false, draw);
  const sure = checkbox("With 95 % confidence", choice.sure, () => change({ ...choice, sure: sure.input.checked, model: null }));

  let front = [];
  let selected = null;
  let shape = null;

  function axisOption([name, { axis: title }]) {
    const known = items.some((item) => item[name] !== null);
    return h("option", { value: name, selected: name === choice.x, disabled: !known }, known ? title : `${title} (not measured)`);
  }

  function checkbox(text, checked, onchange) {
    const input = h("input", { type: "checkbox", checked, onchange });
    return { input, element: h("label", { class: "check" }, input, text) };
  }

  // --- the choice ------------------------------------------------------------------------------------------

  const select = latest(async () => {
    try {
      const answer = await ask(choice, signal);
      const found = await loadDetail(answer.id, signal);
      if (selected?.id !== found.id) drawDetail(found);
      selected = found;
      const actions = [h("a", { class: "button primary", href: `#/download?${paramsOf(choice)}` }, "Download"), h("a", { class: "button", href: `#/try?${paramsOf(choice)}` }, "Try it")];
      readout.replaceChildren(...drawReadout(inWords(choice), found), h("p", { class: "actions" }, actions));
      detail.querySelector(".lines")?.replaceChildren(drawSnippets(snippetsOf(choice, found.id)));
    } catch (error) {
      if (error.name === "AbortError") return;
      selected = null;
      const nearest = error.problem?.best_available;
      const pick = () => change({ ...choice, model: nearest.id });
      readout.replaceChildren(notice(error, nearest && h("button", { type: "button", onclick: pick }, `Show ${nearest.name}`)));
      detail.replaceChildren();
    }
    markSelected();
  });

  function change(next) {
    choice = next;
    remember(paramsOf(choice));
    sure.input.checked = choice.sure;
    sure.element.hidden = choice.goal !== "accuracy";
    control.update(choice, rangeOf(items, choice.x));
    placeLine();
    select();
  }

  async function turn(x) {
    const range = rangeOf(items, x);
    const value = choice.goal === "size" ? usual("size", range) : choice.value;
    front = await loadFront(choice.dataset, x, signal);
    choice = { ...choice, x, value };
    await draw();
    change(choice);
  }

  // --- the chart -------------------------------------------------------------------------------------------

  async function draw() {
    const palette = colors();
    const { x } = choice;
    const measured = items.filter((item) => item.accuracy !== null && item[x] !== null);
    const paper = withPaper && x === "params" ? PAPER : [];
    const xs = [...measured.map((item) => item[x]), ...paper.map((point) => point.params)];
    const ys = [...measured.map((item) => item.accuracy), ...paper.map((point) => point.accuracy)];
    const xRange = [Math.log10(Math.min(...xs) * 0.8), Math.log10(Math.max(...xs) * 1.25)];
    const highest = Math.max(...ys, rangeOf(items, x).accuracy[1]);
    const yRange = [Math.min(...ys) - 0.02, Math.min(1.005, highest + 0.01)];
    shape = { xRange, yRange };
    const traces = [
      {
        x: front.map((item) => item[x]),
        y: front.map((item) => item.accuracy),
        mode: "lines",
        line: { shape: "hv", color: palette.ink, width: 1 },
        hoverinfo: "skip",
      },
      {
        x: paper.map((point) => point.params),
        y: paper.map((point) => point.accuracy),
        mode: "markers",
        marker: { symbol: "diamond-open", size: 8, color: palette.soft },
        hovertemplate: paper.map((point) => `SECNN paper, trial ${point.trial}<br>${count(point.params)} parameters, ${percent(point.accuracy)}<extra></extra>`),
      },
      {
        x: measured.map((item) => item[x]),
        y: measured.map((item) => item.accuracy),
        customdata: measured.map((item) => item.id),
        mode: "markers",
        marker: { size: 8, color: palette.ink },
        error_y: {
          visible: intervals.input.checked,
          type: "data",
          symmetric: false,
          array: measured.map((item) => item.accuracy_ci95[1] - item.accuracy),
          arrayminus: measured.map((item) => item.accuracy - item.accuracy_ci95[0]),
          color: palette.soft,
          thickness: 1,
          width: 3,
        },
        hovertemplate: measured.map((item) => `${item.name}<br>${amount(x, item[x])}, ${percent(item.accuracy, 2)}<extra></extra>`),
      },
      { x: [], y: [], mode: "markers", marker: { size: 15, color: palette.accent }, hoverinfo: "skip" },
    ];
    const shown = layout(palette, {
      xaxis: axis(palette, COMPLEXITIES[x].axis, { type: "log", range: xRange, dtick: "D2", tickformat: "~s", minorloglabels: "none" }),
      yaxis: axis(palette, "Test accuracy", { range: yRange, tickformat: ".0%" }),
    });
    await Plotly.react(plot, traces, shown, CONFIG);
    if (!plot.dataset.watched) {
      plot.dataset.watched = "yes";
      plot.on("plotly_click", ({ points: [point] }) => point.customdata && change({ ...choice, model: point.customdata }));
    }
    markSelected();
    placeLine();
  }

  function markSelected() {
    const { x } = choice;
    const shown = selected && selected[x] !== null && selected.accuracy !== null;
    Plotly.restyle(plot, { x: [shown ? [selected[x]] : []], y: [shown ? [selected.accuracy] : []] }, [3]);
  }

  /** Pixels of the plot area within the chart. */
  function area() {
    const { clientWidth: width, clientHeight: height } = chart;
    return { left: MARGIN.l, top: MARGIN.t, width: width - MARGIN.l - MARGIN.r, height: height - MARGIN.t - MARGIN.b };
  }

  function placeLine() {
    line.hidden = shade.hidden = choice.model !== null || choice.value === null;
    if (line.hidden || shape === null) return;
    const { left, top, width, height } = area();
    const byAccuracy = choice.goal === "accuracy";
    const [low, high] = byAccuracy ? shape.yRange : shape.xRange;
    const at = Math.min(1, Math.max(0, ((byAccuracy ? choice.value : Math.log10(choice.value)) - low) / (high - low)));
    const place = (element, box) => Object.entries(box).forEach(([name, value]) => (element.style[name] = `${value}px`));
    line.classList.toggle("upright", !byAccuracy);
    line.firstChild.textContent = byAccuracy ? `≥ ${percent(choice.value)}` : `≤ ${COMPLEXITIES[choice.x].brief(choice.value)}`;
    if (byAccuracy) {
      const y = top + (1 - at) * height;
      place(line, { left, top: y - 12, width, height: 24 });
      place(shade, { left, top: y, width, height: top + height - y });
    } else {
      const x = left + at * width;
      place(line, { left: x - 12, top, width: 24, height });
      place(shade, { left: x, top, width: left + width - x, height });
    }
  }

  function drag(event) {
    if (!line.hasPointerCapture(event.pointerId)) return;
    const box = chart.getBoundingClientRect();
    const { left, top, width, height } = area();
    const byAccuracy = choice.goal === "accuracy";
    const at = byAccuracy ? 1 - (event.clientY - box.top - top) / height : (event.clientX - box.left - left) / width;
    const [low, high] = byAccuracy ? shape.yRange : shape.xRange;
    const reached = low + Math.min(1, Math.max(0, at)) * (high - low);
    change({ ...choice, value: rounded(choice.goal, byAccuracy ? Math.min(1, Math.max(0, reached)) : 10 ** reached) });
  }

  line.addEventListener("pointerdown", (event) => line.setPointerCapture(event.pointerId));
  line.addEventListener("pointermove", drag);

  // --- one checkpoint --------------------------------------------------------------------------------------

  function drawDetail(found) {
    const parent = zoo.items.find((item) => item.id === found.parent);
    const link = parent && h("a", { href: addressOf(parent) }, parent.name);
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

  const addressOf = (item) => `#/explore?${paramsOf({ ...choice, model: item.id })}`;

  function table() {
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

  choice.value ??= usual(choice.goal, rangeOf(items, choice.x));
  page.append(
    h("h1", {}, "How small is good enough?"),
    h(
      "div",
      { class: "workbench" },
      h(
        "section",
        { "aria-label": "Budget" },
        h("div", { class: "toolbar" }, h("label", {}, h("span", { class: "away" }, "Size measured in"), axes), intervals.element, sure.element),
        chart,
        h(
          "p",
          { class: "legend" },
          h("span", {}, h("i", { class: "key dot" }), "checkpoint"),
          h("span", {}, h("i", { class: "key front" }), "nothing is smaller and better"),
          withPaper && h("span", {}, h("i", { class: "key diamond" }), "SECNN paper, five trials"),
          h("span", {}, h("i", { class: "key chosen" }), "chosen"),
        ),
        control.element,
        table(),
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
  await draw();
  change(choice);
  const resized = new ResizeObserver(placeLine);
  resized.observe(chart);
  const forget = onTheme(draw);
  signal.addEventListener("abort", () => {
    forget();
    resized.disconnect();
    Plotly.purge(plot);
  });
}

function section(title, ...children) {
  return h("section", {}, h("h2", {}, title), ...children);
}
