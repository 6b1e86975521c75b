// One image, every size: who says what, how sure, and how fast.

import { ask } from "./choice.js";
import { drawFile, drawSize } from "./answers.js";
import { h, notice } from "./dom.js";
import { filesOf } from "./elastic.js";
import { count } from "./format.js";
import { drawingPad, fromDrawing, fromFile, fromVideo } from "./picture.js";
import { request } from "./service.js";
import { emptyZoo, loadDetail, loadFront } from "./zoo.js";

export const TITLE = "Try";

// Beyond this many sizes only those are asked that nothing smaller beats.
const MAX_SIZES = 16;
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
  const input = h("input", { type: "file", accept: "image/*", id: "file", class: "away", onchange: () => take(input.files[0]) });
  const video = h("video", { muted: true, playsinline: true, autoplay: true });
  const shoot = h("button", { type: "button", onclick: async () => send(await fromVideo(video)) }, "Take the picture");
  const leave = h("button", { type: "button", class: "plain", onclick: closeCamera }, "Close the camera");
  const camera = h("div", { class: "camera", hidden: true }, video, shoot, leave);
  // Without https only this machine itself may use its camera; phones then offer theirs beside the files.
  const opener = navigator.mediaDevices && h("button", { type: "button", onclick: openCamera }, "Use the camera");
  const times = h("p", { class: "quiet", hidden: true }, "The first time is the network's own; the second goes from sending the image to having the answer.");

  // --- where an image comes from -----------------------------------------------------------------------------

  async function take(file) {
    input.value = "";
    if (!file) return;
    try {
      await send(await fromFile(file));
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
    take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files[0]), { signal });
  signal.addEventListener("abort", closeCamera);

  function example(name) {
    const url = new URL(`../examples/${dataset}-${name}.svg`, import.meta.url).href;
    return h("button", { type: "button", class: "example", onclick: async () => send(await fromDrawing(url)) }, h("img", { src: url, alt: name, width: 64, height: 64 }));
  }

  // --- what the sizes say ------------------------------------------------------------------------------------

  let sending = new AbortController();
  const levels = new Map(); // Of each elastic file, the level that is looked at.

  async function send(picture) {
    closeCamera();
    sending.abort();
    sending = new AbortController();
    const current = AbortSignal.any([signal, sending.signal]);
    URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(picture);
    verdict.textContent = "Asking …";
    times.hidden = true;
    const fills = list("…");
    const labels = [];
    try {
      // One after the other: side by side they would take each other's time.
      for (const item of items) {
        const answer = await predict(item, picture, current);
        fills.get(item.id)(answer);
        labels.push(answer.predictions[0][0].label);
      }
      verdict.textContent = agreement(labels);
      times.hidden = false;
    } catch (error) {
      if (error.name === "AbortError") return;
      list("");
      verdict.replaceChildren(notice(error));
    }
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

  async function predict(item, picture, current) {
    const began = performance.now();
    const options = { method: "POST", body: picture, headers: { "Content-Type": picture.type || "image/png" }, signal: current };
    const answer = await (await request(`predict?${new URLSearchParams({ model: item.id, top_k: 3 })}`, options)).json();
    return { ...answer, took: performance.now() - began };
  }

  function agreement(labels) {
    const last = labels.at(-1);
    let first = labels.length - 1;
    while (first > 0 && labels[first - 1] === last) first -= 1;
    if (first === 0) return `Every size says ${last}.`;
    if (first === labels.length - 1) return `Only the largest says ${last}.`;
    return `From ${count(items[first].params)} parameters on, every size says ${last}.`;
  }

  page.append(
    h("h1", {}, "One image, every size"),
    h(
      "div",
      { class: "workbench try-bench" },
      h("section", { "aria-label": "Answers" }, verdict, answers, times),
      h(
        "section",
        { class: "source", "aria-label": "Image" },
        drop,
        camera,
        descriptor.preprocessing.color === "gray" && drawingPad(send),
        EXAMPLES[dataset] && h("div", { class: "examples", role: "group", "aria-label": "Examples" }, EXAMPLES[dataset].map(example)),
        h("figure", { class: "sent" }, preview),
        h("p", { class: "quiet" }, `These networks look at ${descriptor.architecture.input_height}×${descriptor.architecture.input_width} pixels and know: ${descriptor.classes.join(", ")}.`),
      ),
    ),
  );
  verdict.textContent = "Give an image, and each of the sizes below answers.";
  list("");
}
