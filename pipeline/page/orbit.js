(() => {
  "use strict";
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const PARTS = document.documentElement.dataset.palette.split(",").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const HIDDEN = -128;
  const orbits = new Map(), visible = new Set();
  let turning = !still.matches, frame = 0, last = 0;

  class Orbit {
    constructor(canvas) {
      this.canvas = canvas;
      this.points = new Int8Array(bytes(canvas.dataset.points).buffer);
      this.frames = Number(canvas.dataset.frames || 1);
      this.count = this.points.length / 3 / this.frames;
      this.yaw = 0.6;
      this.pitch = 0.4;
      this.fixed = null;
      this.held = false;
      this.dirty = true;
      this.order = new Uint16Array(this.count);
      this.screen = new Float32Array(3 * this.count);
    }

    /* Of the points of one frame, or of all of them one frame after the other. */
    colors() {
      const { colors, normals, parts } = this.canvas.dataset;
      const want = document.documentElement.dataset.cloud || (colors ? "colors" : normals ? "normals" : "parts");
      if (this.palette && this.paletteOf === want) return this.palette;
      let rgb;
      if (want === "parts" && parts) {
        const numbers = bytes(parts);
        rgb = new Uint8Array(3 * numbers.length);
        numbers.forEach((p, i) => rgb.set(p === 255 ? [128, 128, 128] : PARTS[p % PARTS.length], 3 * i));
      } else if (want === "normals" && normals) rgb = bytes(normals);
      else if (want !== "plain" && colors) rgb = bytes(colors);
      else {
        const ink = getComputedStyle(this.canvas).color.match(/[\d.]+/g).slice(0, 3).map(Number);
        rgb = new Uint8Array(3 * this.count);
        for (let i = 0; i < this.count; i++) rgb.set(ink, 3 * i);
      }
      /* A point that would be lost against the stage gets a rim of its own colour, darker or lighter. */
      const light = ([r, g, b]) => 0.3 * r + 0.59 * g + 0.11 * b;
      const stage = light(getComputedStyle(this.canvas).backgroundColor.match(/[\d.]+/g).map(Number));
      this.rims = new Uint8Array(rgb.length);
      this.rimmed = new Uint8Array(rgb.length / 3);
      for (let i = 0; i < this.rimmed.length; i++) {
        this.rimmed[i] = Math.abs(light(rgb.subarray(3 * i, 3 * i + 3)) - stage) < 75 ? 1 : 0;
        for (let k = 3 * i; k < 3 * i + 3; k++) this.rims[k] = stage > 128 ? rgb[k] * 0.55 : rgb[k] * 0.5 + 127;
      }
      this.palette = rgb;
      this.paletteOf = want;
      return rgb;
    }

    /* Rows of the rotation, translation and focal length in picture widths: OpenCV axes, as the stored cameras. */
    camera() {
      if (this.fixed) return this.fixed;
      const [sy, cy, sp, cp] = [Math.sin(this.yaw), Math.cos(this.yaw), Math.sin(this.pitch), Math.cos(this.pitch)];
      return [cy, 0, -sy, 0, sy * sp, -cp, cy * sp, 0, -sy * cp, -sp, -cy * cp, 3.2, 1.4];
    }

    draw() {
      const { canvas, points, count, screen, order } = this;
      const scale = Math.min(devicePixelRatio || 1, 2);
      const side = Math.max(16, Math.round(canvas.clientWidth * scale));
      if (canvas.width !== side) {
        canvas.width = canvas.height = side;
        this.image = null;
      }
      const context = canvas.getContext("2d");
      this.image = this.image || context.createImageData(side, side);
      const pixels = new Uint32Array(this.image.data.buffer);
      pixels.fill(0);
      const m = this.camera(), f = m[12] * side, rgb = this.colors();
      const at = ((canvas.frame || 0) % this.frames) * count, tint = rgb.length > 3 * count ? at : 0;
      let near = Infinity, far = -Infinity;
      for (let i = 0; i < count; i++) {
        const k = 3 * (at + i);
        if (points[k] === HIDDEN) { screen[3 * i + 2] = NaN; continue; }
        const x = points[k] / 127, y = points[k + 1] / 127, z = points[k + 2] / 127;
        const depth = m[8] * x + m[9] * y + m[10] * z + m[11];
        screen[3 * i] = f * (m[0] * x + m[1] * y + m[2] * z + m[3]) / depth + side / 2;
        screen[3 * i + 1] = f * (m[4] * x + m[5] * y + m[6] * z + m[7]) / depth + side / 2;
        screen[3 * i + 2] = depth;
        if (depth < near) near = depth;
        if (depth > far) far = depth;
      }
      const bins = 64, starts = new Uint32Array(bins + 1), span = Math.max(far - near, 1e-6);
      const bin = (i) => Math.min(bins - 1, Math.floor((far - screen[3 * i + 2]) / span * bins));
      let there = 0;
      for (let i = 0; i < count; i++) if (screen[3 * i + 2] > 0.05) { starts[bin(i) + 1]++; there++; }
      for (let b = 0; b < bins; b++) starts[b + 1] += starts[b];
      for (let i = 0; i < count; i++) if (screen[3 * i + 2] > 0.05) order[starts[bin(i)]++] = i;
      const dot = Math.max(2, Math.round(side / (count > 512 ? 64 : count > 128 ? 48 : 32)));
      const rim = Math.max(1, Math.round(dot / 3));
      const square = (x, y, width, alpha, color, at) => {
        const u = Math.round(x - width / 2), v = Math.round(y - width / 2);
        if (u < 0 || v < 0 || u + width > side || v + width > side) return;
        const value = ((alpha << 24) | (color[at + 2] << 16) | (color[at + 1] << 8) | color[at]) >>> 0;
        for (let row = 0; row < width; row++) {
          const cut = width > 3 && (row === 0 || row === width - 1) ? 1 : 0;
          pixels.fill(value, (v + row) * side + u + cut, (v + row) * side + u + width - cut);
        }
      };
      for (let k = 0; k < there; k++) {
        const i = order[k], alpha = 255 - Math.round(110 * (screen[3 * i + 2] - near) / span), color = tint + i;
        if (this.rimmed[color]) square(screen[3 * i], screen[3 * i + 1], dot + rim, alpha, this.rims, 3 * color);
        square(screen[3 * i], screen[3 * i + 1], dot, alpha, rgb, 3 * color);
      }
      context.putImageData(this.image, 0, 0);
      this.dirty = false;
    }
  }

  const tick = (now) => {
    frame = 0;
    const step = Math.min(now - last, 100);
    if (step < 30) return wake();
    last = now;
    let more = false;
    for (const orbit of visible) {
      const spins = turning && !orbit.fixed && !orbit.held;
      if (spins) orbit.yaw += step * 0.0006;
      if (spins || orbit.dirty) orbit.draw();
      more = more || spins;
    }
    if (more) wake();
  };
  const wake = () => { frame = frame || requestAnimationFrame(tick); };
  const refresh = (recolor) => {
    for (const orbit of orbits.values()) {
      if (recolor) orbit.palette = null;
      orbit.dirty = true;
    }
    wake();
  };
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!orbits.has(target)) orbits.set(target, new Orbit(target));
      const orbit = orbits.get(target);
      orbit.dirty = true;
      if (isIntersecting) visible.add(orbit);
      else visible.delete(orbit);
    }
    wake();
  }, { rootMargin: "80px" });

  const turn = (orbit, yaw, pitch) => {
    orbit.fixed = null;
    orbit.yaw += yaw;
    orbit.pitch = Math.max(-1.5, Math.min(1.5, orbit.pitch + pitch));
    orbit.dirty = true;
    wake();
  };
  for (const canvas of document.querySelectorAll("canvas.orbit")) {
    seen.observe(canvas);
    const mine = () => orbits.get(canvas);
    canvas.addEventListener("frame", () => {
      if (!mine()) return;
      mine().fixed = canvas.camera || null;
      mine().dirty = true;
      wake();
    });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      if (mine()) mine().held = true;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (mine() && canvas.hasPointerCapture(event.pointerId)) turn(mine(), -event.movementX * 0.012, event.movementY * 0.012);
    });
    canvas.addEventListener("pointerleave", () => { if (mine()) { mine().held = false; wake(); } });
    canvas.addEventListener("blur", () => { if (mine()) { mine().held = false; wake(); } });
    canvas.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.15], ArrowDown: [0, -0.15] }[event.key];
      if (!by || !mine()) return;
      event.preventDefault();
      mine().held = true;
      turn(mine(), ...by);
    });
  }

  /* A view under the pointer is shown large, and the cloud stands as its camera sees it. */
  const layer = () => document.documentElement.dataset.layer || "color";
  for (const pair of document.querySelectorAll(".pair:not(.clip)")) {
    const shown = pair.querySelector("img.shown"), canvas = pair.querySelector("canvas.orbit"), buttons = [...pair.querySelectorAll(".strip button")];
    const show = (button, fix) => {
      if (!button) return;
      const image = button.querySelector(`img.${layer()}`) || button.querySelector("img.color");
      shown.src = image.src;
      const orbit = orbits.get(canvas), camera = button.dataset.camera.split(",").map(Number);
      if (!orbit) return;
      orbit.fixed = fix && camera.length === 13 ? camera : null;
      orbit.dirty = true;
      wake();
    };
    const pressed = () => buttons.find((b) => b.getAttribute("aria-pressed") === "true");
    for (const button of buttons) {
      button.addEventListener("pointerenter", () => show(button, true));
      button.addEventListener("focus", () => show(button, true));
      button.addEventListener("blur", () => show(pressed(), false));
      button.addEventListener("click", () => {
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        show(button, true);
      });
    }
    pair.querySelector(".strip").addEventListener("pointerleave", () => show(pressed(), false));
    pair.showView = () => show(pressed(), false);
    pair.showView();
  }

  for (const control of document.querySelectorAll("[data-sets]")) {
    control.addEventListener("change", () => {
      document.documentElement.dataset[control.dataset.sets] = control.value;
      for (const pair of document.querySelectorAll(".pair:not(.clip)")) pair.showView();
      refresh(true);
    });
  }
  for (const button of document.querySelectorAll("button.motion")) {
    const label = () => { button.textContent = turning ? "Pause motion" : "Start motion"; };
    button.addEventListener("click", () => {
      turning = !turning;
      label();
      document.dispatchEvent(new CustomEvent("motion", { detail: turning }));
      wake();
    });
    label();
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => refresh(true));
  addEventListener("resize", () => refresh(false));
})();
