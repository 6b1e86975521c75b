// Elements without markup in strings: text that comes from a checkpoint stays text.

const SVG = "http://www.w3.org/2000/svg";

/** h("a", { class: "x", href: "#", onclick: f }, "text", otherElement); null and false children are left out. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** A text that says something went wrong, as the service put it. */
export function notice(error, ...more) {
  return h("div", { class: "notice", role: "alert" }, h("p", {}, error.message), ...more);
}

/** Space that the content may scroll in; by keyboard too, hence the tabindex. */
export function scroller(label, ...children) {
  return h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": label }, ...children);
}
