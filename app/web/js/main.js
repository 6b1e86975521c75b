// The frame of the page: which view, which data set, light or dark, and the token.

import * as attempt from "./attempt.js";
import { choiceOf, paramsOf, passedOver } from "./choice.js";
import { h, notice } from "./dom.js";
import * as download from "./download.js";
import * as explore from "./explore.js";
import * as grow from "./grow.js";
import { onTokenNeeded, poll } from "./service.js";
import { countAll, loadZoo } from "./zoo.js";

const VIEWS = { explore, try: attempt, grow, download };
const main = document.getElementById("main");
const datasets = document.getElementById("dataset");
let leave = new AbortController();
let params = new URLSearchParams();

/** The address is #/view?choice: a link to it shows the same. */
function address() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const isView = Object.hasOwn(VIEWS, path);
  return { name: isView ? path : "explore", unknown: isView || path === "" ? [] : [`#/${path}, which is no view`], params: new URLSearchParams(query) };
}

/** A choice made in a view goes into the address, and along to the other views. */
function remember(name, next) {
  params = next;
  history.replaceState(null, "", `#/${name}?${params}`);
  for (const link of document.querySelectorAll("nav a")) link.href = `#/${link.dataset.view}?${params}`;
}

async function show() {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const asked = address();
  for (const link of document.querySelectorAll("nav a")) {
    link.toggleAttribute("aria-current", link.dataset.view === asked.name);
    if (link.dataset.view === asked.name) link.setAttribute("aria-current", "page");
  }
  const view = VIEWS[asked.name];
  document.title = `${view.TITLE} · Checkpoint zoo`;
  main.setAttribute("aria-busy", "true");
  try {
    const zoo = await loadZoo(signal);
    const choice = choiceOf(asked.params, zoo);
    listDatasets(zoo, choice.dataset);
    const carried = paramsOf(choice);
    if (asked.params.has("run")) carried.set("run", asked.params.get("run"));
    remember(asked.name, carried);
    const page = h("div", { class: `view ${asked.name}` });
    const odd = [...asked.unknown, ...passedOver(asked.params, zoo)];
    main.replaceChildren(...(odd.length > 0 ? [notice(new Error(`Of the address was passed over: ${odd.join("; ")}.`))] : []), page);
    const given = { zoo, choice, params: carried, remember: (next) => remember(asked.name, next), again: show, signal };
    followZoo(zoo, choice.dataset, await view.show(page, given), signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    main.replaceChildren(notice(error, h("button", { type: "button", onclick: show }, "Try again")));
  } finally {
    if (!signal.aborted) main.removeAttribute("aria-busy");
  }
}

/** Checkpoints that come and go while a view is open: a view's `renew` takes the zoo as it has become. */
function followZoo(zoo, dataset, renew, signal) {
  poll(async () => {
    if ((await countAll(signal)) === zoo.total) return;
    const now = await loadZoo(signal);
    // An open list would close.
    if (String(now.datasets) !== String(zoo.datasets)) listDatasets(now, dataset);
    if (renew) await renew(now);
    else if (zoo.total === 0) return show();
    zoo = now;
  }, signal);
}

function listDatasets(zoo, chosen) {
  datasets.replaceChildren(...zoo.datasets.map((name) => h("option", { value: name, selected: name === chosen }, name)));
  datasets.closest("label").hidden = zoo.datasets.length < 2;
}

datasets.addEventListener("change", () => {
  location.hash = `#/${address().name}?${new URLSearchParams({ dataset: datasets.value })}`;
});

// The address holds the choice: a link to a place within the page would lose it.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

// --- light or dark -----------------------------------------------------------------------------------------

const THEMES = { auto: "As the system", light: "Light", dark: "Dark" };
const theme = document.getElementById("theme");

function setTheme(name) {
  localStorage.setItem("zoo-theme", name);
  document.documentElement.dataset.theme = name;
  theme.textContent = { auto: "◐", light: "○", dark: "●" }[name];
  theme.setAttribute("aria-label", `Theme: ${THEMES[name]}`);
  theme.title = `Theme: ${THEMES[name]}`;
}

theme.addEventListener("click", () => {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
});
setTheme(localStorage.getItem("zoo-theme") ?? "auto");

// --- the token ---------------------------------------------------------------------------------------------

const dialog = document.getElementById("token");
let answer = null;
dialog.addEventListener("cancel", (event) => event.preventDefault());

/** Several requests may be refused at once: all wait for the one answer. */
onTokenNeeded((isRefused) => {
  answer ??= new Promise((resolve) => {
    dialog.querySelector("#token-detail").textContent = isRefused
      ? "The token you gave is not the one of this zoo. Give another."
      : "Whoever runs it can give you one.";
    dialog.querySelector("form").addEventListener(
      "submit",
      (event) => {
        resolve(new FormData(event.target).get("token"));
        answer = null;
      },
      { once: true },
    );
    dialog.showModal();
  });
  return answer;
});

addEventListener("hashchange", show);
await show();
