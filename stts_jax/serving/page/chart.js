// Draws scores over time.

const SPACE = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [720, 150, 34, 20, 8];

function element(name, attributes, text) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function showChart(box, times, scores, keep) {
  const frames = scores.length;
  const width = Math.max(280, Math.round(box.clientWidth) || WIDTH);
  const step = (width - LEFT) / frames;
  const x = (frame) => LEFT + (frame + 0.5) * step;
  const y = (value) => TOP + (1 - value) * (HEIGHT - TOP - BOTTOM);
  const mean = (row) => row.reduce((a, b) => a + b, 0) / row.length;
  const chart = element("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img" });
  const shares = keep.map(mean);
  const label = `Scores of ${frames} frames; ${Math.round(100 * mean(shares))} % of the tokens stay`;
  chart.setAttribute("aria-label", label);
  for (const value of [0, 0.5, 1]) {
    chart.append(
      element("line", { class: "axis", x1: LEFT, x2: width, y1: y(value), y2: y(value) }),
      element("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(1)));
  }
  const bar = Math.max(2, step * 0.7);
  scores.forEach((row, frame) => {
    const [low, high] = [Math.min(...row), Math.max(...row)];
    const span = Math.min(10, bar / 2);
    chart.append(
      element("rect", { class: "share", x: x(frame) - bar / 2, width: bar,
        y: y(shares[frame]), height: y(0) - y(shares[frame]) }),
      element("rect", { class: "span", x: x(frame) - span / 2, width: span, rx: 2,
        y: y(high), height: Math.max(1, y(low) - y(high)) }));
  });
  const points = scores.map((row, frame) => `${x(frame)},${y(mean(row))}`);
  chart.append(element("polyline", { class: "mean", points: points.join(" ") }));
  const every = Math.ceil(frames / Math.max(2, Math.floor(width / 60)));
  times.forEach((time, frame) => {
    chart.append(element("circle", { class: "dot", cx: x(frame), cy: y(mean(scores[frame])), r: 2.5 }));
    if (frame % every === 0) {
      chart.append(element(
        "text", { x: x(frame), y: HEIGHT - 5, "text-anchor": "middle" }, `${time.toFixed(1)} s`));
    }
  });
  box.replaceChildren(chart);
}
