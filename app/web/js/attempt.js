// One image, every size: who says what, how sure, and how fast.

import { drawFile, drawSize } from "./answers.js";
import { ask, budgetOf } from "./choice.js";
import { h, notice } from "./dom.js";
import { filesOf } from "./elastic.js";
import { count, milliseconds } from "./format.js";
import { drawingPad, fromDrawing, fromFile, fromVideo } from "./picture.js";
import { request } from "./service.js";
import { emptyZoo, loadDetail, loadFront } from "./zoo.js";

export const TITLE = "Try";

// Beyond this many sizes only those are asked that nothing smaller beats.
const MAX_SIZES = 16;
const MAX_DEADLINE_MS = 60_000;
// More classes are told on demand.
const MAX_NAMED = 20;
// Drawn for this page, by data set; file names below app/web/examples.
const EXAMPLES = {
  cifar10: ["airplane", "automobile", "frog", "ship", "truck"],
  digits: ["zero", "one", "four", "seven"],
};

/** With those of which another level is asked anyway. */
function withLevels(front, all) {
  const files = new Set(front.flatMap(({ elastic }) => elastic?.file ?? []));
  const ids = new Set(front.map(({ id }) => id));
  return all.filter(({ id, elastic }) => ids.has(id) || files.has(elastic?.file));
}

export async function show(page, { zoo, choice, signal }) {
  const { dataset } = choice;
  const all = zoo.items.filter((item) => item.dataset === dataset);
  if (all.length === 0) return page.append(emptyZoo());
  const items = all.length > MAX_SIZES ? withLevels(await loadFront(dataset, "params", signal), all) : all;
  const { descriptor } = await loadDetail(items[0].id, signal);
  const chosen = choice.model || choice.value !== null ? await ask(choice, signal).catch(() => null) : null;

  // What cannot be decoded is not shown; the service says what is wrong with it.
  const preview = h("img", { alt: "The image that was sent", hidden: true, onload: () => (preview.hidden = false), onerror: () => (preview.hidden = true) });
  const verdict = h("p", { class: "verdict", role: "status" });
  const answers = h("ol", { class: "answers" });
  const input = h("input", { type: "file", accept: "image/*", id: "file", class: "away", onchange: () => take([...input.files]) });
  const video = h("video", { muted: true, playsinline: true, autoplay: true });
  const shoot = h("button", { type: "button", onclick: async () => send(await fromVideo(video)) }, "Take the picture");
  const leave = h("button", { type: "button", class: "plain", onclick: closeCamera }, "Close the camera");
  const camera = h("div", { class: "camera", hidden: true }, video, shoot, leave);
  // Without https only this machine itself may use its camera; phones then offer theirs beside the files.
  const opener = navigator.mediaDevices && h("button", { type: "button", onclick: openCamera }, "Use the camera");
  const times = h("p", { class: "quiet", hidden: true }, "The first time is the network's own; the second goes from sending the image to having the answer.");

  // --- where an image comes from -----------------------------------------------------------------------------

  async function take([file, ...others]) {
    input.value = "";
    if (!file) return;
    try {
      await send(await fromFile(file));
      const left = others.map(({ name }) => name).join(", ");
      if (left) verdict.append(h("span", { class: "quiet" }, ` This is ${file.name}: one image at a time. Left out: ${left}.`));
    } catch (error) {
      verdict.replaceChildren(notice(error));
    }
  }

  async function openCamera() {
    closeCamera();
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      verdict.replaceChildren(notice(new Error(`The camera cannot be used: ${error.message}`)));
      return;
    }
    if (signal.aborted) return closeCamera();
    camera.hidden = false;
    shoot.focus();
  }

  function closeCamera() {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
    if (camera.contains(document.activeElement)) opener.focus();
    camera.hidden = true;
  }

  const drop = h(
    "div",
    { class: "drop" },
    h("label", { for: "file", class: "button" }, "Choose an image"),
    input,
    opener,
    h("p", { class: "quiet" }, "or drop one here, or paste it"),
  );
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const { files } = event.dataTransfer;
    if (files.length === 0) verdict.replaceChildren(notice(new Error("An image file was expected; what was dropped is a text or a link.")));
    take([...files]);
  });
  document.addEventListener("paste", (event) => take([...event.clipboardData.files]), { signal });
  signal.addEventListener("abort", closeCamera);

  function example(name) {
    const url = new URL(`../examples/${dataset}-${name}.svg`, import.meta.url).href;
    return h("button", { type: "button", class: "example", onclick: async () => send(await fromDrawing(url)) }, h("img", { src: url, alt: name, width: 64, height: 64 }));
  }

  // --- what the sizes say ------------------------------------------------------------------------------------

  let sending = new AbortController();
  let sent = null;
  const policy = policyControl(() => answer());
  const invitation = () => (policy.isAdaptive() ? "Give an image: the most accurate size that meets the deadline under the present load answers." : "Give an image, and each of the sizes below answers.");
  const levels = new Map(); // Of each elastic file, the level that is looked at.

  function send(picture) {
    closeCamera();
    URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(picture);
    sent = picture;
    return answer();
  }

  /** Asks for what was sent last. */
  async function answer() {
    sending.abort();
    sending = new AbortController();
    const current = AbortSignal.any([signal, sending.signal]);
    verdict.textContent = sent ? "Asking …" : invitation();
    times.hidden = true;
    try {
      await (policy.isAdaptive() ? askOne(current) : askEach(current));
      times.hidden = sent === null;
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!policy.isAdaptive()) list("");
      verdict.replaceChildren(notice(error));
    }
  }

  /** One after the other: side by side they would take each other's time. */
  async function askEach(current) {
    const fills = list(sent ? "…" : "");
    if (!sent) return;
    const labels = [];
    for (const item of items) {
      const found = await predict({ model: item.id }, current);
      fills.get(item.id)(found);
      labels.push(found.predictions[0][0].label);
    }
    verdict.replaceChildren(...agreement(labels));
  }

  /** The service picks the size: the most accurate within the deadline that the budget allows. */
  async function askOne(current) {
    answers.replaceChildren();
    if (!sent) return;
    const budget = choice.model || choice.value === null ? { dataset } : Object.fromEntries(budgetOf(choice));
    const found = await predict({ ...budget, policy: "adaptive", deadline_ms: policy.deadline() }, current);
    const item = all.find(({ id }) => id === found.model.id) ?? found.model;
    const { element, fills } = drawSize(item, "", chosen);
    fills[0][1](found);
    const { took_ms: took, expected_ms: expected } = found.adaptive;
    const level = item.elastic ? `Level ${item.elastic.level} of its file. ` : "";
    element.append(h("p", { class: "reason" }, `${level}Chosen as the ${found.because}. Expected in ${milliseconds(expected)}, ready in ${milliseconds(took)}.`));
    answers.replaceChildren(element);
    verdict.replaceChildren(`${count(item.params)} parameters say `, h("bdi", {}, found.predictions[0][0].label), ".");
  }

  /**
   * A row for each size, and one for all levels of a file, with `text` in the place of the answer. Returns what takes
   * the answer of each checkpoint, by its id.
   */
  function list(text) {
    const files = filesOf(items);
    const isLevel = new Set(files.flatMap((file) => file.items));
    const rows = [...files.map((file) => drawFile(file, text, levels, chosen)), ...items.filter((item) => !isLevel.has(item)).map((item) => drawSize(item, text, chosen))];
    answers.replaceChildren(...rows.map(({ element }) => element));
    return new Map(rows.flatMap(({ fills }) => fills));
  }

  async function predict(asked, current) {
    const began = performance.now();
    const options = { method: "POST", body: sent, headers: { "Content-Type": sent.type || "image/png" }, signal: current };
    const found = await (await request(`predict?${new URLSearchParams({ ...asked, top_k: 3 })}`, options)).json();
    return { ...found, took: performance.now() - began };
  }

  function agreement(labels) {
    const last = labels.at(-1);
    let first = labels.length - 1;
    while (first > 0 && labels[first - 1] === last) first -= 1;
    const from = first === labels.length - 1 ? "Only the largest" : `From ${count(items[first].params)} parameters on, every size`;
    return [`${first === 0 ? "Every size" : from} says `, h("bdi", {}, last), "."];
  }

  page.append(
    h("h1", {}, "One image, every size"),
    h(
      "div",
      { class: "workbench try-bench" },
      h("section", { "aria-label": "Answers" }, policy.element, verdict, answers, times),
      h(
        "section",
        { class: "source", "aria-label": "Image" },
        drop,
        camera,
        descriptor.preprocessing.color === "gray" && drawingPad(send),
        EXAMPLES[dataset] && h("div", { class: "examples", role: "group", "aria-label": "Examples" }, EXAMPLES[dataset].map(example)),
        h("figure", { class: "sent" }, preview),
        known(descriptor),
      ),
    ),
  );
  answer();
}

