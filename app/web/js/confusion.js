// The confusion matrix: the classes most often confused in words, and the whole matrix.

import { h, scroller } from "./dom.js";
import { count } from "./format.js";

const NUM_WORST = 5;

export function drawConfusion({ classes, metrics }) {
  const { confusion } = metrics;
  if (!confusion) return [h("p", { class: "quiet" }, "Not recorded: the file is an older one, was not tested by its run, or has more than 50 classes.")];
  const totals = confusion.map((row) => row.reduce((sum, number) => sum + number, 0));
  const pairs = confusion.flatMap((row, from) => row.map((number, to) => ({ from, to, number })));
  const worst = pairs.filter(({ from, to, number }) => from !== to && number > 0).sort((a, b) => b.number - a.number);
  const name = (index) => h("bdi", {}, classes[index]);
  const words = ({ from, to, number }) => [name(from), " taken for ", name(to), `: ${count(number)} of ${count(totals[from])}`];
  const row = (numbers, from) => h("tr", {}, h("th", { scope: "row" }, name(from)), numbers.map((number, to) => cell(number, from, to)));
  const cell = (number, from, to) =>
    h(
      "td",
      { class: from === to ? "right" : "", "--share": totals[from] ? number / totals[from] : 0, title: `${classes[from]} taken for ${classes[to]}` },
      number > 0 && count(number),
    );
  return [
    worst.length > 0 ? h("ol", { class: "worst", "aria-label": "Most often confused" }, worst.slice(0, NUM_WORST).map((pair) => h("li", {}, words(pair)))) : h("p", {}, "No test image was taken for another class."),
    h("p", { class: "quiet" }, "A row has the test images of one class, a column what was predicted for them."),
    scroller(
      "Confusion matrix",
      h(
        "table",
        { class: "confusion" },
        h("thead", {}, h("tr", {}, h("td"), classes.map((_, to) => h("th", { scope: "col" }, name(to))))),
        h("tbody", {}, confusion.map(row)),
      ),
    ),
  ];
}
