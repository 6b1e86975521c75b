// Plotly, loaded for the views that draw charts, in the colours of the page.

let loading = null;

export function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = document.querySelector("meta[name=plotly]").content;
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => {
      loading = null;
      reject(new Error("The chart library could not be loaded."));
    });
    document.head.append(script);
  });
  return loading;
}

export const CONFIG = { displayModeBar: false, responsive: true };
// Fixed, so that what lies above a chart knows where its axes are.
export const MARGIN = { l: 58, r: 18, t: 18, b: 52 };

/** The page's colours as they are at this moment, in the light or in the dark. */
export function colors() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const resolved = Object.fromEntries(
    ["ink", "soft", "rule", "accent", "paper"].map((name) => {
      probe.style.color = `var(--${name})`;
      return [name, getComputedStyle(probe).color];
    }),
  );
  probe.remove();
  return resolved;
}

export function layout(palette, more) {
  return {
    margin: MARGIN,
    dragmode: false,
    hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: palette.soft },
    hoverlabel: { bgcolor: palette.paper, bordercolor: palette.ink, font: { color: palette.ink } },
    showlegend: false,
    ...more,
  };
}

/** Whole percents, or tenths where an axis is so short that whole ones would come twice. */
export const percentTicks = ([low, high]) => (high - low < 0.08 ? ".1%" : ".0%");

export function axis(palette, title, more) {
  return {
    title: { text: title, standoff: 10 },
    gridcolor: palette.rule,
    linecolor: palette.ink,
    tickcolor: palette.ink,
    ticks: "outside",
    ticklen: 4,
    showline: true,
    zeroline: false,
    fixedrange: true,
    ...more,
  };
}

/** Calls `draw` whenever the colours change; returns what stops that. */
export function onTheme(draw) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", draw);
  document.addEventListener("themechange", draw);
  return () => {
    system.removeEventListener("change", draw);
    document.removeEventListener("themechange", draw);
  };
}
