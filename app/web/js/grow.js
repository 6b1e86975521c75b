// How a run grew: accuracy and size over its epochs, and why each expansion was made. Live while it goes on.

import { chartIn, percentTick, scale } from "./chart.js";
import { paramsOf } from "./choice.js";
import { ruleOf } from "./detail.js";
import { h, notice, scroller } from "./dom.js";
import { compact, count, duration, percent, plural, score } from "./format.js";
import { drawImages } from "./images.js";
import { follow, get, poll } from "./service.js";

export const TITLE = "Grow";

const REDRAW_MS = 250;
// A change that gains less than this many standard errors is noise (trainer/config.py).
const STANDARD_ERRORS = 2;
const STATUSES = ["running", "finished", "stopped"];

/** Of the data set, where it has runs; one that was stopped only where there is no other. */
function usualRun(runs, dataset) {
  const own = runs.filter((run) => run.name.startsWith(`${dataset}-`));
  return (own.length > 0 ? own : runs).toSorted((a, b) => STATUSES.indexOf(a.status) - STATUSES.indexOf(b.status))[0];
}

export async function show(page, { zoo, choice, params, remember, again, signal }) {
  let runs = (await get("runs", { signal })).items;
  page.append(h("h1", {}, "How it grew"));
  if (runs.length === 0) {
    page.append(
      h("p", {}, "No run has left a log beside these checkpoints. One that writes into the directory that is served shows up here, live:"),
      h("pre", { tabindex: "0" }, h("code", {}, "zoo-train digits --data digits --zoo DIR")),
    );
    poll(async () => (await get("runs", { signal })).count > 0 && again(), signal);
    return;
  }
  const asked = params.get("run");
  const { name } = runs.find((one) => one.name === asked) ?? usualRun(runs, choice.dataset);
  if (asked && asked !== name) page.append(notice(new Error(`There is no run ${asked}; this is ${name}.`)));
  const run = await get(`runs/${name}`, { signal });
  params.set("run", run.name);
  remember(params);

  let records = run.records;
  const plot = h("div", { class: "plot" });
  const drawChart = chartIn(plot, { signal });
  const head = h("div", { class: "run-head" });
  const story = h("ol", { class: "story", reversed: true });
  const select = h("select", { onchange: () => (location.hash = `#/grow?${new URLSearchParams({ dataset: choice.dataset, run: select.value })}`) });
  const saved = h("span");
  const levels = h("span", {}, h("i", { class: "key thin" }), "its smaller levels");
  const rule = h("p", { class: "quiet" });
  let known = new Map(zoo.items.map((item) => [item.id, item]));

  const picture = h(
    "div",
    {},
    h("div", { class: "chart tall" }, plot),
    h(
      "p",
      { class: "legend" },
      h("span", {}, h("i", { class: "key front" }), "validation"),
      levels,
      h("span", {}, h("i", { class: "key soft" }), "training"),
      h("span", {}, h("i", { class: "key dot" }), saved),
      h("span", {}, h("i", { class: "key step" }), "expansion"),
    ),
  );
  page.append(
    h("div", { class: "toolbar" }, h("label", {}, "Run ", select)),
    head,
    picture,
    h("section", {}, h("h2", {}, "The images"), drawImages(run, signal)),
    h("section", {}, h("h2", {}, "Every step, last first"), rule, story),
  );

  const of = (event) => records.filter((record) => record.event === event);
  /** What an expansion makes larger is saved before; decided it may be before its last epochs, or after them. */
  const hasGrown = (decision) => decision.chosen.length > 0 && !isOverruled(decision) && of("checkpoint").some((record) => record.epoch === decision.epoch);
  /** A run that had to begin again with its last checkpoint decides once more. */
  const isOverruled = (decision) => of("decision").findLast((record) => record.epoch === decision.epoch) !== decision;

  function drawSelect() {
    for (const item of runs) {
      const option = [...select.options].find(({ value }) => value === item.name) ?? h("option", { value: item.name, selected: item.name === run.name });
      const text = `${item.name} (${item.name === run.name ? run.status : item.status})`;
      if (option.textContent !== text) option.textContent = text;
      if (!option.parentElement) select.append(option);
    }
  }

  function drawHead() {
    const last = of("epoch").at(-1);
    const finished = of("finished").at(-1);
    // Where the zoo has nothing but the files of a run, its checkpoints may be taught all the same.
    const isOnlyTaught = !last && of("lesson").length > 0;
    const expansions = of("decision").filter(hasGrown).reduce((sum, record) => sum + record.chosen.length, 0);
    // Of the same parts as the sum that a run ends with, which also has the little that making an expansion takes.
    const secondsOf = (...events) => events.flatMap(of).reduce((sum, record) => sum + record.seconds, 0);
    const taught = secondsOf("lesson");
    const seconds = isOnlyTaught ? taught : secondsOf("epoch", "decision");
    const hasBranches = of("epoch").some((record) => record.branch_epoch > 0);
    saved.textContent = hasBranches ? "checkpoint, annealed (learning rate lowered to 0)" : "checkpoint";
    picture.hidden = isOnlyTaught;
    const unknown = isOnlyTaught ? "networks that grew elsewhere are trained on" : "nothing logged yet";
    const where = last ? `epoch ${last.epoch} of ${last.epochs}${annealing(last)}` : unknown;
    const most = Math.max(0, ...of("decision").map((record) => record.chosen.length));
    // Only ladders anneal, and only they make several changes at once.
    rule.textContent = most === 0 ? "" : ruleOf(hasBranches || most > 1);
    head.replaceChildren(
      h("p", { role: "status" }, h("span", { class: `state ${run.status === "running" ? "live" : ""}` }, run.status), ` ${where}${distilling(records.at(-1))}`),
      h(
        "dl",
        { class: "figures" },
        !isOnlyTaught && figure("parameters", last && count(last.params)),
        !isOnlyTaught && figure("validation accuracy", percent(last?.val_accuracy)),
        !isOnlyTaught && figure("expansions", count(expansions)),
        figure("checkpoints", count(of("checkpoint").length + of("distilled").filter(({ digest }) => digest).length)),
        figure(isOnlyTaught ? "training" : "training and scoring", duration(finished?.device_seconds ?? seconds)),
        !isOnlyTaught && taught > 0 && figure("then distilling", duration(taught)),
      ),
    );
  }

  // Logs that were written before 2026-11-25 do not say how long a branch is.
  const annealing = ({ branch_epoch, branch_epochs }) => (branch_epoch > 0 && branch_epochs > 0 && run.status !== "finished" ? `, annealing ${branch_epoch} of ${branch_epochs}` : "");
  const distilling = (record) => (record?.event === "lesson" && run.status === "running" ? `, ${record.teacher ? "distilling" : "fine-tuning"} ${count(record.params)} parameters, epoch ${record.epoch} of ${record.epochs}` : "");
  const smallerOf = (record) => (record.levels ?? []).slice(0, -1);
  const figure = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value ?? "–"));

  function drawPlot() {
    // All epochs in the order in which they were trained. The trunk's are a thick line; each branch is a thin one, from the trunk up to what was saved.
    const all = of("epoch").map((record, index) => ({ ...record, x: index + 1 }));
    const hasBranches = all.some((record) => record.branch_epoch > 0);
    const last = new Map(all.map((record) => [record.epoch, record])); // of each epoch, what was trained last
    const isOnBranch = (record, index) => record.branch_epoch > 0 || all[index + 1]?.branch_epoch === 1;
    const validation = (isOfLine) => all.map((record, index) => ({ x: record.x, y: isOfLine(record, index) ? record.val_accuracy : null }));
    const checkpoints = of("checkpoint").filter(({ epoch }) => last.has(epoch));
    const expansions = of("decision").filter((record) => hasGrown(record) && last.has(record.epoch));
    const told = (what) => ({ x, y }) => `epoch ${x}\n${percent(y)} ${what}`;
    const params = all.map((record) => record.params);
    // Of an elastic run, the levels below the largest, by their size; such a run may begin with some of them.
    const smaller = [...new Set(all.flatMap((record) => smallerOf(record).map((level) => level.params)))].map((size) =>
      all.map((record) => ({ x: record.x, size, y: smallerOf(record).find((level) => level.params === size)?.val_accuracy ?? null })),
    );
    levels.hidden = smaller.length === 0;
    const heights = [...all.flatMap(({ accuracy, val_accuracy }) => [accuracy, val_accuracy]), ...smaller.flat().flatMap(({ y }) => y ?? []), ...checkpoints.map((record) => record.val_accuracy)];
    const accuracies = heights.length > 0 ? [Math.min(...heights) - 0.02, Math.max(...heights) + 0.02] : [0, 1];
    // Wide enough to have a tick in it, also before the first expansion.
    const sizes = all.length > 0 ? [Math.min(...params) / 1.6, Math.max(...params) * 1.6] : [1e3, 1e4];
    const numEpochs = hasBranches ? all.length : (all.at(-1)?.epochs ?? 1);
    const layers = [
      { name: "training", kind: "line", points: all.map(({ x, accuracy }) => ({ x, y: accuracy })), tell: told("training") },
      { name: "trunk", kind: "line", points: validation((record) => record.branch_epoch === 0), tell: told("validation") },
      ...smaller.map((points) => ({ name: "branches", kind: "line", points, tell: ({ x, y, size: level }) => `epoch ${x}\n${percent(y)} validation of the level with ${count(level)} parameters` })),
      { name: "branches", kind: "line", points: validation(isOnBranch), tell: told("validation, annealing") },
      {
        name: "checkpoints",
        kind: "points",
        points: checkpoints.map((record) => ({ x: last.get(record.epoch).x, y: record.val_accuracy, record })),
        tell: ({ record }) => `${record.name}\n${percent(record.val_accuracy)} validation, ${percent(record.test_accuracy)} test`,
      },
    ];
    const size = { name: "sizes", kind: "steps", points: all.map(({ x, params: y }) => ({ x, y })), tell: ({ x, y }) => `epoch ${x}\n${count(y)} parameters` };
    drawChart({
      label: "Accuracy and parameters over the epochs; the text below describes every step",
      x: { scale: scale([0, numEpochs * 1.02]), title: hasBranches ? "Epochs, annealing included" : "Epoch", text: count, leastStep: 1 },
      panels: [
        { from: 0, to: 0.6, y: { scale: scale(accuracies), title: "Accuracy", text: percentTick }, layers },
        { from: 0.68, to: 1, y: { scale: scale(sizes, true), title: "Parameters", text: compact }, layers: [size] },
      ],
      rules: expansions.map(({ epoch }) => last.get(epoch).x),
    });
  }

  function drawStory() {
    const opened = new Set([...story.querySelectorAll("details[open]")].map((element) => element.dataset.epoch));
    const steps = [];
    for (const record of records) {
      const isDecided = steps.at(-1)?.event === "decision" && steps.at(-1).epoch === record.epoch;
      if (record.event === "checkpoint" && isDecided) steps.splice(-1, 0, record);
      else if (["checkpoint", "distilled", "adapted", "finished"].includes(record.event) || (record.event === "decision" && record.chosen.length > 0 && !isOverruled(record))) steps.push(record);
    }
    const now = steps.reverse().map((record) => h("li", { class: record.event }, told(record, opened)));
    // The story grows at its head; what is told already stays in place, and with it the focus.
    const before = [...story.children];
    for (let last = 1; last <= now.length; last += 1) {
      const [old, item] = [before.at(-last), now.at(-last)];
      if (!old) story.prepend(item);
      else if (!old.isEqualNode(item)) old.replaceWith(item);
    }
    for (const old of before.slice(0, Math.max(0, before.length - now.length))) old.remove();
  }

  function told(record, opened) {
    switch (record.event) {
      case "decision":
        return [when(record), expansion(record, opened)];
      case "checkpoint":
        return [when(record), h("p", {}, "Saved ", linked(record.digest, record.name), `: ${percent(record.val_accuracy)} validation, ${percent(record.test_accuracy)} test`)];
      case "distilled": {
        const change = `${percent(record.val_accuracy_before)} → ${percent(record.val_accuracy)} validation`;
        return [when(record), h("p", {}, linked(record.digest, nameOf(record.digest ?? record.student)), ` learned from ${record.teacher ? nameOf(record.teacher) : "the labels"}: ${change}${record.digest ? "" : ", not better, not saved"}`)];
      }
      case "adapted":
        return [when(record), h("p", {}, `Finished: ${plural(record.checkpoints.length, "checkpoint")}, ${plural(record.epochs, "epoch")} each`)];
      default:
        return [when(record), h("p", {}, `Finished: ${plural(record.num_expansions, "expansion")}, ${plural(record.checkpoints.length, "checkpoint")}, ${duration(record.device_seconds)}`)];
    }
  }

  /** Of one that was distilled, that of the network before, where that is known here. */
  const nameOf = (digest) => knownName(digest) ?? digest.slice(0, 12);

  function knownName(digest) {
    const distilled = of("distilled").find((record) => record.digest === digest);
    return (distilled && knownName(distilled.student)) ?? (of("checkpoint").find((record) => record.digest === digest) ?? known.get(digest))?.name;
  }

  /** Its name, which leads to it where it is served. */
  function linked(digest, name) {
    const item = known.get(digest);
    return item ? h("a", { href: `#/explore?${paramsOf({ ...choice, dataset: item.dataset, model: item.id })}` }, name) : name;
  }

  const when = ({ epoch }) => h("p", { class: "when number" }, epoch === undefined ? "" : `epoch ${epoch}`);

  function expansion(record, opened) {
    const { epoch, chosen, candidates, threshold } = record;
    const at = records.indexOf(record);
    const before = records.slice(0, at).findLast((other) => ["epoch", "checkpoint"].includes(other.event))?.params;
    const after = records.slice(at).find((other) => other.event === "epoch" && other.branch_epoch === 0)?.params;
    const taken = takenOf(record);
    const best = candidates.reduce((a, b) => (b.score > a.score ? b : a));
    const scores = taken.map((candidate) => score(candidate.score));
    const isClearedByOther = taken.every((candidate) => candidate.score <= threshold) && best.score > threshold;
    const passes = Math.max(...candidates.map(({ change }) => candidates.filter((candidate) => candidate.change === change).length));
    const head = ["Way to grow", "Parameters", "Score", "± one standard error"];
    const rows = [...candidates]
      .sort((a, b) => b.score - a.score)
      .map((candidate) =>
        h(
          "tr",
          { class: taken.includes(candidate) ? "taken" : "" },
          h("td", {}, candidate.change, taken.includes(candidate) && h("span", { class: "tag" }, "taken")),
          h("td", { class: "number" }, `+${count(candidate.params_added)}`),
          h("td", { class: "number" }, score(candidate.score)),
          h("td", { class: "number" }, candidate.standard_error === null ? "" : score(candidate.standard_error)),
        ),
      );
    return h(
      "div",
      {},
      h("p", {}, h("strong", {}, `${hasGrown(record) ? "Grew" : "To grow, once this size is annealed and saved"}: ${counted(chosen).join("; ")}`)),
      h(
        "p",
        {},
        after && `${count(before)} → ${count(after)} parameters. `,
        `${scores.length === 1 ? "Score" : "Scores"} ${scores.join(", ")}; threshold ${score(threshold)}`,
        isClearedByOther && `, cleared by ${best.change} with ${score(best.score)}`,
        ".",
      ),
      h(
        "details",
        { open: opened.has(String(epoch)), "data-epoch": epoch },
        h("summary", {}, `${plural(candidates.length, "way")} to grow were scored${passes > 1 ? `, in ${passes} passes` : ""}`),
        scroller(`Candidates in epoch ${epoch}`, h("table", {}, h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows))),
      ),
    );
  }

  /** Each change that was taken, with how often if that was more than once. */
  function counted(chosen) {
    const times = new Map();
    for (const change of chosen) times.set(change, (times.get(change) ?? 0) + 1);
    return [...times].map(([change, number]) => (number > 1 ? `${change} (${number} times)` : change));
  }

  /** Candidates, in the order in which they were first taken. Older runs scored, in further passes, the same changes again. */
  function takenOf({ candidates, chosen }) {
    const isSound = (candidate) => candidate.score > STANDARD_ERRORS * candidate.standard_error;
    const taken = chosen.map((change, index) => {
      const scored = candidates.filter((candidate) => candidate.change === change && isSound(candidate));
      const before = chosen.slice(0, index).filter((other) => other === change).length;
      return scored[before] ?? scored.at(-1);
    });
    return [...new Set(taken)].filter(Boolean);
  }

  let waiting = null;
  function redraw() {
    waiting = null;
    drawSelect();
    drawHead();
    drawPlot();
    drawStory();
  }

  redraw();
  signal.addEventListener("abort", () => clearTimeout(waiting));
  // Also a run that stopped may be resumed; one that is finished says no more.
  const over = new AbortController();
  if (run.status === "finished") over.abort();
  follow(`runs/${run.name}/events`, run.end, take, AbortSignal.any([signal, over.signal]));

  function take(event, record) {
    if (event === "restart") records = [];
    else records.push(record);
    // Whether it is over, the server knows: after its end a run may still teach what it grew.
    if (run.status === "stopped") run.status = "running";
    waiting ??= setTimeout(redraw, REDRAW_MS);
  }

  poll(async () => {
    runs = (await get("runs", { signal })).items;
    const now = runs.find((item) => item.name === run.name);
    // When it is told a second time that the run is over, the last records have come.
    if (now?.status === "finished" && run.status === "finished") over.abort();
    const isNews = now && !over.signal.aborted && run.status !== now.status;
    if (isNews) run.status = now.status;
    drawSelect();
    if (isNews) drawHead();
  }, signal);

  return function renew(next) {
    known = new Map(next.items.map((item) => [item.id, item]));
    drawStory();
  };
}
