// One checkpoint: its figures, its classes, where it comes from, what it cost.

import { h, notice, scroller } from "./dom.js";
import { bytes, compact, count, duration, milliseconds, percent, plural, score } from "./format.js";
import { request } from "./service.js";

export function drawReadout(words, item) {
  const interval = item.accuracy_ci95;
  return [
    h("p", { class: "readout-ask" }, words),
    h("p", { class: "readout-figure" }, h("strong", {}, count(item.params)), " parameters"),
    h(
      "dl",
      { class: "facts" },
      fact("Test accuracy", percent(item.accuracy, 2), interval && `95 %: ${(interval[0] * 100).toFixed(1)} – ${percent(interval[1])}`),
      fact("Multiply-accumulates", count(item.macs), "for one image"),
      fact("File", bytes(item.bytes), "safetensors"),
      fact("Latency", milliseconds(item.latency_ms)),
      item.elastic && fact("Elastic file", `level ${item.elastic.level} of 0 to ${item.elastic.levels - 1}`, `the first ${bytes(item.elastic.prefix_bytes)} of ${item.elastic.file.slice(0, 8)}`),
      fact("Checkpoint", h("code", {}, item.id.slice(0, 12)), item.name),
    ),
  ];
}

/** The model card, asked for when it is opened. */
export function drawCard({ id, dataset }, signal) {
  const text = h("pre", { tabindex: "0", "aria-label": "Model card" }, "…");
  const address = `zoo/${dataset}/resolve/${id}/README.md`;
  const load = async () => {
    try {
      text.textContent = await (await request(address, { signal })).text();
    } catch (error) {
      if (error.name !== "AbortError") text.replaceChildren(notice(error));
    }
  };
  return h("details", { ontoggle: (event) => event.target.open && load() }, h("summary", {}, "Data, accuracy with intervals, lineage, limits, licence"), text);
}

function fact(name, value, more) {
  return [h("dt", {}, name), h("dd", {}, value, more && h("span", { class: "quiet" }, ` ${more}`))];
}

export function drawClasses({ classes, metrics }) {
  const measured = metrics.test ?? metrics.validation;
  const rows = classes.map((name, index) => ({ name, accuracy: measured.per_class[index] }));
  rows.sort((a, b) => (b.accuracy ?? -1) - (a.accuracy ?? -1));
  const list = h(
    "ol",
    { class: "classes" },
    rows.map(({ name, accuracy }) =>
      h("li", { "--share": accuracy ?? 0 }, h("bdi", {}, name), h("span", { class: "bar", "aria-hidden": "true" }), h("span", { class: "number" }, accuracy == null ? "no images" : percent(accuracy))),
    ),
  );
  return scroller("Accuracy of each class", list);
}

function change({ kind, block, channels_added: channels }) {
  return kind === "deepen" ? `block ${block}: one more layer` : `block ${block}: ${plural(channels, "more channel")}`;
}

/** Why changes were made, in runs that climb a ladder of sizes and in those that make one change at a time. */
export function ruleOf(isLadder) {
  if (!isLadder) return "A change is made when its score clears the threshold; both are in the unit of the run's rule.";
  return (
    "One expansion may make several changes. Some change, made or not, must score above the threshold; then changes are " +
    "made in the order of score per cost, each with a score of more than two standard errors."
  );
}

/** Only ladders anneal, and only they make several changes at once. */
function isOfLadder({ anneal_epochs: annealed, expansions }) {
  return annealed > 0 || new Set(expansions.map((step) => step.epoch)).size < expansions.length;
}

export function drawLineage({ lineage }, parent) {
  const { expansions } = lineage;
  const head = ["Epoch", "Change", "Parameters", "Score", "Threshold"];
  const rows = [...expansions].reverse().map((step) =>
    h(
      "tr",
      {},
      h("td", { class: "number" }, step.epoch),
      h("td", {}, change(step)),
      h("td", { class: "number" }, `${compact(step.params_before)} → ${compact(step.params_after)}`),
      h("td", { class: "number" }, score(step.score)),
      h("td", { class: "number" }, score(step.threshold)),
    ),
  );
  return [
    h(
      "p",
      {},
      `Run ${lineage.run}, seed ${lineage.seed}: ${plural(lineage.num_expansions, "expansion")} until epoch ${lineage.epoch}`,
      lineage.anneal_epochs > 0 && `, then ${plural(lineage.anneal_epochs, "epoch")} of annealing`,
      lineage.distilled_from && `, distilled from ${lineage.distilled_from.slice(0, 12)}`,
      ".",
      parent && [" It grew out of ", parent, "."],
    ),
    rows.length > 0 &&
      scroller(
        "Expansions, last first",
        h("table", {}, h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows)),
      ),
    rows.length > 0 && h("p", { class: "quiet" }, ruleOf(isOfLadder(lineage))),
  ];
}

/** Descriptors say "cpu, 1 threads". */
const device = (name) => name.replace(/, (\d+) threads$/, (_, number) => ` with ${plural(Number(number), "thread")}`);

export function drawCost({ cost, dataset, preprocessing }) {
  return h(
    "dl",
    { class: "facts" },
    fact("Training", duration(cost.device_seconds), `for ${plural(cost.epochs, "epoch")} on ${device(cost.device)}`),
    fact("Arithmetic", `${compact(cost.training_flops)} FLOP`, "since the run began"),
    fact("Images", `${count(dataset.num_train)} / ${count(dataset.num_validation)} / ${count(dataset.num_test)}`, "training / validation / test"),
    fact("Which images", dataset.content ? dataset.content.test.slice(0, 8) : "unknown", dataset.content ? "SHA-256 of the test images" : "the file does not say"),
    fact("Preprocessing", `${preprocessing.color}, ${preprocessing.resize}`, "done by the service"),
  );
}
