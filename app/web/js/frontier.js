// The chart of Explore: checkpoints, the front, the paper's points, and the budget as a line to drag.

import { rangeOf, rounded } from "./budget.js";
import { axis, colors, CONFIG, layout, MARGIN, onTheme, percentTicks, plotly } from "./chart.js";
import { h } from "./dom.js";
import { amount, COMPLEXITIES, count, percent } from "./format.js";
import { paperOf } from "./paper.js";

// Pixels that a point takes from its middle on.
const POINT = 5;

/**
 * { element, start, draw, place, mark } over the checkpoints of one data set. `pick(id)` is called for a point that
 * is clicked, `drag(value)` with every move of the line.
 */
export function frontier({ pick, drag, signal }) {
  let Plotly = null; // Until its script has come: the page answers without.
  const plot = h("div", { class: "plot" });
  const line = h("div", { class: "budget-line", "aria-hidden": "true" }, h("span"));
  const shade = h("div", { class: "budget-shade", "aria-hidden": "true" });
  const element = h("div", { class: "chart", role: "group", "aria-label": "Accuracy against size" }, shade, plot, line);
  let drawn = null; // What `draw` was given last, with the ranges of both axes.
  let choice = null;
  let chosen = null;

  async function draw({ items, x, front, withIntervals }) {
    const palette = colors();
    const measured = items.filter((item) => item.accuracy !== null && item[x] !== null);
    const paper = paperOf(items[0].dataset, x);
    const xs = [...measured.map((item) => item[x]), ...paper.map((point) => point.params)];
    const ys = [...measured.map((item) => item.accuracy), ...paper.map((point) => point.accuracy)];
    const xRange = [Math.log10(Math.min(...xs) * 0.8), Math.log10(Math.max(...xs) * 1.25)];
    const yRange = [Math.min(...ys) - 0.02, Math.min(1.005, Math.max(...ys) + 0.01)];
    const share = (value, [low, high]) => (value - low) / (high - low);
    const points = xs.map((value, index) => [share(Math.log10(value), xRange), share(ys[index], yRange)]);
    drawn = { items, x, front, withIntervals, xRange, yRange, points };
    if (choice) place(choice);
    if (Plotly === null) return;
    const shown = layout(palette, {
      xaxis: axis(palette, COMPLEXITIES[x].axis, { type: "log", range: xRange, dtick: "D2", tickformat: COMPLEXITIES[x].ticks, minorloglabels: "none" }),
      yaxis: axis(palette, "Test accuracy", { range: yRange, tickformat: percentTicks(yRange) }),
    });
    const traces = [
      frontTrace(front, x, palette),
      paperTrace(paper, palette),
      checkpointTrace(measured, x, withIntervals, palette),
      { x: [], y: [], mode: "markers", marker: { size: 15, color: palette.accent }, hoverinfo: "skip" },
    ];
    await Plotly.react(plot, traces, shown, CONFIG);
    mark(chosen);
  }

  /** Lights up the chosen checkpoint; null for none. */
  function mark(item) {
    chosen = item;
    if (Plotly === null || !plot.data) return;
    const shown = item && item[drawn.x] !== null && item.accuracy !== null;
    Plotly.restyle(plot, { x: [shown ? [item[drawn.x]] : []], y: [shown ? [item.accuracy] : []] }, [3]);
  }

  // --- the line --------------------------------------------------------------------------------------------

  /** Pixels of the plot area within the chart. */
  function area() {
    const { clientWidth: width, clientHeight: height } = element;
    return { left: MARGIN.l, top: MARGIN.t, width: width - MARGIN.l - MARGIN.r, height: height - MARGIN.t - MARGIN.b };
  }

  /** Puts the line where the budget is; one that was picked by hand has none. */
  function place(next) {
    choice = next;
    line.hidden = shade.hidden = choice.model !== null || drawn === null;
    if (line.hidden) return;
    const { left, top, width, height } = area();
    const byAccuracy = choice.goal === "accuracy";
    const [low, high] = byAccuracy ? drawn.yRange : drawn.xRange;
    const at = Math.min(1, Math.max(0, ((byAccuracy ? choice.value : Math.log10(choice.value)) - low) / (high - low)));
    line.classList.toggle("upright", !byAccuracy);
    line.firstChild.textContent = byAccuracy ? `≥ ${percent(choice.value)}` : `≤ ${COMPLEXITIES[choice.x].brief(choice.value)}`;
    if (byAccuracy) {
      const y = top + (1 - at) * height;
      move(line, { left, top: y - 12, width, height: 24 });
      const { offsetWidth, offsetHeight } = line.firstChild;
      const shift = firstFree(width - offsetWidth, (moved) => [width - offsetWidth - moved, y - top - offsetHeight - 4]);
      move(line.firstChild, { left: width - offsetWidth - shift, top: 8 - offsetHeight });
      move(shade, { left, top: y, width, height: top + height - y });
    } else {
      const x = left + at * width;
      move(line, { left: x - 12, top, width: 24, height });
      const { offsetWidth, offsetHeight } = line.firstChild;
      const beside = x - left + 4 + offsetWidth > width ? -4 - offsetWidth : 4;
      const shift = firstFree(height - offsetHeight, (moved) => [x - left + beside, moved]);
      move(line.firstChild, { left: 12 + beside, top: shift });
      move(shade, { left: x, top, width: left + width - x, height });
    }
  }

  /** How far the label has to move along the line, at most `room`, to hide no point; 0 where all places do. */
  function firstFree(room, placeOf) {
    const { width, height } = area();
    const { offsetWidth, offsetHeight } = line.firstChild;
    const isWithin = (value, start, length) => value > start - POINT && value < start + length + POINT;
    for (let shift = 0; shift <= room; shift += POINT) {
      const [x, y] = placeOf(shift);
      const isHidden = ([across, up]) => isWithin(across * width, x, offsetWidth) && isWithin((1 - up) * height, y, offsetHeight);
      if (!drawn.points.some(isHidden)) return shift;
    }
    return 0;
  }

  line.addEventListener("pointerdown", (event) => line.setPointerCapture(event.pointerId));
  line.addEventListener("pointermove", (event) => {
    if (!line.hasPointerCapture(event.pointerId)) return;
    const box = element.getBoundingClientRect();
    const { left, top, width, height } = area();
    const byAccuracy = choice.goal === "accuracy";
    const at = byAccuracy ? 1 - (event.clientY - box.top - top) / height : (event.clientX - box.left - left) / width;
    const [low, high] = byAccuracy ? drawn.yRange : drawn.xRange;
    const reached = low + Math.min(1, Math.max(0, at)) * (high - low);
    const [least, most] = rangeOf(drawn.items, choice.x)[choice.goal];
    drag(rounded(choice.goal, Math.min(most, Math.max(least, byAccuracy ? reached : 10 ** reached))));
  });

  /** The chart, once it stands in the page, where Plotly measures its place. Resolves when it is drawn. */
  async function start(first) {
    element.setAttribute("aria-busy", "true");
    const waiting = h("p", { class: "quiet" }, "Loading the chart …");
    plot.append(waiting);
    try {
      Plotly = await plotly();
    } catch (error) {
      waiting.textContent = `${error.message} The table below has all checkpoints.`;
      element.removeAttribute("aria-busy");
      return;
    }
    if (signal.aborted) return;
    waiting.remove();
    await draw(drawn ?? first);
    element.removeAttribute("aria-busy");
    plot.on("plotly_click", ({ points: [point] }) => point.customdata && pick(point.customdata));
    const resized = new ResizeObserver(() => choice && place(choice));
    resized.observe(element);
    const forget = onTheme(() => draw(drawn));
    signal.addEventListener("abort", () => {
      forget();
      resized.disconnect();
      Plotly.purge(plot);
    });
  }

  return { element, start, draw, place, mark };
}

