// What a person asks for, as the page's address holds it, and the service's answer to it.

import { COMPLEXITIES, amount, percent } from "./format.js";
import { get } from "./service.js";
import { loadDetail } from "./zoo.js";

/**
 * { dataset, x, goal, value, model }. With goal "accuracy" the service is asked for the smallest checkpoint of at
 * least `value`, with "size" for the most accurate one of at most `value` of the complexity `x`; `model` names one.
 */
export function choiceOf(params, zoo) {
  const bound = Object.keys(COMPLEXITIES).find((name) => params.has(`max_${name}`));
  const dataset = zoo.datasets.includes(params.get("dataset")) ? params.get("dataset") : zoo.defaultDataset;
  const asked = params.get("x");
  const goal = bound ? "size" : "accuracy";
  const given = Number(params.get(bound ? `max_${bound}` : "min_acc"));
  const isBound = given > 0 && (bound ? given < Infinity : given <= 1);
  return {
    dataset,
    goal,
    x: bound ?? (Object.hasOwn(COMPLEXITIES, asked ?? "") ? asked : "params"),
    value: isBound ? given : null,
    model: params.get("model"),
    sure: params.has("confidence"),
  };
}

/** What of an address means nothing to `choiceOf`, in words. */
export function passedOver(params, zoo) {
  const bounds = Object.keys(COMPLEXITIES).map((name) => `max_${name}`);
  const expected = {
    dataset: [(given) => zoo.datasets.length === 0 || zoo.datasets.includes(given), `one of ${zoo.datasets.join(", ")}`],
    x: [(given) => Object.hasOwn(COMPLEXITIES, given), `one of ${Object.keys(COMPLEXITIES).join(", ")}`],
    min_acc: [(given) => given >= 0 && given <= 1, "a fraction, as 0.8,"],
    confidence: [(given) => Number(given) === 0.95, "0.95"],
    model: [Boolean, "a checkpoint's name or digest"],
    run: [Boolean, "a run's name"],
    ...Object.fromEntries(bounds.map((name) => [name, [(given) => given > 0 && given < Infinity, "a number above 0"]])),
  };
  const counts = ["model", ...bounds, "min_acc"].find((name) => params.has(name));
  return [...params].flatMap(([name, given]) => {
    if (!Object.hasOwn(expected, name)) return [`${name} is no part of it`];
    const [isRight, what] = expected[name];
    if (!isRight(given)) return [`${name}=${given}, where ${what} was expected`];
    const isBeside = name !== counts && (name === "min_acc" || bounds.includes(name));
    return isBeside ? [`${name}=${given}, as ${counts} is given too`] : [];
  });
}

export function paramsOf({ dataset, goal, x, value, model, sure }) {
  const params = new URLSearchParams({ dataset });
  if (model) params.set("model", model);
  else if (value !== null) params.set(goal === "accuracy" ? "min_acc" : `max_${x}`, value);
  if (goal === "accuracy" && x !== "params") params.set("x", x);
  if (goal === "accuracy" && sure && !model) params.set("confidence", "0.95");
  return params;
}

/** The part of the choice that the service selects by. */
export function budgetOf({ dataset, goal, x, value, sure }) {
  const params = new URLSearchParams({ dataset, [goal === "accuracy" ? "min_acc" : `max_${x}`]: value });
  if (goal === "accuracy" && sure) params.set("confidence", "0.95");
  return params;
}

/** The chosen checkpoint; throws a Problem where nothing meets the budget. */
export async function ask(choice, signal) {
  if (choice.model) return loadDetail(choice.model, signal);
  return (await get(`models?${budgetOf(choice)}&limit=1`, { signal })).selected;
}

export function inWords({ goal, x, value, model, sure }) {
  if (model) return "The checkpoint you picked";
  if (goal === "size") return `The most accurate with at most ${amount(x, value)}`;
  return `The smallest that reaches ${percent(value)}${sure ? " with 95 % confidence" : ""}`;
}

/** Runs `work` for the newest of many calls: while one runs, those that come wait, and only the last of them is run. */
export function latest(work) {
  let running = false;
  let waiting = null;
  return async function run(...given) {
    if (running) {
      waiting = given;
      return;
    }
    running = true;
    try {
      await work(...given);
    } finally {
      running = false;
    }
    if (waiting) {
      const next = waiting;
      waiting = null;
      await run(...next);
    }
  };
}
