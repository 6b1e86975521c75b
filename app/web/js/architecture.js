// A network as it is built: a bar for each layer, as tall as it has channels. What growth added is drawn open.

import { h, s, scroller } from "./dom.js";
import { plural } from "./format.js";

const GAP = 3;
const BETWEEN = 46;
// A caption's room; and of all layers together, where there are few enough.
const CAPTION = 84;
const ROOM = 620;
const TALLEST = 92;
const MIDDLE = 78;
const BOTTOM = 140;

/** A stage of the service with what growth did to it: { title, channels, startChannels, side, layers: [{ title, epoch }] }. */
function stageOf(stage, index, lineage) {
  const widened = stepsOf(lineage, "widen", index).reduce((sum, step) => sum + step.channels_added, 0);
  return {
    title: `block ${index}`,
    channels: stage.channels,
    startChannels: stage.channels - widened,
    side: [stage.height, stage.width],
    layers: grownLayers(stage.layers, stepsOf(lineage, "deepen", index)),
    feedsHead: stage.feeds_head,
  };
}

const stepsOf = (lineage, kind, block) => lineage.expansions.filter((step) => step.kind === kind && step.block === block);

/** Growth appends layers: the last ones of a block are those of its deepening steps, in their order. */
const grownLayers = (titles, steps) => titles.map((title, index) => ({ title, epoch: steps[index - (titles.length - steps.length)]?.epoch }));

function described({ architecture, classes }, stages) {
  const parts = stages.map(
    ({ title, channels, startChannels, side, layers }) =>
      `${title}: ${plural(layers.length, "layer")} of ${channels} channels, ${startChannels} of them from the start, ` +
      `at ${side.join(" by ")} pixels`,
  );
  return `${architecture.family} network. ${parts.join(". ")}. Then ${plural(classes.length, "class", "classes")}.`;
}

export function drawArchitecture({ descriptor, stages: outline }) {
  const { architecture, classes, lineage } = descriptor;
  const stages = outline.map((stage, index) => stageOf(stage, index, lineage));
  const most = Math.max(...stages.map((stage) => stage.channels));
  const height = (channels) => Math.max(3, (channels / most) * TALLEST);
  const numLayers = stages.reduce((sum, stage) => sum + stage.layers.length, 0);
  const width = Math.max(7, Math.min(20, ROOM / numLayers - GAP));
  const parts = [];
  let x = 4;

  const input = [architecture.input_height, architecture.input_width].join("×");
  parts.push(s("rect", { x, y: MIDDLE - 15, width: 30, height: 30, class: "arch-image" }));
  parts.push(caption(x, "input", `${input} · ${architecture.input_channels === 3 ? "colour" : "gray"}`));
  x += CAPTION + BETWEEN;
  const ends = [];
  let before = Math.max(architecture.input_height, architecture.input_width);
  stages.forEach((stage, index) => {
    parts.push(flow(index === 0 ? 34 : ends.at(-1), x));
    const longest = Math.max(...stage.side);
    const shrinks = Math.round(before / longest);
    if (shrinks > 1) parts.push(s("text", { x: x - BETWEEN / 2, y: MIDDLE - 7, class: "arch-pool" }, shrinks === 2 ? "½" : `1/${shrinks}`));
    before = longest;
    const left = x;
    for (const layer of stage.layers) {
      parts.push(bar({ x, width, height }, stage, layer));
      x += width + GAP;
    }
    const layers = plural(stage.layers.length, "layer");
    parts.push(caption(left, stage.title, `${stage.side.join("×")} · ${stage.channels} ch`, layers));
    // Captions need their room also where a stage has one layer only.
    x = Math.max(x, left + CAPTION);
    ends.push(left + stage.layers.length * (width + GAP));
    x += BETWEEN;
  });
  parts.push(flow(ends.at(-1) ?? 34, x));
  stages.forEach((stage, index) => {
    if (stage.feedsHead) parts.push(skip(ends[index], x - 12));
  });
  const shown = Math.min(classes.length, 10);
  for (let index = 0; index < shown; index += 1) {
    parts.push(s("circle", { cx: x + 5, cy: MIDDLE - 40.5 + index * 9, r: 2.5, class: "arch-class" }));
  }
  parts.push(caption(x, "head", `${classes.length} classes`));

  const text = described(descriptor, stages);
  const figure = s("svg", { viewBox: `0 0 ${x + CAPTION} 190`, width: x + CAPTION, height: 190, preserveAspectRatio: "xMinYMid", role: "img", "aria-label": text, class: "arch" }, parts);
  return h(
    "figure",
    { class: "figure" },
    scroller("Architecture", figure),
    h(
      "figcaption",
      { class: "legend" },
      h("span", {}, h("i", { class: "key solid" }), "there from the start"),
      h("span", {}, h("i", { class: "key open" }), "grown"),
      h("span", { class: "quiet" }, "A bar is a layer, its height the number of channels."),
    ),
  );
}

function bar({ x, width, height }, stage, layer) {
  const whole = height(stage.channels);
  const isNew = layer.epoch !== undefined;
  const title = s("title", {}, isNew ? `${layer.title}, grown in epoch ${layer.epoch}` : layer.title);
  const outer = s("rect", { x, y: MIDDLE - whole / 2, width, height: whole, class: "arch-grown" }, title);
  if (isNew) return outer;
  const start = height(stage.startChannels);
  const core = s("rect", { x, y: MIDDLE - start / 2, width, height: start, class: "arch-start" }, title.cloneNode(true));
  return s("g", {}, outer, core);
}

const flow = (from, to) => s("line", { x1: from + 6, x2: to - 6, y1: MIDDLE, y2: MIDDLE, class: "arch-flow" });

function caption(x, title, ...lines) {
  return s(
    "text",
    { x, y: BOTTOM, class: "arch-caption" },
    s("tspan", { x, class: "arch-title" }, title),
    lines.map((line) => s("tspan", { x, dy: 15 }, line)),
  );
}

/** A connection from a block to the head, past those between. */
function skip(from, to) {
  const y = MIDDLE - TALLEST / 2 - 14;
  return s("path", { d: `M${from} ${MIDDLE} C${from + 24} ${y}, ${from + 24} ${y}, ${from + 60} ${y} H${to - 40} C${to} ${y}, ${to} ${y}, ${to} ${MIDDLE - 6}`, class: "arch-skip" });
}
