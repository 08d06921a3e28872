// Samples that were kept, to teach or to check with: none twice, and none of a recording on both sides. Its windows overlap, or are alike,
// so the network would be checked with what it was taught.
//
//   {sample, label, origin, unit, checks, said}
//     origin   what the sample is of: {group?, whole?, strokes?}          unit     the same object for all samples of one origin
//     checks   whether it is kept back                                    said     the network's answer; null while there is none

const same = (a, b) => a.length === b.length && a.every((value, i) => value === b[i]);

/** The kept sample of the same numbers; undefined if there is none. */
export const twinOf = (collected, sample) => collected.find((each) => same(each.sample, sample));

/** Whether two samples are of one group, where their files name groups, else of one recording, by its numbers, or of one drawing. */
function related(a, b) {
  if (a.group || b.group) return a.group === b.group;
  if (a.whole && b.whole) return a.whole === b.whole || (a.whole.rows === b.whole.rows && a.whole.channels.every((numbers, c) => same(numbers, b.whole.channels[c])));
  return a.strokes !== undefined && a.strokes === b.strokes;
}

/**
 * The samples with one more. It joins the others of its origin; if there are none, it is kept back where `back` says so and more units of
 * its label teach than are kept back.
 */
export function withSample(collected, { sample, label, origin }, back) {
  const relative = collected.find((each) => related(each.origin, origin));
  const count = (checks) => new Set(collected.filter((each) => each.label === label && each.checks === checks).map((each) => each.unit)).size;
  const checks = relative ? relative.checks : back && count(false) > count(true);
  return [...collected, { sample, label, origin, unit: relative?.unit ?? {}, checks, said: null }];
}
