// Which tokens stay at a ratio, by their scores: a preview until the server has said it.

export function selected(scores, ratio) {
  const all = scores.flatMap((row, frame) => row.map((score, token) => ({ frame, token, score })));
  // Of the first frame tokens go only when nothing else is left; of equal ones the earlier go.
  all.sort((a, b) => (a.frame === 0) - (b.frame === 0) || a.score - b.score);
  const keep = scores.map((row) => row.map(() => 1));
  for (const { frame, token } of all.slice(0, Math.floor(all.length * ratio))) keep[frame][token] = 0;
  return keep;
}

export const count = (keep) => keep.flat().reduce((sum, one) => sum + one, 0);
