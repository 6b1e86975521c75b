// What sizes say of one image: a row for each, and for an elastic file one row that switches between its levels.

import { h } from "./dom.js";
import { compact, count, milliseconds, percent } from "./format.js";

/** { element, fills } where `fills` has one [id, function] that takes the service's answer. */
export function drawSize(item, text, chosen) {
  const answer = h("div", { class: "answer-labels" }, h("span", { class: "quiet" }, text));
  const time = h("div", { class: "answer-time number" });
  const isChosen = chosen?.id === item.id;
  const element = h("li", { class: isChosen ? "chosen" : "" }, size(item, isChosen), answer, time);
  const fill = (given) => {
    answer.replaceChildren(...guesses(given));
    time.replaceChildren(...times(given));
  };
  return { element, fills: [[item.id, fill]] };
}

/** The same for the levels of a file. `levels` remembers which level is looked at: by file, its checkpoint's id. */
export function drawFile(file, text, levels, chosen) {
  const { items, digest } = file;
  if (!levels.has(digest)) levels.set(digest, (items.find(({ id }) => id === chosen?.id) ?? items.at(-1)).id);
  const given = new Map();
  const answer = h("div", { class: "answer-labels" });
  const time = h("div", { class: "answer-time number" });
  const told = h("div", { class: "answer-size" });
  const spent = new Map(items.map(({ id }) => [id, h("small", {}, text)]));
  const segments = items.map((item) =>
    h(
      "label",
      {},
      h("input", { type: "radio", name: `level-${digest}`, value: item.id, checked: item.id === levels.get(digest), onchange: () => turn(item.id) }),
      h("span", {}, h("strong", {}, compact(item.params)), ` ${percent(item.accuracy)}`, spent.get(item.id)),
    ),
  );
  const element = h("li", {}, told, answer, time, h("fieldset", { class: "segments levels" }, h("legend", {}, "One file, several sizes: parameters, accuracy, time for this image"), segments));
  draw();

  function turn(id) {
    levels.set(digest, id);
    draw();
  }

  function draw() {
    const item = items.find(({ id }) => id === levels.get(digest)) ?? items.at(-1);
    const isChosen = chosen?.id === item.id;
    element.classList.toggle("chosen", isChosen);
    told.replaceChildren(...size(item, isChosen).childNodes);
    answer.replaceChildren(...(given.has(item.id) ? guesses(given.get(item.id)) : [h("span", { class: "quiet" }, text)]));
    time.replaceChildren(...(given.has(item.id) ? times(given.get(item.id)) : []));
  }

  const fill = (item) => (result) => {
    given.set(item.id, result);
    spent.get(item.id).textContent = milliseconds(result.timing_ms.forward);
    if (item.id === levels.get(digest)) draw();
  };
  return { element, fills: items.map((item) => [item.id, fill(item)]) };
}

function size(item, isChosen) {
  return h("div", { class: "answer-size" }, h("strong", {}, count(item.params)), h("span", { class: "quiet" }, ` parameters · ${percent(item.accuracy)}`), isChosen && h("div", {}, h("span", { class: "tag" }, "your choice")));
}

function guesses({ predictions: [first] }) {
  return first.map(({ label, score }, rank) => {
    const text = rank === 0 ? h("strong", {}, label) : label;
    return h("span", { class: "guess", "--share": score }, h("bdi", {}, text), h("span", { class: "bar", "aria-hidden": "true" }), h("span", { class: "number" }, percent(score, 0)));
  });
}

function times({ timing_ms: timing, took }) {
  return [h("span", { title: "in the network" }, milliseconds(timing.forward)), h("span", { class: "quiet" }, ` of ${milliseconds(took)}`)];
}
