// Play, pause, step, scrub and speed: one clock for all panels.

import { h } from "./dom.js";

export const SPEEDS = [1, 2, 4, 8, 16, 30];

export class Transport {
  constructor(length) {
    this.length = length;
    this.index = 0;
    this.playing = false;
    this.speed = 6;
    this.listeners = [];
  }

  listen(callback) { this.listeners.push(callback); }

  tell() { for (const callback of this.listeners) callback(this); }

  seek(index) {
    this.index = Math.max(0, Math.min(this.length - 1, Math.round(index)));
    this.tell();
  }

  step(by) { this.pause(); this.seek(this.index + by); }

  toggle() { if (this.playing) this.pause(); else this.play(); }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    cancelAnimationFrame(this.request);
    this.tell();
  }

  play() {
    if (this.playing || this.length < 2) return;
    if (this.index >= this.length - 1) this.index = 0;
    this.playing = true;
    let last = null, owed = 0;
    const tick = (now) => {
      if (!this.playing) return;
      // A frame's time can lie before the moment that asked for it, so only frames are compared.
      const passed = last === null ? 0 : Math.max(0, Math.min(now - last, 250));
      owed += passed * this.speed / 1000;
      last = now;
      const whole = Math.floor(owed);
      if (whole) {
        owed -= whole;
        this.index = Math.min(this.length - 1, this.index + whole);
        if (this.index === this.length - 1) this.playing = false;
        this.tell();
      }
      if (this.playing) this.request = requestAnimationFrame(tick);
    };
    this.request = requestAnimationFrame(tick);
    this.tell();
  }
}

function icon(path) {
  return h("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, h("path", { d: path }));
}

export function transportBar(transport, scales, onScale) {
  const glyph = h("path", { d: "" });
  const play = h("button", { class: "play", id: "play", type: "button", onclick: () => transport.toggle() },
    h("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, glyph));
  const back = h("button", { type: "button", id: "back", "aria-label": "One token back", title: "One token back (←)",
    onclick: () => transport.step(-1) }, icon("M4 3h2v10H4zM13 3v10L7 8z"));
  const next = h("button", { type: "button", id: "next", "aria-label": "One token on", title: "One token on (→)",
    onclick: () => transport.step(1) }, icon("M10 3h2v10h-2zM3 3v10l6-5z"));
  const scrub = h("input", { type: "range", id: "scrub", min: 0, max: Math.max(0, transport.length - 1), step: 1,
    "aria-label": "Place in the text", oninput: () => { transport.pause(); transport.seek(+scrub.value); } });
  const place = h("output", { class: "place", id: "place" });
  const speed = h("select", { id: "speed", "aria-label": "Tokens per second",
    onchange: () => { transport.speed = +speed.value; } },
  ...SPEEDS.map((s) => h("option", { value: s }, s + " tokens/s")));
  speed.value = transport.speed = 4;
  const choice = h("div", { class: "segments", role: "radiogroup", "aria-label": "Scale" }, ...scales.map((name, i) =>
    h("label", {}, h("input", { type: "radio", name: "scale", value: name, checked: i === 0, onchange: () => onScale(name) }),
      h("span", {}, name))));
  transport.listen(() => {
    const label = transport.playing ? "Pause" : "Play";
    glyph.setAttribute("d", transport.playing ? "M4 3h3v10H4zM9 3h3v10H9z" : "M4 2.5v11l9.5-5.5z");
    play.setAttribute("aria-label", label);
    play.title = label + " (space)";
    scrub.value = transport.index;
    scrub.style.setProperty("--done", (100 * transport.index / Math.max(1, transport.length - 1)) + "%");
    scrub.setAttribute("aria-valuetext", `${transport.index + 1} of ${transport.length}`);
    place.textContent = `${transport.index + 1} / ${transport.length}`;
    place.dataset.index = transport.index;
  });
  return h("div", { class: "transport", role: "toolbar", "aria-label": "Playback" },
    h("div", { class: "keys" }, back, play, next), scrub, place, speed, choice);
}

// Space plays, arrows step, Home and End jump; shift with arrows moves the pin of the panel in use.
export function listenToKeys(transport, movePin) {
  document.addEventListener("keydown", (event) => {
    const tag = event.target.tagName, type = event.target.type;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (tag === "SELECT" || tag === "TEXTAREA" || (tag === "INPUT" && type !== "range")) return;
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.shiftKey && moves[event.key]) movePin(...moves[event.key]);
    else if (event.key === " ") {
      if (tag === "BUTTON" || tag === "SUMMARY" || tag === "A") return;
      transport.toggle();
    } else if (event.key === "ArrowLeft") transport.step(-1);
    else if (event.key === "ArrowRight") transport.step(1);
    else if (event.key === "Home") transport.step(-transport.length);
    else if (event.key === "End") transport.step(transport.length);
    else return;
    event.preventDefault();
  });
}
