// The chart of Explore: checkpoints, the front, the paper's points, and the budget as a line to drag.

import { rangeOf, rounded } from "./budget.js";
import { chartIn, MARGIN, percentTick, scale } from "./chart.js";
import { h } from "./dom.js";
import { filesOf } from "./elastic.js";
import { amount, compact, COMPLEXITIES, count, percent } from "./format.js";
import { paperOf } from "./paper.js";

// Pixels that a point takes from its middle on.
const POINT = 5;

/**
 * { element, draw, place, mark } over the checkpoints of one data set. `pick(id)` is called for a point that is
 * clicked, `drag(value)` with every move of the line.
 */
export function frontier({ pick, drag, signal }) {
  const plot = h("div", { class: "plot" });
  const line = h("div", { class: "budget-line", "aria-hidden": "true" }, h("span"));
  const shade = h("div", { class: "budget-shade", "aria-hidden": "true" });
  const element = h("div", { class: "chart", role: "group", "aria-label": "Accuracy against size" }, shade, plot, line);
  const drawChart = chartIn(plot, { pick, signal });
  let drawn = null; // What `draw` was given last, with the scales of both axes.
  let choice = null;
  let chosen = null;

  function draw({ items, x, front, withIntervals }) {
    const measured = items.filter((item) => item.accuracy !== null && item[x] !== null);
    const paper = paperOf(items[0].dataset, x);
    const xs = [...measured.map((item) => item[x]), ...paper.map((point) => point.params)];
    const ys = [...measured.map((item) => item.accuracy), ...paper.map((point) => point.accuracy)];
    const size = scale([Math.min(...xs) * 0.8, Math.max(...xs) * 1.25], true);
    const accuracy = scale([Math.min(...ys) - 0.02, Math.min(1.005, Math.max(...ys) + 0.01)]);
    const points = xs.map((value, index) => [size.at(value), accuracy.at(ys[index])]);
    const layers = [frontLayer(front, x), elasticLayer(measured, x), paperLayer(paper), checkpointLayer(measured, x, withIntervals)];
    drawn = { items, x, size, accuracy, points, layers };
    mark(chosen);
    if (choice) place(choice);
  }

  /** Lights up the chosen checkpoint; null for none. */
  function mark(item) {
    chosen = item;
    if (drawn === null) return;
    const { x, size, accuracy, layers } = drawn;
    const isShown = item && item[x] !== null && item.accuracy !== null;
    const lit = { name: "chosen", kind: "points", points: isShown ? [{ x: item[x], y: item.accuracy }] : [] };
    drawChart({
      label: "Test accuracy against size; the table below has the same in words",
      x: { scale: size, title: COMPLEXITIES[x].axis, text: compact },
      panels: [{ from: 0, to: 1, y: { scale: accuracy, title: "Test accuracy", text: percentTick }, layers: [...layers, lit] }],
    });
  }

  // --- the line --------------------------------------------------------------------------------------------

  /** Pixels of the plot area within the chart. */
  function area() {
    const { clientWidth: width, clientHeight: height } = element;
    const { left, right, top, bottom } = MARGIN;
    return { left, top, width: width - left - right, height: height - top - bottom };
  }

  /** Puts the line where the budget is; one that was picked by hand has none. */
  function place(next) {
    choice = next;
    line.hidden = shade.hidden = choice.model !== null || drawn === null;
    if (line.hidden) return;
    const { left, top, width, height } = area();
    const byAccuracy = choice.goal === "accuracy";
    const at = Math.min(1, Math.max(0, (byAccuracy ? drawn.accuracy : drawn.size).at(choice.value)));
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
    const reached = (byAccuracy ? drawn.accuracy : drawn.size).valueAt(Math.min(1, Math.max(0, at)));
    const [least, most] = rangeOf(drawn.items, choice.x)[choice.goal];
    drag(rounded(choice.goal, Math.min(most, Math.max(least, reached))));
  });

  const resized = new ResizeObserver(() => choice && place(choice));
  resized.observe(element);
  signal.addEventListener("abort", () => resized.disconnect());
  return { element, draw, place, mark };
}

function move(element, box) {
  for (const [name, value] of Object.entries(box)) element.style[name] = `${value}px`;
}

function frontLayer(front, x) {
  return { name: "front", kind: "steps", points: front.map((item) => ({ x: item[x], y: item.accuracy })) };
}

/** A line through the levels of each elastic file. */
function elasticLayer(items, x) {
  const lineOf = (file) => [...file.items.map((item) => ({ x: item[x], y: item.accuracy })), { y: null }];
  return { name: "elastic", kind: "line", points: filesOf(items).flatMap(lineOf) };
}

function paperLayer(paper) {
  return {
    name: "paper",
    kind: "diamonds",
    points: paper.map((point) => ({ ...point, x: point.params, y: point.accuracy })),
    tell: ({ trial, params, accuracy }) => `SECNN paper, trial ${trial}\n${count(params)} parameters, ${percent(accuracy)}`,
  };
}

/** Distilled ones are drawn open. */
function checkpointLayer(items, x, withIntervals) {
  const pointOf = (item) => {
    const [low, high] = (withIntervals && item.accuracy_ci95) || [];
    return { x: item[x], y: item.accuracy, low, high, id: item.id, isOpen: item.distilled_from !== null, item };
  };
  return {
    name: "checkpoints",
    kind: "points",
    points: items.map(pointOf),
    tell: ({ item }) => `${item.name}${item.distilled_from ? ", distilled" : ""}${item.elastic ? `, level ${item.elastic.level}` : ""}\n${amount(x, item[x])}, ${percent(item.accuracy, 2)}`,
  };
}