function move(element, box) {
  for (const [name, value] of Object.entries(box)) element.style[name] = `${value}px`;
}

function frontTrace(front, x, palette) {
  return {
    x: front.map((item) => item[x]),
    y: front.map((item) => item.accuracy),
    mode: "lines",
    line: { shape: "hv", color: palette.ink, width: 1 },
    hoverinfo: "skip",
  };
}

function paperTrace(points, palette) {
  return {
    x: points.map((point) => point.params),
    y: points.map((point) => point.accuracy),
    mode: "markers",
    marker: { symbol: "diamond-open", size: 8, color: palette.soft },
    hovertemplate: points.map((point) => `SECNN paper, trial ${point.trial}<br>${count(point.params)} parameters, ${percent(point.accuracy)}<extra></extra>`),
  };
}

function checkpointTrace(items, x, withIntervals, palette) {
  return {
    x: items.map((item) => item[x]),
    y: items.map((item) => item.accuracy),
    customdata: items.map((item) => item.id),
    mode: "markers",
    marker: { size: 8, color: palette.ink },
    error_y: {
      visible: withIntervals,
      type: "data",
      symmetric: false,
      array: items.map((item) => item.accuracy_ci95[1] - item.accuracy),
      arrayminus: items.map((item) => item.accuracy - item.accuracy_ci95[0]),
      color: palette.soft,
      thickness: 1,
      width: 3,
    },
    hovertemplate: items.map((item) => `${item.name}<br>${amount(x, item[x])}, ${percent(item.accuracy, 2)}<extra></extra>`),
  };
}
