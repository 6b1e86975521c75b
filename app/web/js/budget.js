// The control that a budget is set with: a goal, a slider, and what the slider says.

import { h } from "./dom.js";
import { amount, COMPLEXITIES, percent } from "./format.js";

const SIZE_STEPS = 240;

/** The accuracies and sizes that a budget can be set to: the last accuracy is one that the best checkpoint reaches. */
export function rangeOf(items, x) {
  const accuracies = items.flatMap((item) => item.accuracy ?? []);
  const sizes = items.flatMap((item) => item[x] ?? []);
  const lowest = Math.min(...accuracies);
  const highest = Math.max(...accuracies);
  return {
    // 0.57 * 200 is a little less than 114: hence the 1e-9.
    accuracy: accuracies.length ? [Math.floor(lowest * 50) / 50, Math.floor(highest * 200 + 1e-9) / 200] : [0, 1],
    size: sizes.length ? [Math.min(...sizes) * 0.8, Math.max(...sizes) * 1.25] : [1, 10],
  };
}

/** What is asked for before anybody has asked: a good deal of the best accuracy, or a middling size. */
export function usual(goal, range) {
  const [low, high] = range[goal];
  return goal === "accuracy" ? rounded("accuracy", low + (high - low) * 0.6) : rounded("size", Math.sqrt(low * high));
}

/** To half a per cent; to two digits. */
export function rounded(goal, value) {
  return goal === "accuracy" ? Math.round(value * 200) / 200 : Number(value.toPrecision(2));
}

/** `change(choice)` is called with every move of the slider; `update(choice, range)` sets it. */
export function budgetControl(change) {
  let choice;
  let range;
  const slider = h("input", { type: "range", id: "budget", oninput: () => change({ ...choice, model: null, value: read() }) });
  const said = h("output", { for: "budget", class: "budget-value" });
  const goals = ["accuracy", "size"].map((goal) =>
    h("label", {}, h("input", { type: "radio", name: "goal", value: goal, onchange: () => turn(goal) }), h("span", {}, goal === "accuracy" ? "Accurate enough" : "Small enough")),
  );
  const label = h("label", { for: "budget" });

  function turn(goal) {
    change({ ...choice, goal, model: null, sure: false, value: usual(goal, range) });
  }

  function read() {
    if (choice.goal === "accuracy") return rounded("accuracy", Number(slider.value));
    const [low, high] = range.size.map(Math.log);
    return rounded("size", Math.exp(low + ((high - low) * slider.value) / SIZE_STEPS));
  }

  function update(nextChoice, nextRange) {
    [choice, range] = [nextChoice, nextRange];
    for (const goal of goals) goal.firstChild.checked = goal.firstChild.value === choice.goal;
    const byAccuracy = choice.goal === "accuracy";
    const value = choice.value ?? usual(choice.goal, range);
    const inWords = byAccuracy ? percent(value) : amount(choice.x, value);
    label.textContent = byAccuracy ? "Test accuracy, at least" : `${COMPLEXITIES[choice.x].axis}, at most`;
    if (byAccuracy) {
      [slider.min, slider.max] = range.accuracy;
      slider.step = 0.005;
      slider.value = value;
    } else {
      const [low, high] = range.size.map(Math.log);
      [slider.min, slider.max, slider.step] = [0, SIZE_STEPS, 1];
      slider.value = ((Math.log(value) - low) / (high - low)) * SIZE_STEPS;
    }
    said.textContent = choice.model ? "picked by hand" : inWords;
    slider.setAttribute("aria-valuetext", inWords);
  }

  const element = h(
    "div",
    { class: "budget" },
    h("fieldset", { class: "segments" }, h("legend", { class: "away" }, "Goal"), ...goals),
    h("div", { class: "budget-slider" }, h("div", { class: "budget-label" }, label, said), slider),
  );
  return { element, update };
}
