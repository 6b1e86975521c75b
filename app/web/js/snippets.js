// The lines that make a choice again: with curl, in Python, on the command line.

import { budgetOf } from "./choice.js";
import { h } from "./dom.js";
import { token } from "./service.js";

export const base = () => new URL(".", location.href.split("#")[0]).href.replace(/\/$/, "");

/**
 * Where one was picked by hand, `id` says which is meant. So it does for ONNX within so many bytes: the service counts
 * those of the file that it is asked for, the page those of the other.
 */
export function snippetsOf(choice, id, format = "safetensors") {
  const countsOtherBytes = format === "onnx" && choice.goal === "size" && choice.x === "bytes";
  const budget = choice.model || countsOtherBytes ? null : budgetOf(choice);
  const authorization = token() ? ' -H "Authorization: Bearer $ZOO_TOKEN"' : "";
  const options = budget ? [...budget].map(([name, value]) => `--${name.replaceAll("_", "-")} ${value}`).join(" ") : id.slice(0, 16);
  const keywords = budget ? [...budget].map(([name, value]) => `${name}=${name === "dataset" ? `"${value}"` : value}`).join(", ") : "";
  const onnx = format === "onnx";
  const query = new URLSearchParams([...(budget ?? []), ...(onnx ? [["format", "onnx"]] : [])]).toString();
  const file = `models/${budget ? "" : `${id}/`}file${query && `?${query}`}`;
  return [
    { title: onnx ? "curl, ONNX" : "curl", text: `curl -fOJ${authorization} '${base()}/${file}'` },
    { title: onnx ? "Command line, ONNX" : "Command line", text: `zoo get ${options}${onnx ? " --format onnx" : ""} --url ${base()}` },
    {
      title: "Python",
      text: [
        ...(token() ? ["import os", ""] : []),
        "from zoo.client import ZooClient",
        "",
        `with ZooClient("${base()}"${token() ? ', token=os.environ["ZOO_TOKEN"]' : ""}) as zoo:`,
        `    chosen = zoo.${budget ? `${choice.goal === "accuracy" ? "smallest" : "best"}(${keywords})` : `show("${id.slice(0, 16)}")`}`,
        "    print(chosen.name, chosen.params, chosen.accuracy)",
      ].join("\n"),
    },
  ];
}

export function drawSnippets(snippets) {
  return h(
    "div",
    { class: "snippets" },
    snippets.map(({ title, text }) => {
      const code = h("pre", { tabindex: "0", "aria-label": title }, h("code", {}, text));
      return h("div", { class: "snippet" }, h("div", { class: "snippet-head" }, h("h3", {}, title), copyButton(code, title)), code);
    }),
  );
}

function copyButton(code, title) {
  const button = h("button", { type: "button", class: "plain", onclick: copy, "aria-label": `Copy the line for ${title}` }, "Copy");

  async function copy() {
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      // Over plain HTTP from another machine there is no clipboard: the text is selected, ready for Ctrl+C.
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
      return;
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }

  return button;
}
