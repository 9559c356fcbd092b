(() => {
  "use strict";
  /* A reel keeps its canvases at one frame: each gets it as its property `frame`, the clouds the camera of the frame too while the picture
     is pointed at. */
  const reels = new Map(), visible = new Set();
  let moving = !matchMedia("(prefers-reduced-motion: reduce)").matches, waking = 0;

  class Reel {
    constructor(root) {
      this.root = root;
      this.times = root.dataset.times.split(",").map(Number);
      this.runs = JSON.parse(root.dataset.runs);
      this.interval = Number(root.dataset.interval);
      this.button = root.querySelector(".play button");
      this.slider = root.querySelector("input");
      this.output = root.querySelector("output");
      this.orbits = [...root.querySelectorAll("canvas.orbit")];
      this.film = root.querySelector("canvas.film");
      this.cameras = this.film?.dataset.cameras ? this.film.dataset.cameras.split(";").map((one) => one.split(",").map(Number)) : [];
      this.frame = 0;
      this.due = 0;
      this.seen = false;
      this.playing = false;
      this.slider?.addEventListener("input", () => { this.play(false); this.show(Number(this.slider.value)); });
      this.button?.addEventListener("click", () => this.play(!this.playing));
      if (this.film) {
        this.sheet = new Image();
        this.sheet.addEventListener("load", () => this.draw());
        this.sheet.src = this.film.dataset.sheet;
        for (const [kind, on] of [["pointerenter", true], ["focus", true], ["pointerleave", false], ["blur", false]]) {
          this.film.addEventListener(kind, () => { this.seen = on; this.show(this.frame); });
        }
      }
      this.show(0);
      this.play(moving);
    }

    play(on) {
      this.playing = on && this.times.length > 1;
      if (this.button) this.button.textContent = this.playing ? "❚❚" : "▶";
      this.button?.setAttribute("aria-label", this.button.getAttribute("aria-label").replace(/^\w+/, this.playing ? "Pause" : "Play"));
      this.due = 0;
      wake();
    }

    show(frame) {
      this.frame = frame;
      if (this.slider) this.slider.value = frame;
      const name = this.runs.findLast(([first]) => first <= frame)?.[1];
      const words = `${this.times[frame].toFixed(2)} s${name ? ` · ${name}` : ""}`;
      if (this.output) this.output.value = words;
      this.slider?.setAttribute("aria-valuetext", words);
      for (const canvas of this.orbits) {
        canvas.frame = frame;
        canvas.camera = this.seen ? this.cameras[frame % this.cameras.length] : null;
        canvas.dispatchEvent(new Event("frame"));
      }
      this.draw();
    }

    draw() {
      if (!this.sheet?.complete || !this.sheet.naturalWidth) return;
      const side = this.film.width, columns = Number(this.film.dataset.columns);
      const [x, y] = [this.frame % columns, Math.floor(this.frame / columns)];
      this.film.getContext("2d").drawImage(this.sheet, x * side, y * side, side, side, 0, 0, side, side);
    }
  }

  const tick = (now) => {
    waking = 0;
    let more = false;
    for (const reel of visible) {
      if (!reel.playing) continue;
      more = true;
      if (!reel.due) reel.due = now + reel.interval;
      if (now < reel.due) continue;
      reel.due = Math.max(reel.due + reel.interval, now);
      reel.show((reel.frame + 1) % reel.times.length);
    }
    if (more) wake();
  };
  const wake = () => { waking = waking || requestAnimationFrame(tick); };
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !reels.has(target)) reels.set(target, new Reel(target));
      if (!reels.has(target)) continue;
      if (isIntersecting) visible.add(reels.get(target));
      else visible.delete(reels.get(target));
    }
    wake();
  }, { rootMargin: "80px" });
  for (const root of document.querySelectorAll(".reel")) near.observe(root);
  document.addEventListener("motion", (event) => {
    moving = event.detail;
    for (const reel of reels.values()) reel.play(moving);
  });
})();
