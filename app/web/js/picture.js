// Pictures on their way to the service: from a file, the camera, a drawing of ours, or a person's own drawing.

import { h } from "./dom.js";

// What the service reads as it is.
const TAKEN = ["image/png", "image/jpeg", "image/webp"];
const READ = /\b(png|jpe?g|webp|gif|bmp|tiff?|p[bgpn]m)$/i;
// Networks here look at 8 to 96 pixels: more than this only takes longer to send, once for every size.
const MAX_SIDE = 512;

/** The file itself where it is small and of a kind that the service reads; else drawn again as a smaller PNG. */
export async function fromFile(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    if (READ.test(file.name) || READ.test(file.type)) return file; // The service may read what the browser does not.
    const kind = /\.(\w{1,5})$/.exec(file.name)?.[1] ?? file.type.split("/")[1] ?? "this file";
    throw new Error(`This browser cannot read ${kind.toUpperCase()}. Save it as JPEG or PNG.`);
  }
  if (TAKEN.includes(file.type) && Math.max(bitmap.width, bitmap.height) <= MAX_SIDE) return file;
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  return drawn(bitmap, Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale)));
}

export async function fromDrawing(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return drawn(image, 128, 128);
}

/** The middle square of what the camera sees now. */
export function fromVideo(video) {
  const side = Math.min(video.videoWidth, video.videoHeight);
  const canvas = canvasOf(256, 256);
  canvas.getContext("2d").drawImage(video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side, 0, 0, 256, 256);
  return blobOf(canvas);
}

function drawn(source, width, height) {
  const canvas = canvasOf(width, height);
  canvas.getContext("2d").drawImage(source, 0, 0, width, height);
  return blobOf(canvas);
}

const canvasOf = (width, height) => Object.assign(document.createElement("canvas"), { width, height });
const blobOf = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

/** A slate to draw on, white on black as such images are; `done(picture)` after every stroke. */
export function drawingPad(done) {
  const canvas = canvasOf(160, 160);
  canvas.className = "pad";
  canvas.setAttribute("aria-label", "Draw here with a mouse, a pen or a finger");
  canvas.setAttribute("role", "img");
  const pen = canvas.getContext("2d");
  const clear = () => pen.fillRect(0, 0, canvas.width, canvas.height);
  Object.assign(pen, { fillStyle: "#000", strokeStyle: "#fff", lineWidth: 20, lineCap: "round", lineJoin: "round" });
  clear();

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pen.beginPath();
    pen.moveTo(...place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    pen.lineTo(...place(event));
    pen.stroke();
  });
  canvas.addEventListener("pointerup", async () => done(await blobOf(canvas)));
  return h("div", { class: "pad-frame" }, canvas, h("button", { type: "button", class: "plain", onclick: clear }, "Wipe"));
}
