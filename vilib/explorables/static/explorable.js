/* The front end of every explorable, live and recorded. It draws marks and moves controls; it computes no inference.
 *
 * One classic script without dependencies: module scripts are blocked on file://. In a notebook, anywidget loads the
 * same text as a module and calls `vilibExplorables.render`.
 *
 *   numbers → recording → scales and axes → marks → the view → where frames come from → start
 */
globalThis.vilibExplorables ??= (() => {
  "use strict";

  // ------------------------------------------------------------------ numbers

  const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  const superscript = (n) => [...String(n)].map((c) => SUPERSCRIPT[c]).join("");
  const group = (text) => {
    const [whole, part] = text.split(".");
    const spaced = whole.length > 4 ? whole.replace(/\B(?=(\d{3})+$)/g, "\u202f") : whole;
    return part === undefined ? spaced : `${spaced}.${part}`;
  };

  /** A number as a person writes it. `spec` is Python's: ".3g", ".2f", "d", ",d". nan is a dash. */
  function format(value, spec = ".3g") {
    if (typeof value === "string") return value;
    if (value === undefined || Number.isNaN(value)) return "–";
    const size = Math.abs(value);
    const digits = Number((spec.match(/\.(\d+)/) || [0, 3])[1]);
    let text;
    if (spec.endsWith("d")) text = group(String(Math.round(size)));
    else if (spec.endsWith("f")) text = group(size.toFixed(digits));
    else if (size === 0) text = "0";
    else if (size < 1e-3 || size >= 1e6) {
      const [mantissa, power] = size.toExponential(digits - 1).split("e");
      text = `${mantissa}\u2009×\u200910${superscript(Number(power))}`;
    } else {
      const rounded = Number(size.toPrecision(digits));
      const places = Math.max(0, digits - 1 - Math.floor(Math.log10(rounded)));
      text = group(rounded.toFixed(places));
    }
    return (value < 0 && /[1-9]/.test(text) ? "−" : "") + text;
  }

  const escape = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

  // ------------------------------------------------------------------ recording

  async function inflate(base64) {
    const binary = atob(base64), packed = new Uint8Array(binary.length);
    for (let i = 0; i < packed.length; i++) packed[i] = binary.charCodeAt(i);
    const stream = new DecompressionStream("deflate-raw"), writer = stream.writable.getWriter();
    const unpacked = new Response(stream.readable).arrayBuffer(); // its error is the writer's too
    writer.write(packed).catch(() => {});
    writer.close().catch(() => {});
    return new Uint8Array(await unpacked);
  }

  /** The numbers of one channel over the whole grid; the inverse of `_encode` in recording.py. */
  function decode(spec, raw) {
    const count = spec.shape.reduce((a, b) => a * b, 1);
    const values = new Float64Array(count);
    if (spec.coding === "float32") {
      const view = new DataView(raw.buffer, raw.byteOffset + spec.at);
      for (let i = 0; i < count; i++) values[i] = view.getFloat32(4 * i, true);
      return values;
    }
    const gap = new Uint8Array(spec.gaps ? count : 0);
    for (let i = 0; i < count; i++) {
      let code = 0;
      for (let k = spec.width - 1; k >= 0; k--) code = code * 256 + raw[spec.at + k * count + i];
      if (spec.gaps && code-- === 0) { gap[i] = 1; code = 0; }
      values[i] = code % 2 ? -(code + 1) / 2 : code / 2;
    }
    if (spec.axis >= 0) { // undo the differences along one axis
      const stride = spec.shape.slice(spec.axis + 1).reduce((a, b) => a * b, 1);
      const length = spec.shape[spec.axis];
      for (let i = 0; i < count; i++) if (Math.floor(i / stride) % length) values[i] += values[i - stride];
    }
    if (spec.coding === "text") return Array.from(values, (code) => spec.texts[code]);
    const base = 1 + 2 * spec.relative;
    for (let i = 0; i < count; i++) {
      if (spec.gaps && gap[i]) values[i] = NaN;
      else if (spec.coding === "step") values[i] *= spec.step;
      else if (values[i]) values[i] = Math.sign(values[i]) * spec.tiny * base ** Math.abs(values[i]);
    }
    return values;
  }

  /** A function from control values to a frame, over a recording. Channels are decoded when first asked for. */
  function player(header, raw) {
    const decoded = new Map();
    return (values) => {
      const place = header.axes.map((axis) => axis.values.indexOf(values[axis.name]));
      return {
        get(name) {
          const spec = header.channels[name];
          if (!spec) throw new Error(`the recording has no channel ${name}`);
          if (!decoded.has(name)) decoded.set(name, decode(spec, raw));
          const grid = decoded.get(name);
          let at = 0;
          place.forEach((i, axis) => { at = at * spec.shape[axis] + (spec.shape[axis] > 1 ? i : 0); });
          if (spec.coding === "text") return grid[at];
          const length = spec.shape[header.axes.length];
          return grid.subarray(at * length, (at + 1) * length);
        },
        has: (name) => name in header.channels,
      };
    };
  }

  // ------------------------------------------------------------------ scales and axes

  const WARP = { linear: (v) => v, log: (v) => Math.log10(v), sqrt: (v) => Math.sqrt(Math.max(v, 0)) };

  function scale(kind, [low, high], from, to) {
    const warp = WARP[kind];
    const a = warp(low), b = warp(high);
    return (v) => from + ((warp(v) - a) / (b - a)) * (to - from);
  }

  function ticksOf(axis, [low, high], room) {
    if (axis.ticks) return axis.ticks.filter((t) => t >= Math.min(low, high) && t <= Math.max(low, high));
    if (axis.scale === "log") {
      const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
      const step = Math.max(1, Math.ceil((last - first + 1) / room));
      return Array.from({ length: Math.floor((last - first) / step) + 1 }, (_, i) => 10 ** (first + i * step));
    }
    const raw = (high - low) / Math.max(room, 1);
    const unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * unit).find((s) => s >= raw * 0.999);
    const ticks = [];
    for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-6; t += step) ticks.push(Math.abs(t) < step * 1e-6 ? 0 : t);
    return ticks;
  }

  function tickText(axis, t) {
    if (axis.scale === "log" && !axis.ticks) {
      const power = Math.round(Math.log10(t));
      return power >= 0 && power <= 3 ? String(10 ** power) : `10${superscript(power)}`;
    }
    return String(Number(t.toPrecision(6))).replace("-", "−");
  }

  // ------------------------------------------------------------------ marks: data → SVG text

  const round = (v) => Math.round(v * 10) / 10;
  const ink = (name) => `var(--vl-${name})`;

  function path(xs, ys) {
    let d = "", pen = "M";
    for (let i = 0; i < xs.length; i++) {
      if (Number.isFinite(xs[i]) && Number.isFinite(ys[i])) { d += `${pen}${round(xs[i])} ${round(ys[i])}`; pen = "L"; }
      else pen = "M";
    }
    return d;
  }

  const MARKER = {
    score: (x, y, r) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
    control: (x, y, r) => `M${x - r * 0.9} ${y - r * 0.9}h${r * 1.8}v${r * 1.8}h${-r * 1.8}z`,
    pathwise: (x, y, r) => `M${x} ${y - r * 1.15}L${x + r * 1.1} ${y + r * 0.85}L${x - r * 1.1} ${y + r * 0.85}z`,
    laplace: (x, y, r) => `M${x} ${y + r * 1.15}L${x - r * 1.1} ${y - r * 0.85}L${x + r * 1.1} ${y - r * 0.85}z`,
    stl: (x, y, r) => `M${x} ${y - r * 1.2}L${x + r * 1.2} ${y}L${x} ${y + r * 1.2}L${x - r * 1.2} ${y}z`,
  };
  const marker = (name, x, y, r) => (MARKER[name] || MARKER.score)(round(x), round(y), round(r));
  const DASH = { control: "7 3", stl: "2 3", laplace: "9 3" };

  /** Parameter tuples at a time that may lie between two recorded ones; the channel holds each parameter at all times. */
  function between(values, width, time) {
    const count = values.length / width, last = count - 1;
    const i = Math.min(Math.floor(time), last), j = Math.min(i + 1, last), share = time - i;
    return Array.from({ length: width }, (_, k) => values[k * count + i] * (1 - share) + values[k * count + j] * share);
  }

  /** From the unconstrained scale to the axes': for curves the place and |du/dx| there, for the plane both coordinates. */
  const SCALE = {
    "": (u) => [u, 1],
    sigmoid: (u) => { const x = 1 / (1 + Math.exp(-u)); return [x, 1 / (x * (1 - x))]; },
  };
  const PLANE = {
    "": (u, v) => [u, v],
    exp: (u, v) => [u, Math.exp(v)],
    ordered: (u, v) => [u, u + Math.exp(v)],
  };

  const DRAW = {
    line(mark, c) {
      const xs = Array.from(c.frame.get(mark.x), c.x), ys = Array.from(c.frame.get(mark.y), c.y);
      const dash = mark.dashed === false ? "" : mark.dashed ? "5 4" : DASH[mark.ink] || "";
      const stroke = (d, opacity, width) =>
        `<path d="${d}" fill="none" style="stroke:${ink(mark.ink)}" stroke-width="${width}" stroke-opacity="${opacity}" stroke-dasharray="${dash}" stroke-linejoin="round"/>`;
      let out = "";
      if (mark.fill && Number.isFinite(xs[0] + xs.at(-1))) out += `<path d="${path(xs, ys)}L${round(xs.at(-1))} ${round(c.y(c.base))}L${round(xs[0])} ${round(c.y(c.base))}z" style="fill:${ink(mark.ink)}" fill-opacity=".2"/>`;
      const width = (mark.width ?? 2) * c.weight;
      if (mark.until) {
        const now = Math.floor(c.time(mark.until)) + 1;
        out += stroke(path(xs, ys), 0.22, width * 0.75) + stroke(path(xs.slice(0, now), ys.slice(0, now)), 1, width);
        if (Number.isFinite(ys[now - 1])) out += `<path d="${marker(mark.ink, xs[now - 1], ys[now - 1], 4 * c.weight)}" style="fill:${ink(mark.ink)}" class="vl-halo-shape"/>`;
      } else if ((mark.width ?? 2) > 0) out += stroke(path(xs, ys), mark.opacity ?? 1, width);
      if (mark.points) {
        const d = xs.map((x, i) => (Number.isFinite(ys[i]) ? marker(mark.ink, x, ys[i], 3.2 * c.weight) : "")).join("");
        out += `<path d="${d}" style="fill:${ink(mark.ink)}"/>`;
      }
      if (mark.label) c.lineLabel(mark, xs, ys);
      return out;
    },
    band(mark, c) {
      const xs = Array.from(c.frame.get(mark.x), c.x);
      const clamp = (v) => Math.max(c.box.top - 50, Math.min(c.box.bottom + 50, v));
      const low = Array.from(c.frame.get(mark.low), (v) => clamp(c.y(v)));
      const high = Array.from(c.frame.get(mark.high), (v) => clamp(c.y(v)));
      const keep = xs.map((_, i) => i).filter((i) => Number.isFinite(low[i]) && Number.isFinite(high[i]));
      if (!keep.length) return "";
      const up = keep.map((i) => `${round(xs[i])} ${round(high[i])}`).join("L");
      const down = keep.reverse().map((i) => `${round(xs[i])} ${round(low[i])}`).join("L");
      return `<path d="M${up}L${down}z" style="fill:${ink(mark.ink)}" fill-opacity=".17"/>`;
    },
    bars(mark, c) {
      const heights = c.frame.get(mark.heights), n = heights.length;
      const lane = (c.box.bottom - c.box.top) / (mark.rows ?? 1);
      const base = c.box.top + lane * ((mark.row ?? 0) + 1);
      const most = Math.max(1e-12, ...heights);
      const width = (c.box.right - c.box.left) / n;
      let d = `M${c.box.left} ${round(base)}`;
      for (let i = 0; i < n; i++) d += `V${round(base - (0.8 * lane * heights[i]) / most)}h${width.toFixed(3)}`;
      c.text(c.box.left + 4, base - lane * 0.8, mark.label, mark.ink, "start");
      return `<path d="${d}V${round(base)}z" style="fill:${ink(mark.ink)}" fill-opacity=".82"/>` +
        `<path d="M${c.box.left} ${round(base)}H${c.box.right}" class="vl-grid"/>`;
    },
    bar(mark, c) {
      const [bottom, top] = [c.frame.get(mark.low)[0], c.frame.get(mark.high)[0]].map(c.y).sort((a, b) => b - a);
      const left = c.x(mark.left ?? 0), right = c.x(mark.right ?? 1);
      if (!Number.isFinite(top + bottom)) return "";
      const lines = c.fill(mark.label || "").split("\n"), foot = Math.max(c.box.top, Math.min(c.box.bottom, top)) - c.em * 0.4;
      lines.forEach((line, i) => c.text((left + right) / 2, foot - (lines.length - 1 - i) * c.em * 1.15, line, mark.ink, "middle"));
      return `<path d="M${round(left)} ${round(bottom)}H${round(right)}V${round(top)}H${round(left)}z" style="fill:${ink(mark.ink)}" fill-opacity=".82"/>`;
    },
    contour(mark, c) {
      const xs = Array.from(c.frame.get(mark.x), c.x), ys = Array.from(c.frame.get(mark.y), c.y), { box, em } = c;
      const levels = mark.levels ? c.frame.get(mark.levels) : [], written = [];
      let out = "", ring = 0;
      for (let from = 0, i = 0; i <= xs.length; i++) {
        if (i < xs.length && Number.isFinite(xs[i])) continue;
        if (i > from) {
          const x = xs.slice(from, i), y = ys.slice(from, i);
          out += `<path d="${path(x, y)}z" style="fill:${ink(mark.ink)};stroke:${ink(mark.ink)}" fill-opacity=".1" stroke-width="${c.weight}" stroke-opacity=".75"/>`;
          let foot = -1;
          x.forEach((v, k) => { if (v > box.left + em && v < box.right - em && y[k] < box.bottom - em * 0.2 && y[k] > box.top + em && (foot < 0 || y[k] > y[foot])) foot = k; });
          const clear = foot >= 0 && y[foot] - Math.min(...y) > 2.4 * em && written.every(([a, b]) => Math.abs(a - x[foot]) > 2.2 * em || Math.abs(b - y[foot]) > 1.1 * em);
          if (clear && Number.isFinite(levels[ring])) {
            written.push([x[foot], y[foot]]);
            c.text(x[foot], y[foot] + em * 0.1, String(Number(levels[ring].toPrecision(6))).replace("-", "−"), mark.ink, "middle");
          }
          ring++;
        }
        from = i + 1;
      }
      return out;
    },
    stems(mark, c) {
      const xs = c.frame.get(mark.x), ys = c.frame.get(mark.y), zero = round(c.y(0));
      let most = 1e-12;
      for (const y of ys) if (Math.abs(y) > most) most = Math.abs(y);
      let out = `<path d="M${c.box.left} ${zero}H${c.box.right}" class="vl-axis"/>`;
      for (let i = 0; i < xs.length; i++) {
        if (!Number.isFinite(ys[i])) continue;
        const x = round(c.x(xs[i])), y = round(c.y(ys[i])), strength = (0.2 + 0.8 * Math.sqrt(Math.abs(ys[i]) / most)).toFixed(2);
        out += `<g opacity="${strength}" style="stroke:${ink(mark.ink)}"><path d="M${x} ${zero}V${y}" stroke-width="${1.3 * c.weight}"/>` +
          `<circle cx="${x}" cy="${y}" r="${2.6 * c.weight}" style="fill:${ys[i] < 0 ? "var(--vl-page)" : ink(mark.ink)}"/></g>`;
      }
      return out;
    },
    image(mark, c) {
      const { rows, columns } = mark, pixels = between(c.frame.get(mark.pixels), rows * columns, mark.at ? c.time(mark.at) : 0);
      const side = Math.min((c.box.right - c.box.left) / columns, (c.box.bottom - c.box.top - 2) / rows);
      const left = (c.box.left + c.box.right - side * columns) / 2, top = c.box.bottom - 1 - side * rows;
      const tenths = Array.from({ length: rows }, (_, r) => pixels.slice(r * columns, (r + 1) * columns).map((v) => Math.min(9, Math.floor(10 * v))).join(""));
      c.describe(`${c.fill(mark.alt || "")} ${columns} by ${rows} pixels, from the top, 0 the page and 9 full ink: ${tenths.join(", ")}.`);
      const cell = (v, i) => `<path d="M${round(left + side * (i % columns))} ${round(top + side * Math.floor(i / columns))}h${round(side + 0.1)}v${round(side + 0.1)}H${round(left + side * (i % columns))}z" style="fill:${ink(mark.ink)}" fill-opacity="${v.toFixed(2)}"/>`;
      return `<g shape-rendering="crispEdges">${pixels.map(cell).join("")}</g><path d="M${round(left)} ${round(top)}h${round(side * columns)}v${round(side * rows)}H${round(left)}z" class="vl-axis"/>`;
    },
    letters(mark, c) {
      const [xs, ys] = [mark.x, mark.y].map((name) => between(c.frame.get(name), mark.count, mark.at ? c.time(mark.at) : 0));
      const one = (x, i) => (Number.isFinite(x + ys[i]) ? `<text x="${round(c.x(x))}" y="${round(c.y(ys[i]) + c.em * 0.3)}">${escape(mark.letter)}</text>` : "");
      return `<g text-anchor="middle" class="vl-letters" style="--vl-letter:${ink(mark.ink)}">${xs.map(one).join("")}</g>`;
    },
    point(mark, c) {
      const i = mark.at ? Math.floor(c.time(mark.at)) : 0;
      const x = c.x(c.frame.get(mark.x)[i]), y = c.y(c.frame.get(mark.y)[i]);
      if (!Number.isFinite(x) || !Number.isFinite(y)) return "";
      if (mark.label) c.text(x + 10, y - 6, mark.label, mark.ink, "start");
      return `<path d="${marker(mark.ink, x, y, 6 * c.weight)}" style="fill:${ink(mark.ink)}" class="vl-halo-shape"/>`;
    },
    rule(mark, c) {
      const values = c.frame.get(mark.x || mark.y);
      const v = mark.at ? between(values, 1, c.time(mark.at))[0] : values[0];
      if (!Number.isFinite(v)) return "";
      const dash = mark.dashed === false ? "" : "4 4";
      const style = `style="stroke:${ink(mark.ink)}" stroke-dasharray="${dash}" stroke-width="1.4"`;
      if (mark.x) {
        const x = round(c.x(v)), far = x > (c.box.left + c.box.right) / 2;
        if (mark.label) c.text(x + (far ? -5 : 5), c.box.top + c.em * 0.9, mark.label, mark.ink, far ? "end" : "start");
        return `<path d="M${x} ${c.box.top}V${c.box.bottom}" ${style}/>`;
      }
      const y = round(c.y(v));
      if (mark.label) c.sideLabel(mark, y);
      return `<path d="M${c.box.left} ${y}H${c.box.right}" ${style}/>`;
    },
    gaussian(mark, c) {
      const values = c.frame.get(mark.params);
      const time = mark.at ? c.time(mark.at) : 0;
      const [mean, sd] = between(values, 2, time);
      if (!Number.isFinite(mean + sd)) return ""; // a fit that failed is nowhere
      const scale = SCALE[mark.through || ""];
      const density = (m, width, u) => { // where m + s u is drawn; a width that is recorded as 0 is a needle
        const s = Math.max(width, 1e-6);
        const [x, slope] = scale(m + s * u);
        return [c.x(x), c.y(((mark.height ?? 1) / (s * Math.sqrt(2 * Math.PI))) * Math.exp(-0.5 * u * u) * slope)];
      };
      const xs = [], ys = [];
      for (let i = 0; i <= 160; i++) {
        const [x, y] = density(mean, sd, -4.5 + (9 * i) / 160);
        xs.push(x);
        ys.push(y);
      }
      const base = round(c.y(c.base));
      let out = "";
      if (mark.fill ?? true) out += `<path d="${path(xs, ys)}L${round(xs.at(-1))} ${base}L${round(xs[0])} ${base}z" style="fill:${ink(mark.ink)}" fill-opacity=".13"/>`;
      if (mark.at) { // the trail of the peak
        const tx = [], ty = [];
        const count = values.length / 2;
        const along = Array.from({ length: Math.floor(time) + 1 }, (_, i) => [values[i], values[count + i]]);
        for (const [m, s] of [...along, [mean, sd]]) { const [x, y] = density(m, s, 0); tx.push(x); ty.push(y); }
        out += `<path d="${path(tx, ty)}" fill="none" style="stroke:${ink(mark.ink)}" stroke-width="1" stroke-opacity=".7"/>` +
          `<path d="${marker(mark.ink, tx.at(-1), ty.at(-1), 3.5 * c.weight)}" style="fill:${ink(mark.ink)}"/>`;
      }
      const [px, py] = density(mean, sd, 0);
      if (mark.label) c.text(px + 6, py - 4, mark.label, mark.ink, "start");
      return out + `<path d="${path(xs, ys)}" fill="none" style="stroke:${ink(mark.ink)}" stroke-width="${2.2 * c.weight}" stroke-dasharray="${DASH[mark.ink] || ""}"/>`;
    },
    ellipse(mark, c) {
      const values = c.frame.get(mark.params);
      const time = mark.at ? c.time(mark.at) : 0;
      const [m1, m2, l11, l21, l22] = between(values, 5, time);
      if (!Number.isFinite(m1 + m2 + l11 + l21 + l22)) return "";
      const plane = PLANE[mark.through || ""];
      let out = "";
      for (const r of mark.radii ?? [1, 2]) {
        const xs = [], ys = [];
        for (let i = 0; i <= 90; i++) {
          const a = (2 * Math.PI * i) / 90;
          const [x, y] = plane(m1 + r * l11 * Math.cos(a), m2 + r * (l21 * Math.cos(a) + l22 * Math.sin(a)));
          xs.push(c.x(x));
          ys.push(c.y(y));
        }
        out += mark.fill
          ? `<path d="${path(xs, ys)}z" style="fill:${ink(mark.ink)}" fill-opacity=".16"/>`
          : `<path d="${path(xs, ys)}" fill="none" style="stroke:${ink(mark.ink)}" stroke-width="${2 * c.weight}" stroke-dasharray="${DASH[mark.ink] || ""}"/>`;
      }
      if (mark.at) {
        const tx = [], ty = [];
        const count = values.length / 5;
        const along = Array.from({ length: Math.floor(time) + 1 }, (_, i) => [values[i], values[count + i]]);
        for (const [u, v] of [...along, [m1, m2]]) { const [x, y] = plane(u, v); tx.push(c.x(x)); ty.push(c.y(y)); }
        out += `<path d="${path(tx, ty)}" fill="none" style="stroke:${ink(mark.ink)}" stroke-width="1.2" stroke-opacity=".7"/>` +
          `<path d="${marker(mark.ink, tx.at(-1), ty.at(-1), 3.5 * c.weight)}" style="fill:${ink(mark.ink)}"/>`;
      }
      return out;
    },
  };

  // ------------------------------------------------------------------ one panel

  let serial = 0;

  /** An SVG whose axes are drawn when size or domain change, and whose marks are drawn with every frame. */
  function makePanel(spec) {
    const id = `vl-clip-${++serial}`;
    const node = document.createElement("div");
    node.className = "vl-panel";
    node.style.flexGrow = spec.height;
    node.innerHTML = `<div class="vl-panel-head"><span class="vl-panel-title">${escape(spec.title)}</span><span class="vl-note"></span></div>
      <div class="vl-plot"><svg role="img" aria-label="${escape(spec.title)}"><clipPath id="${id}"><rect/></clipPath>
      <g class="vl-axes"></g><g clip-path="url(#${id})" class="vl-marks"></g><g class="vl-texts"></g></svg></div>`;
    const svg = node.querySelector("svg");
    const axes = svg.querySelector(".vl-axes"), marks = svg.querySelector(".vl-marks"), texts = svg.querySelector(".vl-texts");
    const size = { width: 0, height: 0, em: 12 };
    let drawn = "";

    const measure = () => {
      size.width = svg.clientWidth;
      size.height = svg.clientHeight;
      size.em = parseFloat(getComputedStyle(svg).fontSize) || 12;
    };

    const labelled = spec.marks.filter((m) => m.type === "line" && m.label && m.aside);

    function draw(frame, view) {
      if (!size.width || !size.height) return;
      const em = size.em;
      const domain = (axis) => (typeof axis.domain === "string" ? Array.from(frame.get(axis.domain)) : axis.domain);
      const xd = domain(spec.x), yd = domain(spec.y);
      const hasYTicks = !(spec.y.ticks && spec.y.ticks.length === 0);
      const roomy = size.width > 24 * em;
      const right = labelled.length && roomy ? Math.max(...labelled.map((m) => m.label.length)) * em * 0.58 + em : em * 0.9;
      const box = {
        left: hasYTicks ? em * 2.9 : em * 0.4, right: size.width - right,
        top: spec.y.label ? em * 1.7 : em * 0.5, bottom: size.height - (spec.x.label ? em * 2.9 : em * 1.6),
      };
      const x = scale(spec.x.scale, xd, box.left, box.right), y = scale(spec.y.scale, yd, box.bottom, box.top);
      const key = [size.width, size.height, em, ...xd, ...yd].join();
      if (key !== drawn) {
        drawn = key;
        drawAxes(box, x, y, xd, yd, hasYTicks);
      }
      const ends = [], sides = [], said = [];
      let words = "";
      const text = (tx, ty, label, inkName, anchor) => {
        if (label) words += `<text x="${round(tx)}" y="${round(ty)}" text-anchor="${anchor}" style="fill:${ink(inkName)}" class="vl-halo">${escape(label)}</text>`;
      };
      const context = {
        frame, x, y, box, em, text, base: Math.min(...yd), fill: (words) => view.fill(words),
        weight: em / 12, time: (name) => view.time(name),
        describe: (words) => { said.push(words); },
        lineLabel(mark, xs, ys) {
          const inside = (i) => Number.isFinite(ys[i]) && ys[i] >= box.top - 1 && ys[i] <= box.bottom + 1 && xs[i] <= box.right + 1;
          const last = xs.length - 1;
          if (mark.fill) { // on the left flank, half way up
            const top = Math.min(...ys.filter(Number.isFinite)), half = (box.bottom + top) / 2;
            const i = ys.findIndex((v) => v <= half);
            if (i >= 0) text(xs[i] - em * 0.5, ys[i], mark.label, mark.ink, "end");
          } else if (mark.aside) { // in the margin, at the line's end
            if (roomy && Number.isFinite(ys[last])) ends.push({ y: Math.max(box.top, Math.min(box.bottom, ys[last])), x: box.right + 5, mark });
          } else { // on the line, where it leaves the panel
            let i = last;
            while (i > 0 && !inside(i)) i--;
            text(Math.min(xs[i], box.right) - em * 0.6, Math.max(ys[i], box.top + em) - (i === last ? em * 0.5 : -em * 0.2), mark.label, mark.ink, "end");
          }
        },
        sideLabel(mark, ry) { sides.push({ y: ry, mark }); },
      };
      marks.innerHTML = spec.marks.map((mark) => (view.shows(mark) ? DRAW[mark.type](mark, context) : "")).join("");
      if (said.length) svg.setAttribute("aria-label", [`${spec.title}.`, ...said].join(" "));
      spread(ends, em * 1.1, box.top + em * 0.3, box.bottom);
      for (const end of ends) text(end.x, end.y + em * 0.32, end.mark.label, end.mark.ink, "start");
      // labels of horizontal rules: above the upper one, below the lower one
      sides.sort((a, b) => a.y - b.y);
      sides.forEach((side, i) => text(box.left + em * 0.4, side.y + (sides.length > 1 && i === sides.length - 1 ? em * 1.05 : -em * 0.35), side.mark.label, side.mark.ink, "start"));
      texts.innerHTML = words;
      node.querySelector(".vl-note").textContent = spec.note ? view.fill(spec.note) : "";
    }

    function drawAxes(box, x, y, xd, yd, hasYTicks) {
      const em = size.em;
      svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
      const clip = svg.querySelector("clipPath rect");
      Object.entries({ x: box.left, y: box.top - 4, width: Math.max(0, box.right - box.left), height: Math.max(0, box.bottom - box.top + 4) })
        .forEach(([k, v]) => clip.setAttribute(k, v));
      let out = "";
      let lastRight = -1e9;
      for (const t of ticksOf(spec.x, xd, Math.max(2, (box.right - box.left) / (em * 4.5)))) {
        const px = round(x(t)), label = tickText(spec.x, t), half = label.length * em * 0.28;
        out += `<path d="M${px} ${box.bottom}v${em * 0.3}" class="vl-axis"/>`;
        if (px - half < lastRight + em * 0.4) continue;
        lastRight = px + half;
        out += `<text x="${px}" y="${box.bottom + em * 1.35}" text-anchor="middle">${label}</text>`;
      }
      if (hasYTicks) for (const t of ticksOf(spec.y, yd, Math.max(2, (box.bottom - box.top) / (em * 2.4)))) {
        const py = round(y(t));
        out += `<path d="M${box.left} ${py}H${box.right}" class="vl-grid"/><text x="${box.left - em * 0.45}" y="${py + em * 0.33}" text-anchor="end">${tickText(spec.y, t)}</text>`;
      }
      if (!spec.marks.every((mark) => mark.type === "image")) out += `<path d="M${box.left} ${box.bottom}H${box.right}" class="vl-axis"/>`;
      if (spec.x.label) out += `<text x="${(box.left + box.right) / 2}" y="${size.height - em * 0.35}" text-anchor="middle">${escape(spec.x.label)}</text>`;
      if (spec.y.label) out += `<text x="${em * 0.2}" y="${em * 0.95}" text-anchor="start">${escape(spec.y.label)}</text>`;
      axes.innerHTML = out;
    }

    return { node, spec, draw, measure };
  }

  /** Moves labels apart so that none covers another. */
  function spread(labels, gap, top, bottom) {
    labels.sort((a, b) => a.y - b.y);
    for (let i = 1; i < labels.length; i++) labels[i].y = Math.max(labels[i].y, labels[i - 1].y + gap);
    if (labels.length && labels.at(-1).y > bottom) {
      labels.at(-1).y = bottom;
      for (let i = labels.length - 2; i >= 0; i--) labels[i].y = Math.min(labels[i].y, labels[i + 1].y - gap);
    }
    for (const label of labels) label.y = Math.max(label.y, top);
  }

  // ------------------------------------------------------------------ the view

  const ICON = {
    play: '<path d="M3 2l10 6-10 6z"/>', pause: '<path d="M3 2h3.6v12H3zM9.4 2H13v12H9.4z"/>',
    noise: '<path d="M1.5 8h2l1.5-5 2.5 10L10 4l1.7 6 .8-2h2" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linejoin="round" stroke-linecap="round"/>',
    reset: '<path d="M3.2 5.5A5.5 5.5 0 1 1 2.6 9M3 2v3.8h3.8" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round"/>',
    link: '<path d="M6.8 9.2a2.6 2.6 0 0 0 3.7 0l2.4-2.4a2.6 2.6 0 0 0-3.7-3.7L8 4.3M9.2 6.8a2.6 2.6 0 0 0-3.7 0L3.1 9.2a2.6 2.6 0 0 0 3.7 3.7L8 11.7" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round"/>',
    full: '<path d="M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4" fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round"/>',
  };
  const icon = (name) => `<svg class="vl-icon" viewBox="0 0 16 16" aria-hidden="true">${ICON[name]}</svg>`;

  class View {
    /** `root` is the figure; `ask(values, view)` is called when a frame for new values is wanted. */
    constructor(root, spec, values, ask, mode) {
      Object.assign(this, { root, spec, ask, mode, values: { ...values }, first: { ...values }, frame: null, drawn: 0, times: {}, listeners: [] });
      root.dataset.mode = mode;
      this.build();
      this.resizer = new ResizeObserver(() => this.resize());
      this.panels.forEach((panel) => this.resizer.observe(panel.node.querySelector(".vl-plot")));
    }

    control(name) { return this.spec.controls.find((c) => c.name === name); }

    build() {
      const body = document.createElement("div");
      body.className = "vl-body";
      body.innerHTML = `<div class="vl-head"><div class="vl-title">${escape(this.spec.title)}</div><div class="vl-tools">
        <button type="button" name="reset" title="Back to the start">${icon("reset")}<span>Reset</span></button>
        ${this.mode === "recorded" ? `<button type="button" name="copy" title="Copy a link to what you see">${icon("link")}<span>Copy link</span></button>` : ""}
        <button type="button" name="fullscreen" aria-pressed="false" title="Full screen">${icon("full")}<span>Full screen</span></button></div></div>
        <div class="vl-controls"></div><div class="vl-status" hidden><div><span></span><progress max="1"></progress>
        <button type="button" name="stop">Stop</button></div></div><div class="vl-panels"></div><div class="vl-time"></div><div class="vl-table"></div>
        <figcaption aria-live="polite"></figcaption>`;
      this.body = body;
      this.inputs = {};
      for (const control of this.spec.controls) {
        const node = this.buildControl(control);
        body.querySelector(control.kind === "play" ? ".vl-time" : ".vl-controls").append(node);
      }
      this.panels = this.spec.panels.map(makePanel);
      const columns = new Map();
      for (const panel of this.panels) {
        if (!columns.has(panel.spec.column)) {
          const column = document.createElement("div");
          column.className = "vl-column";
          columns.set(panel.spec.column, column);
        }
        columns.get(panel.spec.column).append(panel.node);
      }
      const holder = body.querySelector(".vl-panels");
      holder.dataset.columns = columns.size;
      [...columns.keys()].sort((a, b) => a - b).forEach((k) => holder.append(columns.get(k)));
      this.buildTable(body.querySelector(".vl-table"));
      body.querySelectorAll("input,select,button").forEach((node) => node.setAttribute("data-lm-suppress-shortcuts", "true"));
      body.querySelector("[name=reset]").addEventListener("click", () => this.set({ ...this.first }));
      body.querySelector("[name=copy]")?.addEventListener("click", () => this.copyLink());
      body.querySelector("[name=fullscreen]").addEventListener("click", () => this.toggleFull());
      this.onFull = () => this.showFull(document.fullscreenElement === this.root);
      document.addEventListener("fullscreenchange", this.onFull);
      this.onKey = (event) => { if (event.key === "Escape" && this.root.classList.contains("vl-maximised")) this.showFull(false); };
      this.root.addEventListener("keydown", this.onKey);
      this.root.replaceChildren(...[...this.root.children].filter((child) => child.tagName === "SCRIPT"), body);
    }

    buildControl(control) {
      const node = document.createElement("div");
      node.className = `vl-control vl-${control.kind}${control.wide ? " vl-wide" : ""}`;
      const id = `vl-${this.spec.name}-${control.name}-${++serial}`;
      const out = `<output data-control="${control.name}" for="${id}"></output>`;
      if (control.kind === "slider") {
        node.innerHTML = `<label for="${id}">${escape(control.label)}</label>${out}
          <input id="${id}" type="range" name="${control.name}" min="0" max="${control.values.length - 1}" step="1">`;
        const input = node.querySelector("input");
        input.addEventListener("input", () => this.set({ [control.name]: control.values[input.valueAsNumber] }));
      } else if (control.kind === "choice" && control.options.length === 1) { // nothing to choose: say what it is
        node.innerHTML = `<span class="vl-label">${escape(control.label)}</span><output data-control="${control.name}" class="vl-only"></output>`;
      } else if (control.kind === "choice") {
        node.innerHTML = `<label for="${id}">${escape(control.label)}</label><select id="${id}" name="${control.name}">
          ${control.options.map(([key, label]) => `<option value="${escape(key)}">${escape(label)}</option>`).join("")}</select>
          <output data-control="${control.name}" for="${id}" class="vl-hidden"></output>`;
        node.querySelector("select").addEventListener("change", (event) => this.set({ [control.name]: event.target.value }));
      } else if (control.kind === "noise") {
        node.innerHTML = `<button id="${id}" type="button" name="${control.name}">${icon("noise")}<span>${escape(control.label)}</span></button>${out}`;
        node.querySelector("button").addEventListener("click", () => this.set({ [control.name]: (this.values[control.name] + 1) % control.count }));
      } else if (control.kind === "switches") {
        node.setAttribute("role", "group");
        node.setAttribute("aria-label", control.label);
        node.innerHTML = `<span class="vl-label">${escape(control.label)}</span>` + control.options.map(([key, label]) => {
          const name = (control.inks || {})[key] || "text";
          return `<label class="vl-chip" style="--vl-chip:${ink(name)}"><input type="checkbox" name="${control.name}" value="${escape(key)}">
            <svg viewBox="0 0 26 10" aria-hidden="true"><path d="M0 5H26" style="stroke:${ink(name)}" stroke-width="2" stroke-dasharray="${DASH[name] || ""}"/><path d="${marker(name, 13, 5, 3.6)}" style="fill:${ink(name)}"/></svg><span>${escape(label)}</span></label>`;
        }).join("") + `<output data-control="${control.name}" class="vl-hidden"></output>`;
        node.querySelectorAll("input").forEach((input) => input.addEventListener("change", () =>
          this.set({ [control.name]: [...node.querySelectorAll("input:checked")].map((i) => i.value) })));
      } else {
        node.innerHTML = `<button type="button" name="play" aria-pressed="false">${icon("play")}<span>Play</span></button>
          <label for="${id}">${escape(control.label)}</label><input id="${id}" type="range" name="${control.name}" min="0" max="${control.count - 1}" step="1">${out}`;
        const input = node.querySelector("input");
        input.addEventListener("input", () => { this.pause(); this.set({ [control.name]: input.valueAsNumber }); });
        node.querySelector("button").addEventListener("click", () => (this.playing ? this.pause() : this.play(control)));
      }
      this.inputs[control.name] = node;
      return node;
    }

    buildTable(holder) {
      const table = this.spec.table;
      if (!table) return holder.remove();
      holder.innerHTML = `<table><thead><tr><th scope="col"></th>${table.columns.map((c) => `<th scope="col" title="${escape(c.help || "")}">${escape(c.label)}</th>`).join("")}</tr></thead>
        <tbody>${table.rows.map(([key, label]) => `<tr data-row="${escape(key)}"><th scope="row" style="color:${ink((table.inks || {})[key] || "text")}">${escape(label)}</th>
        ${table.columns.map((c) => `<td><output data-channel="${escape(c.channel.replace("{row}", key))}"></output></td>`).join("")}</tr>`).join("")}</tbody></table>`;
      this.cells = table.rows.flatMap(([key]) => table.columns.map((column) => ({ key, column, channel: column.channel.replace("{row}", key) })));
      holder.querySelectorAll("td output").forEach((node, i) => { this.cells[i].node = node; });
      this.rows = [...holder.querySelectorAll("tbody tr")];
    }

    // -- values in, values out

    /** Take new values of some controls, from a person, a link or Python; `quiet` when the model sent them. */
    set(changes, quiet = false) {
      const before = this.values;
      this.values = { ...this.values, ...changes };
      for (const name of Object.keys(changes)) if (this.control(name)?.kind === "play") this.times[name] = changes[name];
      this.showControls();
      const moved = this.spec.controls.some((c) => c.kind !== "switches" && c.kind !== "play" && before[c.name] !== this.values[c.name]);
      if (!quiet) { this.touched = true; this.share(); }
      if (moved || !this.frame) this.ask(this.values, this, quiet);
      else { this.draw(); if (!quiet) this.ask(this.values, this, quiet, true); }
    }

    showControls() {
      for (const control of this.spec.controls) {
        const node = this.inputs[control.name], value = this.values[control.name];
        const out = node.querySelector("output");
        let text;
        if (control.kind === "slider") {
          const input = node.querySelector("input");
          input.value = control.values.indexOf(value);
          text = format(value, control.format) + (control.unit ? ` ${control.unit}` : "");
          input.setAttribute("aria-valuetext", `${control.label} ${text}`);
          input.style.setProperty("--vl-share", control.values.length > 1 ? input.valueAsNumber / (control.values.length - 1) : 0);
        } else if (control.kind === "choice") {
          const select = node.querySelector("select");
          if (select) select.value = value;
          text = (control.options.find(([key]) => key === value) || [0, value])[1];
        } else if (control.kind === "noise") text = `${value + 1} of ${control.count}`;
        else if (control.kind === "switches") {
          node.querySelectorAll("input").forEach((input) => { input.checked = value.includes(input.value); });
          text = `${value.length} of ${control.options.length} shown`;
        } else {
          const input = node.querySelector("input");
          input.value = value;
          const times = this.frame ? this.frame.get(control.times) : [];
          text = times.length ? format(times[Math.floor(this.time(control.name))], "d") : String(value);
          input.setAttribute("aria-valuetext", `${control.label} ${text}`);
          input.style.setProperty("--vl-share", this.time(control.name) / (control.count - 1));
        }
        if (out.textContent !== text) out.textContent = text;
        out.dataset.value = Array.isArray(value) ? value.join(",") : value;
      }
    }

    // -- drawing

    /** The place in a channel at which a control stands: the play head (between two times while playing), or a slider's notch. */
    time(name) {
      const control = this.control(name);
      if (control.kind === "slider") return control.values.indexOf(this.values[name]);
      return this.times[name] ?? this.values[name] ?? 0;
    }

    shows(mark) {
      return Object.entries(mark.when || {}).every(([name, wanted]) => {
        const value = this.values[name], chosen = Array.isArray(value) ? value : [value];
        return (Array.isArray(wanted) ? wanted : [wanted]).some((key) => chosen.includes(key));
      });
    }

    /** Put numbers into a sentence: {channel}, {channel:.2f}, {channel@step}, {control}. */
    fill(sentence) {
      const put = (text) => text.replace(/\{(\w+)(?:@(\w+))?(?::([^}]*))?\}/g, (_, name, at, spec) => {
        const control = this.control(name);
        if (control) return this.inputs[name].querySelector("output").textContent;
        const channel = this.frame.get(name);
        return typeof channel === "string" ? channel : format(channel[at ? Math.floor(this.time(at)) : 0], spec || ".3g");
      });
      return put(put(sentence));
    }

    /** A frame came: keep it and draw it. */
    show(frame) {
      this.frame = frame;
      this.showControls();
      this.draw();
    }

    /** Words in place of the caption until the next frame; `state` is computing, broken, stopped, gone, or "" for all is well. */
    say(words, state) {
      this.notice = words;
      this.root.dataset.state = state;
      if (this.frame) this.draw();
      else if (words) { // there is no picture yet, but there are controls
        this.body.querySelector("figcaption").textContent = words;
        Object.assign(this.root.dataset, { frame: this.drawn, ready: "true" });
        this.showControls();
      }
    }

    /** Python is at work: for how long, on what, and how far it is; `stop` ends that. Without words it is at work no more. */
    busy(words, share, stop) {
      const bar = this.body.querySelector(".vl-status");
      bar.hidden = !words;
      this.root.classList.toggle("vl-busy", Boolean(words));
      if (!words) return;
      bar.querySelector("span").textContent = words;
      const progress = bar.querySelector("progress");
      progress.setAttribute("aria-label", words);
      if (share === null || share === undefined) progress.removeAttribute("value"); else progress.value = share;
      const button = bar.querySelector("button");
      button.hidden = !stop;
      button.onclick = stop;
    }

    /** Show the panels that apply; true if that changed the layout. */
    choosePanels() {
      let changed = false;
      for (const panel of this.panels) {
        const off = !this.shows(panel.spec);
        changed ||= panel.node.hidden !== off;
        panel.node.hidden = off;
      }
      return changed;
    }

    draw() {
      if (!this.frame) return;
      const start = performance.now();
      if (this.choosePanels()) this.panels.forEach((panel) => panel.measure());
      for (const panel of this.panels) if (!panel.node.hidden) panel.draw(this.frame, this);
      for (const cell of this.cells || []) {
        const channel = this.frame.get(cell.channel);
        const value = channel[cell.column.at ? Math.floor(this.time(cell.column.at)) : 0];
        const text = format(value, cell.column.format);
        if (cell.node.textContent !== text) cell.node.textContent = text;
        cell.node.dataset.value = typeof value === "string" ? value : Number.isNaN(value) ? "nan" : String(value);
      }
      const table = this.spec.table;
      if (table) this.rows.forEach((row) => row.classList.toggle("vl-none", [...row.querySelectorAll("output")].every((out) => out.dataset.value === "nan")));
      if (table && table.switch) this.rows.forEach((row) => { row.classList.toggle("vl-off", !this.values[table.switch].includes(row.dataset.row)); });
      const caption = this.body.querySelector("figcaption");
      const words = this.notice || this.fill(this.spec.caption);
      if (caption.textContent !== words && !this.playing) caption.textContent = words;
      this.root.dataset.frame = ++this.drawn;
      this.root.dataset.ready = "true";
      this.root.dataset.drawMs = (performance.now() - start).toFixed(2);
    }

    resize() {
      this.choosePanels();
      this.panels.forEach((panel) => panel.measure());
      if (this.frame) for (const panel of this.panels) if (!panel.node.hidden) panel.draw(this.frame, this);
      const table = this.body.querySelector(".vl-table"); // wider than its place, it is scrolled by keys too
      if (table && table.scrollWidth > table.clientWidth + 1) Object.assign(table, { tabIndex: 0, role: "group", ariaLabel: "Numbers" });
      else if (table) ["tabindex", "role", "aria-label"].forEach((name) => table.removeAttribute(name));
    }

    // -- playing

    play(control) {
      const last = control.count - 1;
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      let at = this.time(control.name) >= last ? 0 : this.time(control.name);
      let before = null;
      this.playing = control.name;
      this.showPlaying(control, true);
      const step = (now) => {
        if (this.playing !== control.name || !this.root.isConnected) return;
        if (before !== null) at = Math.min(last, at + ((now - before) / 1000 / control.seconds) * last);
        before = now;
        const shown = still ? Math.floor(at) : at;
        if (shown !== this.time(control.name) || this.drawn === 0) {
          this.times[control.name] = shown;
          this.values[control.name] = Math.floor(at);
          this.showControls();
          this.draw();
        }
        if (at >= last) this.pause(); else requestAnimationFrame(step);
      };
      requestAnimationFrame(step);
    }

    pause() {
      if (!this.playing) return;
      const control = this.control(this.playing);
      this.playing = null;
      this.showPlaying(control, false);
      this.set({ [control.name]: Math.floor(this.time(control.name)) });
    }

    showPlaying(control, on) {
      const button = this.inputs[control.name].querySelector("button");
      button.innerHTML = on ? `${icon("pause")}<span>Pause</span>` : `${icon("play")}<span>Play</span>`;
      button.setAttribute("aria-pressed", String(on));
    }

    // -- full screen, and the state as a link

    toggleFull() {
      if (document.fullscreenElement === this.root) document.exitFullscreen();
      else if (this.root.classList.contains("vl-maximised")) this.showFull(false);
      else if (this.root.requestFullscreen) this.root.requestFullscreen().catch(() => this.showFull(true));
      else this.showFull(true);
    }

    showFull(on) {
      this.root.classList.toggle("vl-maximised", on);
      const button = this.body.querySelector("[name=fullscreen]");
      button.setAttribute("aria-pressed", String(on));
      button.querySelector("span").textContent = on ? "Leave full screen" : "Full screen";
      this.root.dataset.frame = ++this.drawn;
    }

    /** The end of the address that reproduces the picture: #gradient-variance?sample_count=64&… */
    hash() {
      const query = new URLSearchParams(this.spec.controls.map((c) => [c.name, [].concat(this.values[c.name]).join(",")]));
      return `#${this.spec.name}?${query.toString().replaceAll("%2C", ",")}`;
    }

    /** Write the state into the address. */
    share() {
      if (this.mode !== "recorded") return;
      clearTimeout(this.sharing);
      this.sharing = setTimeout(() => {
        try { history.replaceState(history.state, "", this.hash()); } catch { /* a sandboxed frame has no address to write */ }
      }, 150);
    }

    async copyLink() {
      const link = location.href.split("#")[0] + this.hash(), button = this.body.querySelector("[name=copy]");
      const copied = await (navigator.clipboard?.writeText(link) ?? Promise.reject()).then(() => true, () => this.copySelected(link));
      button.querySelector("span").textContent = copied ? "Copied" : "Not copied";
      button.classList.add("vl-says"); // on a phone too
      if (!copied) {
        this.notice = `This browser lets no page copy. The link: ${link}`;
        this.draw();
        this.notice = "";
      }
      clearTimeout(this.copying);
      this.copying = setTimeout(() => {
        button.querySelector("span").textContent = "Copy link";
        button.classList.remove("vl-says");
      }, 2000);
    }

    /** The old way, for browsers and frames without a clipboard for pages. */
    copySelected(text) {
      const field = document.createElement("textarea");
      field.value = text;
      this.body.append(field);
      field.select();
      const copied = document.execCommand("copy");
      field.remove();
      this.body.querySelector("[name=copy]").focus();
      return copied;
    }

    /** Take the state from an address such as #gradient-variance?sample_count=64; say so if it offers what is not there. */
    follow(hash, quiet = true) {
      const [name, query] = hash.replace(/^#/, "").split("?");
      if (name !== this.spec.name) return;
      const changes = {}, odd = [];
      for (const [key, text] of new URLSearchParams(query || "")) {
        const control = this.control(key);
        const offered = control && (control.values || (control.options || []).map(([k]) => k) || []);
        if (!control) odd.push(key);
        else if (control.kind === "switches") {
          const keys = text.split(",").filter(Boolean);
          if (keys.every((k) => offered.includes(k))) changes[key] = keys; else odd.push(`${key}=${text}`);
        } else {
          const options = control.kind === "slider" || control.kind === "choice" ? offered : Array.from({ length: control.count }, (_, i) => i);
          const found = options.find((v) => String(v) === text || (text !== "" && Number(text) === v));
          if (found === undefined) odd.push(`${key}=${text}`); else changes[key] = found;
        }
      }
      this.notice = odd.length ? `The link asks for ${odd.join(", ")}, which this picture does not offer; the rest of the link was followed.` : "";
      this.set(changes, quiet);
      this.notice = "";
      this.root.scrollIntoView({ block: "start" });
    }

    dispose() {
      this.playing = null;
      this.resizer.disconnect();
      document.removeEventListener("fullscreenchange", this.onFull);
      this.root.removeEventListener("keydown", this.onKey);
    }
  }

  // ------------------------------------------------------------------ where frames come from

  /** The static form: a recording in the page answers. */
  async function mountRecorded(root) {
    if (root.dataset.ready) return;
    root.dataset.ready = "loading";
    const spec = JSON.parse(root.querySelector(".vilib-spec").textContent);
    const recording = root.querySelector(".vilib-recording");
    const frames = player(spec.recording, await inflate(recording.textContent.trim()));
    recording.remove();
    const view = new View(root, spec, spec.values, (values, v, quiet, onlyView) => { if (!onlyView) v.show(frames(values)); }, "recorded");
    view.resize();
    view.show(frames(view.values));
    view.follow(location.hash);
    window.addEventListener("hashchange", () => view.follow(location.hash));
    root.vilibView = view;
  }

  /** Milliseconds until a reader is told that Python is at work, and until silence is remarked upon. */
  const SOON = 300, SILENCE = 10000;
  const GONE = "The kernel was restarted: run the cell again. Nothing answers these controls any more.";

  /** The live form: a kernel answers. One question at a time; the latest values win. */
  function render({ model, el }) {
    const root = document.createElement("figure");
    root.className = "vilib-explorable";
    const spec = model.get("_spec");
    root.dataset.explorable = spec.name;
    el.append(root);
    const names = spec.controls.map((c) => c.name);
    const modelValues = () => Object.fromEntries(names.map((name) => [name, model.get(name)]));
    let waiting = 0, pending = null, request = model.get("_request"), gone = false;
    let since = 0, clock = 0, progress = null, stopping = false;
    let pushing = false;
    const push = (values) => { // our own changes come back as events at once, one by one: not news
      pushing = true;
      for (const name of names) model.set(name, values[name]);
      pushing = false;
    };
    const send = (values) => {
      push(values);
      waiting = ++request;
      model.set("_request", request);
      model.save_changes();
      waits();
    };
    const ask = (values, _view, quiet, onlyView) => {
      if (gone) { view.say(GONE, "gone"); return; }
      if (quiet) return;
      if (onlyView && !waiting) { push(values); model.save_changes(); return; }
      if (waiting && !long()) pending = { ...values }; else send(values);
    };
    const view = new View(root, spec, modelValues(), ask, "live");
    /** Python has been at work for more than a glance: its answer is not waited for before the next question. */
    const long = () => Boolean(progress) && performance.now() - since >= SOON;
    /** From the question on, until `rests`: what is shown while Python computes, once that takes longer than a glance. */
    const waits = () => {
      if (!clock) { since = performance.now(); clock = setTimeout(tick, SOON); }
    };
    const rests = () => {
      clearTimeout(clock);
      [waiting, clock, progress, stopping] = [0, 0, null, false];
      view.busy("");
    };
    const tick = () => {
      if (!root.isConnected) { clock = 0; return; }
      if (pending && long()) { const next = pending; pending = null; send(next); }
      const seconds = Math.max(1, Math.round((performance.now() - since) / 1000));
      const doing = stopping ? "stopping after this piece" : progress && progress.words;
      const silent = !progress && seconds * 1000 >= SILENCE ? ". No word from Python yet: it is busy with another cell, or the kernel was restarted; then run this cell again" : "";
      view.busy(`Computing: ${seconds} s${doing ? `, ${doing}` : ""}${silent}`, progress && progress.share, progress && !stopping && stop);
      root.dataset.state = "computing";
      clock = setTimeout(tick, 500);
    };
    const stop = () => {
      stopping = true;
      model.send({ stop: progress.serial });
      clearTimeout(clock);
      tick();
    };
    /** Python says that it is at work on a question, perhaps one that nobody here asked. */
    const hear = () => {
      const news = model.get("_progress"), frame = model.get("_frame");
      if (gone || !news || news.serial === undefined || (frame && frame.serial >= news.serial) || news.request < waiting) return;
      if (progress && progress.serial !== news.serial) stopping = false;
      request = Math.max(request, news.request);
      progress = news;
      waits();
      if (long()) { clearTimeout(clock); tick(); }
    };
    const take = () => {
      const packet = model.get("_frame");
      if (!packet || packet.request === undefined) return;
      gone = false; // who speaks is there
      const answered = packet.request >= waiting && !(progress && progress.serial > packet.serial);
      request = Math.max(request, packet.request);
      if (answered) rests();
      if (pending) { const next = pending; pending = null; send(next); return; }
      if (!answered) return; // an answer to an earlier question
      if (packet.stopped) return view.say(view.frame ? "Stopped. The picture is still the last one that was finished; move a control to go on." : "Stopped before the first picture. Move a control to go on.", "stopped");
      if (packet.error) {
        const at = packet.where && `${/[.!?]$/.test(packet.error) ? " At" : ", at"} ${packet.where}`, what = `Python stopped: ${packet.error}${at || ""}`, still = view.frame ? "The picture is still the last one that could be drawn." : "";
        return view.say([what + (/[.!?]$/.test(what) ? "" : "."), still, packet.advice].filter(Boolean).join(" "), "broken");
      }
      view.notice = "";
      root.dataset.state = "";
      follow(); // Python may have moved a control while it was asked about another
      root.dataset.answers = JSON.stringify(packet.controls);
      view.show(unpack(packet));
    };
    const follow = () => { if (!pushing && !waiting && !pending) { const values = modelValues(); if (names.some((n) => String(values[n]) !== String(view.values[n]))) view.set(values, true); } };
    /** The kernel was restarted, or shut down: nobody will answer any more. */
    const lose = () => { gone = true; rests(); pending = null; view.say(GONE, "gone"); };
    const heard = { "change:_frame": take, "change:_progress": hear, "comm:close": lose, comm_live_update: lose };
    Object.entries(heard).forEach(([what, act]) => model.on(what, act));
    names.forEach((name) => model.on(`change:${name}`, follow));
    /** A link in the text below, such as #gradient-variance?sample_count=64: of several pictures of that name, the one above it answers. */
    const led = (event) => {
      const link = event.target.closest?.(`a[href^="#${spec.name}?"]`);
      const above = link && [...document.querySelectorAll(`figure[data-explorable="${spec.name}"]`)].filter((f) => f.compareDocumentPosition(link) & Node.DOCUMENT_POSITION_FOLLOWING).pop();
      if (above === root) view.follow(link.getAttribute("href"), false);
    };
    document.addEventListener("click", led, true);
    view.resize();
    take();
    hear();
    root.vilibView = view;
    return () => {
      rests();
      document.removeEventListener("click", led, true);
      Object.entries(heard).forEach(([what, act]) => model.off(what, act));
      names.forEach((name) => model.off(`change:${name}`, follow));
      view.dispose();
    };
  }

  function unpack({ layout, texts, data }) {
    const bytes = new Uint8Array(data.buffer ? data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength) : data);
    const numbers = new Float64Array(bytes.buffer);
    const channels = new Map(Object.entries(texts));
    let at = 0;
    for (const [name, length] of layout) { channels.set(name, numbers.subarray(at, at + length)); at += length; }
    return {
      get(name) { if (!channels.has(name)) throw new Error(`the frame has no channel ${name}`); return channels.get(name); },
      has: (name) => channels.has(name),
    };
  }

  // ------------------------------------------------------------------ start

  /** `ready` is a promise that all are drawn: what can wait (formulas) waits for it. */
  const api = { render, start, format, ready: null };
  const drawing = new Map(); // root -> a promise that it is drawn
  /** The parser has gone past the end of it. */
  const whole = (node) => node !== null && (node.nextSibling !== null || whole(node.parentElement));
  /** Draws each recorded explorable that is whole and not drawn yet. */
  function start() {
    for (const root of document.querySelectorAll("figure.vilib-explorable[data-mode=recorded]")) {
      if (drawing.has(root) || (document.readyState === "loading" && !whole(root))) continue;
      drawing.set(root, mountRecorded(root).then(() => dispatchEvent(new Event("vilib-drawn")),
        (error) => { root.dataset.ready = "failed"; console.error(error); }));
    }
    api.ready = Promise.all(drawing.values());
  }
  start();
  if (document.readyState === "loading") { // each as soon as it is there, while the rest of the page is on its way
    const arriving = new MutationObserver(start);
    arriving.observe(document, { childList: true, subtree: true });
    document.addEventListener("DOMContentLoaded", () => { arriving.disconnect(); start(); });
  }

  /** What stands above may have grown since a link led here (formulas and pictures do): go there again, unless the reader has moved. */
  let moved = false;
  for (const kind of ["wheel", "pointerdown", "keydown", "touchstart"]) addEventListener(kind, () => { moved = true; }, { once: true, capture: true, passive: true });
  const arrive = () => {
    const name = location.hash.replace(/^#/, "").split("?")[0];
    const root = name && document.querySelector(`figure.vilib-explorable[data-explorable="${CSS.escape(name)}"]`);
    if (root && !moved) root.scrollIntoView({ block: "start" });
  };
  if (location.hash) {
    const grown = new ResizeObserver(() => (moved ? grown.disconnect() : arrive()));
    const watch = () => grown.observe(document.body);
    if (document.body) watch(); else addEventListener("DOMContentLoaded", watch);
  }

  return api;
})();
