// What is computed in the page: probabilities, predictions, disagreement, scores.

/** Probabilities at a temperature (eq. 2 of the paper) of one row of raw logits. */
export function softmax(logits, row, classes, tau, out = new Float64Array(classes)) {
  const begin = row * classes;
  let top = -Infinity;
  for (let c = 0; c < classes; c++) top = Math.max(top, logits[begin + c]);
  let sum = 0;
  for (let c = 0; c < classes; c++) {
    out[c] = Math.exp((logits[begin + c] - top) / tau);
    sum += out[c];
  }
  for (let c = 0; c < classes; c++) out[c] /= sum;
  return out;
}

/** The likeliest class of every row; -1 where a row says nothing. */
export function predictions(logits, classes) {
  const n = logits.length / classes;
  const out = new Int16Array(n).fill(-1);
  for (let row = 0; row < n; row++) {
    let top = -Infinity;
    for (let c = 0; c < classes; c++) {
      const value = logits[row * classes + c];
      if (value > top) {
        top = value;
        out[row] = c;
      }
    }
  }
  return out;
}

/** Probability of the likeliest class of every row, at a temperature. */
export function confidences(logits, classes, tau) {
  const n = logits.length / classes;
  const out = new Float32Array(n);
  const p = new Float64Array(classes);
  for (let row = 0; row < n; row++) out[row] = Math.max(...softmax(logits, row, classes, tau, p));
  return out;
}

/** Jensen-Shannon divergence of two teachers in nats, row by row: 0 same, log 2 opposite. */
export function divergences(first, second, classes, tau) {
  const n = first.length / classes;
  const out = new Float32Array(n);
  const [p, q] = [new Float64Array(classes), new Float64Array(classes)];
  for (let row = 0; row < n; row++) {
    softmax(first, row, classes, tau, p);
    softmax(second, row, classes, tau, q);
    let sum = 0;
    for (let c = 0; c < classes; c++) {
      const middle = (p[c] + q[c]) / 2;
      if (p[c] > 0) sum += (p[c] * Math.log(p[c] / middle)) / 2;
      if (q[c] > 0) sum += (q[c] * Math.log(q[c] / middle)) / 2;
    }
    out[row] = sum;
  }
  return out;
}

/** Counts of truth (rows) against prediction (columns) over some rows, as one flat array. */
export function confusion(rows, truth, predicted, classes) {
  const counts = new Uint32Array(classes * classes);
  for (const row of rows) {
    if (predicted[row] >= 0) counts[truth[row] * classes + predicted[row]]++;
  }
  return counts;
}

/** WA (share that is right) and UA (mean recall of the classes that occur) of such counts. */
export function scores(counts, classes) {
  let [right, all, recalls, present] = [0, 0, 0, 0];
  for (let c = 0; c < classes; c++) {
    let total = 0;
    for (let k = 0; k < classes; k++) total += counts[c * classes + k];
    const hit = counts[c * classes + c];
    right += hit;
    all += total;
    if (total) {
      recalls += hit / total;
      present++;
    }
  }
  return { n: all, wa: right / all, ua: recalls / present };
}
