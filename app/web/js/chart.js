// Charts as SVG: axes, lines, points, and what is said of the point nearest to the pointer. Colours are in style/chart.css.

import { h, s } from "./dom.js";
import { percent } from "./format.js";

// Fixed, so that what lies above a chart knows where its axes are.
export const MARGIN = { left: 76, right: 18, top: 18, bottom: 52 };
// Pixels: how near the pointer must come to a point, and what the text of a tick needs, across and up.
const NEAR = 24;
const TICK_ROOM = { x: 56, y: 34 };
const NOWHERE = { x: null, y: null };

/** Where values lie along an axis: `at(value)` is a share from 0 to 1, and `valueAt(share)` the way back. */
export function scale([low, high], isLog = false) {
  const [into, outOf] = isLog ? [Math.log10, (power) => 10 ** power] : [Number, Number];
  const [start, length] = [into(low), into(high) - into(low)];
  return { low, high, isLog, at: (value) => (into(value) - start) / length, valueAt: (share) => outOf(start + share * length) };
}

const exact = (value) => Number(value.toPrecision(12)); // 3 * 0.1 is 0.30000000000000004

/** At most `most` round values within a scale, evenly spaced, or on a logarithmic one 1, 2 and 5 times powers of ten. */
export function ticksOf({ low, high, isLog }, most, leastStep = 0) {
  const isWithin = (value) => value >= low && value <= high;
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  for (const digits of isLog ? [[1, 2, 5], [1, 3], [1]] : []) {
    const powers = Array.from({ length: last - first + 1 }, (_, index) => 10 ** (first + index));
    const values = powers.flatMap((power) => digits.map((digit) => exact(digit * power))).filter(isWithin);
    if (values.length > 1 && values.length <= most) return values;
  }
  const least = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = Math.max(leastStep, [1, 2, 5, 10].map((digit) => digit * power).find((value) => value >= least));
  const numSteps = Math.floor(high / step) - Math.ceil(low / step);
  return Array.from({ length: numSteps + 1 }, (_, index) => exact((Math.ceil(low / step) + index) * step));
}

/** With the digits that ticks so far apart need, so that none comes twice. */
export const percentTick = (value, step) => percent(value, Math.max(0, Math.ceil(-Math.log10(step * 100) - 1e-9)));

/**
 * Draws in `element`, and again whenever its size changes. `draw(chart)` takes
 * { label, x: axis, panels: [{ from, to, y: axis, layers }], rules: [x] }, where
 * an axis is { scale, title, text(value, step), leastStep }, `from` and `to` are shares of the height, from the top, and
 * a layer is { name, kind: "line" | "steps" | "points" | "diamonds", points: [{ x, y, low, high, id, isOpen }], tell(point) }.
 * Points without a y interrupt a line. `pick(id)` is called for a point with an id that is clicked.
 */
