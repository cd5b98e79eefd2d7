// Play, pause, step, scrub and speed: one clock for all panels.

import { h } from "./dom.js";
import { arrowStep, button, choices } from "./kit.js";

const SPEEDS = [1, 2, 4, 8, 16, 30];

export class Transport {
  constructor(length) { Object.assign(this, { length, index: 0, playing: false, speed: 4, listeners: [] }); }

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
      // A frame's time can lie before its request, so only frames are compared.
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

export function transportBar(transport, onScale) {
  const most = Math.max(1, transport.length - 1);
  const key = (id, path, label, onclick) => button(h("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, h("path", { d: path })), label, onclick, "button." + id);
  const back = key("back", "M4 3h2v10H4zM13 3v10L7 8z", "One token back (←)", () => transport.step(-1));
  const next = key("next", "M10 3h2v10h-2zM3 3v10l6-5z", "One token on (→)", () => transport.step(1));
  const play = key("play", "", "Play", () => transport.toggle());
  const scrub = h("input", { type: "range", id: "scrub", min: 0, max: transport.length - 1, step: 1,
    "aria-label": "Place in the text", oninput: () => { transport.pause(); transport.seek(+scrub.value); } });
  const place = h("output.place", { id: "place" });
  const speed = h("select", { id: "speed", "aria-label": "Tokens per second", onchange: () => { transport.speed = +speed.value; } },
    SPEEDS.map((s) => h("option", { value: s }, s + " tokens/s")));
  speed.value = transport.speed;
  transport.listen(() => {
    const label = transport.playing ? "Pause" : "Play", at = transport.index + 1;
    play.querySelector("path").setAttribute("d", transport.playing ? "M4 3h3v10H4zM9 3h3v10H9z" : "M4 2.5v11l9.5-5.5z");
    play.setAttribute("aria-label", label);
    play.title = label + " (space)";
    scrub.value = transport.index;
    scrub.style.setProperty("--done", 100 * transport.index / most + "%");
    scrub.setAttribute("aria-valuetext", `${at} of ${transport.length}`);
    place.textContent = `${at} / ${transport.length}`;
    place.dataset.index = transport.index;
  });
  return h("div.transport", { role: "toolbar", "aria-label": "Playback" },
    h("div.keys", back, play, next), scrub, place, speed, choices("Scale", [{ name: "symlog" }, { name: "linear" }], onScale, "scale"));
}

// Space plays, arrows step, Home and End jump; shift with arrows moves the pin in use.
export function listenToKeys(transport, movePin) {
  document.addEventListener("keydown", (event) => {
    const { tagName: tag, type } = event.target;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (tag === "SELECT" || (tag === "INPUT" && type !== "range")) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -transport.length, End: transport.length };
    const arrow = event.shiftKey && arrowStep(event);
    if (arrow) movePin(...arrow);
    else if (event.key in steps) transport.step(steps[event.key]);
    else if (event.key === " " && !["BUTTON", "SUMMARY", "A"].includes(tag)) transport.toggle();
    else return;
    event.preventDefault();
  });
}
