// Ten example digits as strokes: [[x, y], …] in 0..1, y downwards.

/** Points on an ellipse about (x, y), from one angle to another, in quarter turns; 0 is right, 1 below. */
function arc(x, y, rx, ry, from, to) {
  const steps = Math.max(2, Math.ceil(Math.abs(to - from) * 10));
  return Array.from({ length: steps + 1 }, (_, i) => {
    const angle = ((from + ((to - from) * i) / steps) * Math.PI) / 2;
    return [x + rx * Math.cos(angle), y + ry * Math.sin(angle)];
  });
}

/** Digit → strokes. */
export const EXAMPLES = [
  [arc(0.5, 0.5, 0.2, 0.34, -1, 3)],
  [[[0.38, 0.3], [0.52, 0.16], [0.52, 0.84]]],
  [[...arc(0.5, 0.34, 0.19, 0.18, -2.2, 0.4), [0.3, 0.82], [0.72, 0.82]]],
  [[...arc(0.46, 0.33, 0.19, 0.17, -1.7, 1), ...arc(0.46, 0.67, 0.22, 0.17, -1, 1.7)]],
  [[[0.56, 0.15], [0.28, 0.6], [0.74, 0.6]], [[0.6, 0.4], [0.58, 0.86]]],
  [[[0.7, 0.17], [0.38, 0.17], [0.35, 0.47], ...arc(0.48, 0.64, 0.21, 0.2, -1.4, 1.6)]],
  [[[0.6, 0.14], [0.42, 0.32], [0.32, 0.56], ...arc(0.5, 0.66, 0.19, 0.19, -2, 2)]],
  [[[0.28, 0.18], [0.7, 0.18], [0.55, 0.48], [0.44, 0.86]], [[0.38, 0.52], [0.66, 0.52]]],
  [[...arc(0.5, 0.32, 0.16, 0.17, 1, -3), ...arc(0.5, 0.67, 0.2, 0.18, -1, 3)]],
  [[...arc(0.49, 0.34, 0.19, 0.18, 0, -4), [0.67, 0.5], [0.6, 0.86]]],
];