export function chartIn(element, { signal, pick = () => {} }) {
  const svg = s("svg", { role: "img" });
  const told = h("div", { class: "chart-told", hidden: true });
  element.append(svg, told);
  let chart = null;
  let spots = []; // Every point that something is said of: { left, top, point, tell }.

  function draw(next) {
    chart = next;
    hide();
    spots = [];
    const { clientWidth: width, clientHeight: height } = element;
    const area = { left: MARGIN.left, top: MARGIN.top, width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    if (area.width <= 0 || area.height <= 0) return; // Not in the page, or hidden.
    const across = (value) => area.left + chart.x.scale.at(value) * area.width;
    const right = area.left + area.width;
    const bottom = area.top + area.height;
    const rules = (chart.rules ?? []).map((value) => line("rule", across(value), area.top, across(value), bottom));
    svg.setAttribute("aria-label", chart.label);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren(
      s("g", { class: "x axis" }, ticks(chart.x, area.width / TICK_ROOM.x).map(([value, text]) => xTick(across(value), bottom, area.top, text))),
      ...chart.panels.map(({ from, to, y, layers }) => {
        const up = (value) => area.top + (to - y.scale.at(value) * (to - from)) * area.height;
        const [high, low] = [area.top + from * area.height, area.top + to * area.height];
        const marks = ticks(y, (low - high) / TICK_ROOM.y).map(([value, text]) => yTick(area.left, right, up(value), text));
        return s(
          "g",
          { class: "panel" },
          s("g", { class: "y axis" }, marks, line("axis-line", area.left, high, area.left, low)),
          s("text", { class: "ytitle", transform: `translate(12 ${(high + low) / 2}) rotate(-90)` }, y.title),
          layers.map((layer) => s("g", { class: `layer ${layer.name}` }, drawn(layer, across, up))),
        );
      }),
      ...rules,
      line("axis-line", area.left, bottom, right, bottom),
      s("text", { class: "xtitle", x: area.left + area.width / 2, y: height - 8 }, chart.x.title),
    );
  }

  function ticks({ scale: along, text, leastStep }, room) {
    const values = ticksOf(along, Math.max(2, Math.floor(room)), leastStep);
    return values.map((value) => [value, text(value, values.length > 1 ? values[1] - values[0] : along.high - along.low)]);
  }

  function drawn({ kind, points, tell }, across, up) {
    const placed = points.filter(({ y }) => y !== null).map((point) => ({ left: across(point.x), top: up(point.y), point, tell }));
    if (tell) spots.push(...placed);
    if (kind === "line" || kind === "steps") return s("path", { class: "line", d: pathOf(points, kind === "steps", across, up) });
    const bars = placed.filter(({ point }) => point.low !== undefined);
    return [
      ...bars.map(({ left, point }) => s("path", { class: "interval", d: `M${left - 3} ${up(point.low)}h6m-3 0V${up(point.high)}m-3 0h6` })),
      ...placed.map(({ left, top, point }) => {
        if (kind === "diamonds") return s("path", { class: "point", d: `M${left} ${top - 5}l5 5-5 5-5-5z` });
        return s("circle", { class: point.isOpen ? "point open" : "point", cx: left, cy: top, r: 4 });
      }),
    ];
  }

  // --- what the pointer is near to ---------------------------------------------------------------------------

  const hide = () => {
    told.hidden = true;
    element.classList.remove("pickable");
  };

  function nearest({ clientX, clientY }) {
    const box = element.getBoundingClientRect();
    const distance = ({ left, top }) => Math.hypot(clientX - box.left - left, clientY - box.top - top);
    const near = spots.filter((spot) => distance(spot) < NEAR);
    return near.reduce((best, spot) => (best && distance(best) <= distance(spot) ? best : spot), null);
  }

  function tell(event) {
    const spot = nearest(event);
    if (!spot) return hide();
    told.textContent = spot.tell(spot.point);
    told.hidden = false;
    element.classList.toggle("pickable", spot.point.id !== undefined);
    const { clientWidth } = element;
    const beside = spot.left + 12 + told.offsetWidth > clientWidth ? spot.left - 12 - told.offsetWidth : spot.left + 12;
    told.style.left = `${Math.max(0, beside)}px`;
    told.style.top = `${Math.max(0, spot.top - told.offsetHeight / 2)}px`;
  }

  element.addEventListener("pointermove", tell);
  element.addEventListener("pointerleave", hide);
  element.addEventListener("click", (event) => {
    const spot = nearest(event);
    tell(event);
    if (spot && spot.point.id !== undefined) pick(spot.point.id);
  });
  const resized = new ResizeObserver(() => chart && draw(chart));
  resized.observe(element);
  signal.addEventListener("abort", () => resized.disconnect());
  return draw;
}

const line = (name, x1, y1, x2, y2) => s("line", { class: name, x1, y1, x2, y2 });

const xTick = (x, bottom, top, text) => s("g", { class: "tick" }, line("grid", x, top, x, bottom + 4), s("text", { x, y: bottom + 18 }, text));

const yTick = (left, right, y, text) => s("g", { class: "tick" }, line("grid", left - 4, y, right, y), s("text", { x: left - 8, y, dy: "0.32em" }, text));

/** Of steps, the level holds until the next point. */
function pathOf(points, isStepped, across, up) {
  return points
    .map((point, index) => {
      if (point.y === null) return "";
      const [x, y] = [across(point.x).toFixed(1), up(point.y).toFixed(1)];
      const isFirst = (points[index - 1] ?? NOWHERE).y === null;
      if (isFirst) return `M${x} ${y}`;
      return isStepped ? `H${x}V${y}` : `L${x} ${y}`;
    })
    .join("");
}
