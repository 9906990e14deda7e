/** From the outputs of the graph for each view to the answer for the study; `study` is the content of study.json. */

/**
 * @typedef {object} View Of one view: the outputs of the graph as plain numbers (`probability`, `logits`,
 *   `memberLogits`, `attentionScores`, `oodScores`), probabilities of `bodyPart`, `region` and `finding`, each null if
 *   the checkpoint does not have it; `name`, `warnings` and a `digest` of the pixels; and what the file says, which is
 *   only compared: `patient`, `side`, `part`.
 */

const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));
const sum = (values) => values.reduce((total, value) => total + value, 0);

function calibrate(probability, slope, intercept) {
  const tiny = Number.MIN_VALUE;
  const logit = Math.log(Math.max(probability, tiny)) - Math.log(Math.max(1 - probability, tiny));
  return sigmoid(slope * logit + intercept);
}

export function softmax(logits) {
  const largest = Math.max(...logits);
  const shares = logits.map((logit) => Math.exp(logit - largest));
  return shares.map((share) => share / sum(shares));
}

/** Pools the views of one member: its probability, and the share of each view in it. */
function pool(member, logits, scores) {
  const views = logits.map(([normal, abnormal]) => sigmoid(abnormal - normal));
  const equal = views.map(() => 1 / views.length);
  if (member.pooling === "max") {
    const best = views.indexOf(Math.max(...views));
    return { probability: views[best], weights: views.map((_, place) => Number(place === best)) };
  }
  if (member.pooling === "noisy_or") {
    const surprises = views.map((value) => -Math.log1p(-value));
    const total = sum(surprises);
    return { probability: -Math.expm1(-total), weights: total ? surprises.map((one) => one / total) : equal };
  }
  if (member.pooling === "gated_attention") {
    const weights = softmax(scores);
    const margin = sum(logits.map(([normal, abnormal], place) => weights[place] * (abnormal - normal)));
    return { probability: sigmoid(margin), weights };
  }
  return { probability: sum(views) / views.length, weights: equal };
}

/** P(abnormal) of a study and the weight of each view, as `mura_hf.hub.study_probability`. */
export function combine(study, views) {
  const weights = views.map(() => 0);
  let probability = 0;
  study.members.forEach((member, number) => {
    const scores = views.map((view) => view.attentionScores?.[number] ?? 0);
    const pooled = pool(member, views.map((view) => view.memberLogits[number]), scores);
    probability += member.weight * calibrate(pooled.probability, member.slope, member.intercept);
    pooled.weights.forEach((weight, place) => (weights[place] += member.weight * weight));
  });
  return { probability: calibrate(probability, study.slope, study.intercept), weights };
}

/** Whether each view is like those of training, and whether those that are not are like regions outside. */
export function detect(study, views) {
  if (!study.ood_thresholds.length || views.some((view) => !view.oodScores)) return null;
  const limits = study.ood_thresholds[Math.min(views.length, study.ood_thresholds.length) - 1];
  const within = (most) => views.map((view) => view.oodScores.every((score, place) => score <= most[place]));
  const [known, usual] = [within(study.ood_thresholds[0]), within(limits)];
  const isLikeOutside = ({ oodScores: [near, further] }, place) => usual[place] || near - further <= limits[0];
  const likeOutside = limits.length > 1 && views.every(isLikeOutside);
  return { known, inDistribution: usual.every(Boolean) && known.some(Boolean), likeOutside };
}

/** The answer for a study at an operating point. @param {object} study @param {View[]} views @param {string} point */
export function answerStudy(study, views, point) {
  const { probability, weights } = combine(study, views);
  const [low, high] = study.band_limits[point];
  const findBand = (value) => study.bands[Number(value > low) + Number(value > high)];
  const band = findBand(probability);
  const contributions = views.map(({ logits }, place) => weights[place] * sigmoid(logits[1] - logits[0]));
  const leading = contributions.indexOf(Math.max(...contributions));
  const rank = (one) => study.bands.indexOf(one);
  const viewBands = views.map((view, place) => {
    const own = findBand(view.probability);
    return place === leading || rank(own) > rank(band) ? band : own;
  });
  const ood = detect(study, views);
  const mean = (field, names, shares) =>
    views.every((view) => view[field])
      ? mostLikely(names, names.map((_, place) => sum(views.map((view, row) => shares[row] * view[field][place]))))
      : null;
  const equal = views.map(() => 1 / views.length);
  const regions = Object.keys(study.regions);
  const region = !ood || ood.inDistribution || ood.likeOutside ? mean("region", regions, equal) : null;
  const regionWords = region?.probability >= 0.8 ? study.regions[region.name] : null;
  const isOutside = ood !== null && regionWords !== null && study.outside_regions.includes(region.name);
  return {
    probability, band, weights, ood, region, regionWords, viewBands,
    threshold: study.operating_points[point],
    limits: [low, high],
    bodyPart: mean("bodyPart", study.body_parts, equal),
    finding: mean("finding", study.finding_types, weights),
    scopeNote: isOutside
      ? `It seems to show a region that the checkpoint is not for: ${regionWords}.`
      : null,
    warnings: [...study.warnings, ...views.flatMap((view) => view.warnings), ...findConflicts(study, views, ood)],
  };
}

