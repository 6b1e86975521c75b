// Numbers as people read them.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

export const count = (value) => whole.format(value);
export const compact = (value) => short.format(value).replace("K", "k");
export const percent = (value, digits = 1) => (value == null ? "not measured" : `${(value * 100).toFixed(digits)}\u00a0%`);
export const milliseconds = (value) => (value == null ? "not measured" : `${value.toFixed(value < 10 ? 2 : 0)} ms`);
export const bytes = (value) => (value < 1000 ? `${value} B` : value < 1e6 ? `${(value / 1e3).toFixed(1)} kB` : `${(value / 1e6).toFixed(1)} MB`);
export const score = (value) => Number(value.toPrecision(3)).toString();

export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export const plural = (number, noun, nouns = `${noun}s`) => `${count(number)} ${number === 1 ? noun : nouns}`;

/** The complexities that accuracy is weighed against, by their name in the service. */
export const COMPLEXITIES = {
  params: { axis: "Parameters", unit: "parameters", format: count, brief: compact },
  macs: { axis: "Multiply-accumulates for one image", unit: "multiply-accumulates", format: count, brief: compact },
  bytes: { axis: "Bytes of the file", unit: "", format: bytes, brief: bytes },
  latency_ms: { axis: "Milliseconds for one image", unit: "", format: milliseconds, brief: milliseconds },
};

/** 20,000 parameters */
export function amount(x, value) {
  return `${COMPLEXITIES[x].format(value)} ${COMPLEXITIES[x].unit}`.trim();
}
