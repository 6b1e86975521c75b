// What a run was trained on: what the images are, how many of each class, some of them, and what was left out.

import { h, notice, s, scroller } from "./dom.js";
import { count, plural } from "./format.js";
import { request } from "./service.js";

/** `run` is as the service shows it; runs of earlier versions say nothing of their images. */
export function drawImages({ name, data }, signal) {
  if (!data) return h("p", { class: "quiet" }, "This run has left no record of its images: it was begun by an earlier version.");
  const { about, findings, classes, num_classes: numClasses, sheet } = data;
  const strips = classes.slice(0, sheet.rows).map((one, row) => strip(one, row, sheet));
  const head = ["Class", "Some training images", "Training", "Validation", "Test"];
  const rows = classes.map((one, row) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("bdi", {}, one.name)),
      h("td", {}, strips[row]),
      [one.train, one.validation, one.test].map((number) => h("td", { class: "number" }, count(number))),
    ),
  );
  const told = h("div");
  fill();
  return [
    about.length > 0 && h("p", {}, about.join("; "), "."),
    findings.length > 0 && h("ul", { class: "findings", "aria-label": "Left out, and warnings" }, findings.map((sentence) => h("li", {}, sentence))),
    h("p", { class: "quiet" }, `As the networks see them, ${data.image.height}×${data.image.width} pixels`, numClasses > rows.length && `; the first ${plural(rows.length, "class", "classes")} of ${count(numClasses)}`, "."),
    told,
    scroller("Images of each class", h("table", { class: "images" }, h("thead", {}, h("tr", {}, head.map((title) => h("th", { scope: "col" }, title)))), h("tbody", {}, rows))),
  ];

  /** One file has all of them. It is fetched, not linked to, since a link sends no token. */
  async function fill() {
    try {
      const url = URL.createObjectURL(await (await request(`runs/${name}/images`, { signal })).blob());
      signal.addEventListener("abort", () => URL.revokeObjectURL(url));
      for (const one of strips) one.querySelector("image").setAttribute("href", url);
    } catch (error) {
      if (error.name !== "AbortError") told.replaceChildren(notice(error));
    }
  }
}

/** The part of the sheet that has the images of one class. */
function strip({ name, train }, row, { columns, rows, height, width }) {
  const number = Math.min(columns, train);
  const gaps = Array.from({ length: Math.max(0, number - 1) }, (_, index) => `M${(index + 1) * width} ${row * height}v${height}`).join("");
  return s(
    "svg",
    { viewBox: `0 ${row * height} ${number * width} ${height}`, "--columns": number * (width / height), role: "img", "aria-label": `${plural(number, "training image")} of ${name}` },
    s("image", { width: columns * width, height: rows * height, preserveAspectRatio: "none" }),
    s("path", { d: gaps }),
  );
}