/** What the networks look at, and their classes; very many of them are told on demand. */
function known({ architecture, classes }) {
  const names = classes.flatMap((name, index) => [index > 0 && ", ", h("bdi", {}, name)]);
  const size = `These networks look at ${architecture.input_height}×${architecture.input_width} pixels and know`;
  if (classes.length <= MAX_NAMED) return h("p", { class: "quiet" }, `${size}: `, names, ".");
  return h("details", { class: "quiet" }, h("summary", {}, `${size} ${count(classes.length)} classes`), h("p", {}, names));
}

/** Who answers: { element, isAdaptive, deadline }; `turn()` whenever that changes. */
function policyControl(turn) {
  const input = h("input", { type: "number", min: 1, max: MAX_DEADLINE_MS, step: "any", value: 20, onchange: turn });
  const within = h("label", { class: "deadline", hidden: true }, "within ", input, " ms");
  const segment = (value, text, checked) => h("label", {}, h("input", { type: "radio", name: "policy", value, checked, onchange: change }), h("span", {}, text));
  const adaptive = segment("adaptive", "The best in time", false);

  function change() {
    within.hidden = !isAdaptive();
    turn();
  }

  const isAdaptive = () => adaptive.firstChild.checked;
  const element = h("div", { class: "toolbar policy" }, h("fieldset", { class: "segments" }, h("legend", { class: "away" }, "Who answers"), segment("each", "Every size", true), adaptive), within);
  return { element, isAdaptive, deadline: () => input.value };
}
