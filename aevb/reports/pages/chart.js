// Curves against a logarithmic axis, as SVG.
"use strict";

function shape(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// Returns about four round numbers from low to high.
function ticks(low, high) {
  const raw = (high - low) / 4 || 1, power = 10 ** Math.floor(Math.log10(raw));
  const width = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
  const found = [];
  for (let at = Math.ceil(low / width) * width; at <= high + 1e-9; at += width) found.push(at);
  return found;
}

// Returns an SVG of lines: [{label, color, dashed, x: [...], y: [...]}]. Omits missing values.
// The y axis is cut off below, because a run can start thousands of nats below its end. With the
// cut "both" it is cut off above too.
function chart(lines, xLabel, yLabel, cut = "below") {
  const [width, height, left, bottom, top, right] = [640, 320, 70, 45, 12, 35];
  const finite = lines.flatMap((line) => line.y).filter(Number.isFinite).sort((a, b) => a - b);
  const xs = lines.flatMap((line) => line.x).filter((x) => x > 0);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  if (!finite.length || !xs.length) return svg;
  const quarter = finite[Math.floor(finite.length / 4)];
  const upper = finite[Math.floor((3 * (finite.length - 1)) / 4)];
  const most = cut === "both"
    ? Math.min(finite.at(-1), upper + 2 * (upper - finite[0]) + 1) : finite.at(-1);
  const low = Math.max(finite[0], quarter - 2 * (most - quarter) - 1), margin = (most - low) * 0.05;
  const [from, to] = [low - margin - 0.01, most + margin + 0.01];
  const [first, last] = [Math.log10(Math.min(...xs)), Math.log10(Math.max(...xs) * 1.001)];
  const toX = (x) => left + ((Math.log10(x) - first) / (last - first)) * (width - left - right);
  const toY = (y) => top + ((to - y) / (to - from)) * (height - top - bottom);
  for (const at of ticks(from, to)) {
    const y = toY(at);
    svg.append(shape("line", { class: "grid", x1: left, x2: width - right, y1: y, y2: y }));
    const text = { x: left - 6, y: y + 4, "text-anchor": "end" };
    svg.append(shape("text", text, +at.toPrecision(6)));
  }
  for (let power = Math.ceil(first); power <= last; power++) {
    const x = toX(10 ** power);
    svg.append(shape("line", { class: "grid", x1: x, x2: x, y1: top, y2: height - bottom }));
    const text = { x, y: height - bottom + 16, "text-anchor": "middle" };
    svg.append(shape("text", text, (10 ** power).toLocaleString("en")));
  }
  for (const { label, color, dashed, x, y } of lines) {
    const points = x.map((at, i) => [at, y[i]]).filter(([, value]) => Number.isFinite(value));
    const within = (y) => Math.max(top, Math.min(y, height - bottom));
    const path = points.map(([a, b]) => `${toX(a)},${within(toY(b))}`).join(" ");
    const line = shape("polyline", {
      points: path, fill: "none", stroke: color, "stroke-width": 2,
      "stroke-dasharray": dashed ? "6 4" : "none",
    });
    const end = points.at(-1);
    line.append(shape("title", {}, `${label}: ${end ? end[1].toFixed(2) : "no value"} at the end`));
    svg.append(line);
  }
  const middle = (height - bottom) / 2;
  svg.append(shape("text", { x: (width + left - right) / 2, y: height - 8, "text-anchor": "middle" }, xLabel));
  svg.append(shape("text", {
    x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})`,
  }, yLabel));
  svg.setAttribute("aria-label", `${yLabel} against ${xLabel}: ${[...new Set(lines.map((l) => l.label))]}`);
  return svg;
}

// Returns the legend of a chart: the colors of its lines.
function legend(lines) {
  const made = element("div", { class: "controls" });
  for (const { label, color, dashed } of lines) {
    const style = `border-top: 3px ${dashed ? "dashed" : "solid"} ${color}; width: 2rem`;
    made.append(element("span", { style: "display: flex; gap: .4rem; align-items: center" },
      element("span", { style }), label));
  }
  return made;
}
