// The file of the chosen size, to take away.

import { budgetControl, rangeOf, usual } from "./budget.js";
import { ask, inWords, latest, paramsOf } from "./choice.js";
import { drawReadout } from "./detail.js";
import { h, notice } from "./dom.js";
import { bytes } from "./format.js";
import { request, token } from "./service.js";
import { base, drawSnippets, snippetsOf } from "./snippets.js";
import { emptyZoo, loadDetail } from "./zoo.js";

export const TITLE = "Download";

const FORMATS = {
  safetensors: { title: "Safetensors", text: "Weights and the whole descriptor: for this project's own code, to train on, or to be served." },
  onnx: { title: "ONNX", text: "The network ready to run. Takes uint8 pixels as (batch, height, width, channels), gives probabilities; preprocessing is inside." },
};

export async function show(page, { zoo, choice, remember, signal }) {
  const items = zoo.items.filter((item) => item.dataset === choice.dataset);
  if (items.length === 0) return page.append(emptyZoo());
  const control = budgetControl(change);
  const range = rangeOf(items, choice.x);
  const readout = h("div", { class: "readout", "aria-live": "polite" });
  const files = h("div", { class: "files" });
  const lines = h("section", { class: "lines-section" });

  const select = latest(async () => {
    try {
      const found = await loadDetail((await ask(choice, signal)).id, signal);
      readout.replaceChildren(...drawReadout(inWords(choice), found));
      files.replaceChildren(...Object.keys(FORMATS).map((format) => drawFile(found, format)));
      const snippets = Object.keys(FORMATS).flatMap((format) => snippetsOf(choice, found.id, format).slice(0, 2));
      lines.replaceChildren(h("h2", {}, "The same from a terminal"), drawSnippets([...snippets, ...upgradable(found)]));
    } catch (error) {
      if (error.name === "AbortError") return;
      const nearest = error.problem?.best_available;
      const pick = () => change({ ...choice, model: nearest.id });
      readout.replaceChildren(notice(error, nearest && h("button", { type: "button", onclick: pick }, `Take ${nearest.name}`)));
      files.replaceChildren();
      lines.replaceChildren();
    }
  });

  function change(next) {
    choice = next;
    remember(paramsOf(choice));
    control.update(choice, range);
    select();
  }

  /** Of a level of an elastic file: its beginning, up to this level, to which larger ones can be added later. */
  function upgradable({ id, elastic }) {
    if (!elastic) return [];
    return [{ title: "Command line, to be upgraded later", text: `zoo get ${id.slice(0, 16)} --upgradable -o elastic.safetensors --url ${base()}` }];
  }

  function drawFile(item, format) {
    const { title, text } = FORMATS[format];
    const name = `${item.name}.${format}`;
    const url = `models/${item.id}/file${format === "onnx" ? "?format=onnx" : ""}`;
    const facts = h("p", { class: "quiet" }, "…");
    const told = h("p", { role: "status", class: "quiet" });
    describe();
    const link = h("a", { href: url, download: name, class: "button primary", onclick: (event) => token() && fetchWithToken(event) }, `Download ${title}`);
    return h("section", { class: "file" }, h("h2", {}, title), h("p", {}, text), link, facts, told);

    async function describe() {
      try {
        const { headers } = await request(url, { method: "HEAD", signal });
        const sha256 = headers.get("etag").replaceAll('"', "");
        facts.replaceChildren(`${bytes(Number(headers.get("content-length")))} · SHA-256 `, h("code", { title: sha256 }, `${sha256.slice(0, 16)}…`));
      } catch (error) {
        if (error.name !== "AbortError") facts.replaceChildren(notice(error));
      }
    }

    /** A link sends no token: the file is fetched, and saved from here. */
    async function fetchWithToken(event) {
      event.preventDefault();
      try {
        const blob = await (await request(url)).blob();
        const saved = h("a", { href: URL.createObjectURL(blob), download: name });
        saved.click();
        URL.revokeObjectURL(saved.href);
        told.textContent = `${name} is saved.`;
      } catch (error) {
        told.replaceChildren(notice(error));
      }
    }
  }

  choice.value ??= usual(choice.goal, range);
  page.append(h("h1", {}, "Download it"), h("div", { class: "workbench" }, h("div", {}, control.element, files), readout), lines);
  change(choice);
}
