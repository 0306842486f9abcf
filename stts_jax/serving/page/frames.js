// Draws frames: dropped tokens are dark.

export function showFrames(list, kept) {
  list.replaceChildren(...kept.frames.map((address, index) => {
    const item = document.createElement("li");
    const canvas = document.createElement("canvas");
    const line = document.createElement("p");
    canvas.setAttribute("role", "img");
    line.append(document.createElement("span"), document.createElement("span"));
    item.append(canvas, line);
    const picture = new Image();
    picture.onload = () => {
      canvas.picture = picture;
      canvas.width = picture.naturalWidth * 2;
      canvas.height = picture.naturalHeight * 2;
      draw(canvas);
    };
    picture.src = address;
    line.firstChild.textContent = kept.keep ? `${kept.times[index].toFixed(1)} s` : `crop ${index + 1}`;
    return item;
  }));
}

export function showMasks(list, grid, keep) {
  [...list.children].forEach((item, index) => {
    const [canvas, line] = item.children;
    const row = keep ? keep[index] : null;
    canvas.mask = row && { row, grid };
    const share = row ? row.reduce((a, b) => a + b, 0) / row.length : 1;
    line.lastChild.textContent = `${Math.round(100 * share)} %`;
    canvas.setAttribute(
      "aria-label", `${line.firstChild.textContent}: ${Math.round(100 * share)} % of it stays`);
    draw(canvas);
  });
}

function draw(canvas) {
  if (!canvas.picture) return;
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  context.drawImage(canvas.picture, 0, 0, width, height);
  if (!canvas.mask) return;
  const { row, grid: [rows, columns] } = canvas.mask;
  context.fillStyle = "rgba(8, 12, 11, .8)";
  row.forEach((stays, token) => {
    if (stays) return;
    const [top, left] = [Math.floor(token / columns), token % columns];
    const [x0, x1] = [left, left + 1].map((x) => Math.round((x * width) / columns));
    const [y0, y1] = [top, top + 1].map((y) => Math.round((y * height) / rows));
    context.fillRect(x0, y0, x1 - x0, y1 - y0);
  });
}