function mostLikely(names, probabilities) {
  const best = probabilities.indexOf(Math.max(...probabilities));
  return { name: names[best], probability: probabilities[best] };
}

/** Warnings about views that cannot be one study: duplicates, and several patients, sides or body parts. */
function findConflicts(study, views, ood) {
  const group = (keys) => {
    const groups = new Map();
    for (const place of views.keys()) {
      if (keys[place] !== null) groups.set(keys[place], [...(groups.get(keys[place]) ?? []), place]);
    }
    return groups;
  };
  const isShared = (place) => views.filter((view) => view.name === views[place].name).length > 1;
  const name = (place) => (isShared(place) ? `${views[place].name} (view ${place + 1})` : views[place].name);
  const join = (found) => [found.slice(0, -1).map(name).join(", "), name(found.at(-1))].filter(Boolean).join(" and ");
  const warnings = [...group(views.map((view) => view.digest)).values()]
    .filter((found) => found.length > 1)
    .map((found) => `${join(found)} show the same picture, which is counted once per file.`);
  const unusual = ood?.inDistribution ? [...ood.known.keys()].filter((place) => !ood.known[place]) : [];
  const trained = "would not look like those that the checkpoint was trained on";
  if (unusual.length > 0) warnings.unshift(`By itself, ${join(unusual)} ${trained}: judge it with care.`);
  const patients = group(views.map((view) => view.patient));
  if (patients.size > 1) {
    const divided = [...patients.values()].map(join).join("; ");
    warnings.push(
      `These views are of ${patients.size} patients, according to the files: ${divided}. Give the views of one study.`,
    );
  }
  const parts = views.map((view, place) => {
    if (view.part || !view.bodyPart || (ood && !ood.known[place])) return view.part;
    const best = mostLikely(study.body_parts, view.bodyPart);
    return best.probability >= 0.9 ? best.name : null;
  });
  for (const [keys, beginning, end] of [
    [views.map((view) => view.side), "are of both sides, according to the files", "side"],
    [parts, "seem to show different body parts", "body part"],
  ]) {
    const groups = group(keys);
    if (groups.size < 2) continue;
    const divided = [...groups.keys()].sort().map((key) => `${key}: ${join(groups.get(key))}`).join("; ");
    warnings.push(`These views ${beginning}: ${divided}. A study is of one ${end}.`);
  }
  return warnings;
}

/**
 * Hot regions of a heatmap, as `mura_hf.explain.find_regions`: 8-connected pixels at or above a share of its range.
 *
 * @param {Float32Array} heatmap `[height * width]`
 * @returns {{box: number[], area: number}[]} Half-open boxes x0, y0, x1, y1, the largest region first.
 */
export function findRegions(heatmap, height, width, threshold, minShare = 0.25) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of heatmap) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!(high > low)) return [];
  const range = Math.fround(high - low);
  const limit = Math.fround(threshold); // numpy compares float32 with a Python number in float32
  const hot = Uint8Array.from(heatmap, (value) => Number(Math.fround(Math.fround(value - low) / range) >= limit));
  const regions = [];
  for (let start = 0; start < hot.length; start++) {
    if (!hot[start]) continue;
    let [x0, y0, x1, y1, area] = [width, height, 0, 0, 0];
    const waiting = [start];
    hot[start] = 0;
    while (waiting.length) {
      const place = waiting.pop();
      const y = Math.floor(place / width);
      const x = place - y * width;
      area++;
      if (x < x0) x0 = x;
      if (x >= x1) x1 = x + 1;
      if (y < y0) y0 = y;
      if (y >= y1) y1 = y + 1;
      for (let row = Math.max(y - 1, 0); row <= Math.min(y + 1, height - 1); row++) {
        for (let column = Math.max(x - 1, 0); column <= Math.min(x + 1, width - 1); column++) {
          const other = row * width + column;
          if (hot[other]) {
            hot[other] = 0;
            waiting.push(other);
          }
        }
      }
    }
    regions.push({ box: [x0, y0, x1, y1], area });
  }
  regions.sort((first, second) => second.area - first.area);
  return regions.filter((region) => region.area >= minShare * regions[0].area);
}
