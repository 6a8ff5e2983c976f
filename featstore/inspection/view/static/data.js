// The store as the page has it: the corpus at once, a fold's numbers when it is looked at.

export const corpus = {};
const kept = new Map();

async function ask(path) {
  const answer = await fetch(path, { credentials: "same-origin" });
  if (answer.ok) return answer;
  let told = {};
  try {
    told = await answer.json();
  } catch {
    // not one of our own answers: its status has to do
  }
  throw new Error([told.error ?? `${path}: ${answer.status}`, told.hint].filter(Boolean).join("; "));
}

const floats = async (path) => new Float32Array(await (await ask(path)).arrayBuffer());

function once(key, make) {
  if (!kept.has(key)) {
    const made = make();
    kept.set(key, made);
    made.catch(() => kept.delete(key));
  }
  return kept.get(key);
}

/** Read what does not depend on the fold. */
export async function loadCorpus() {
  const [told, roles] = await Promise.all([
    ask("/api/corpus").then((answer) => answer.json()),
    ask("/api/roles").then((answer) => answer.arrayBuffer()),
  ]);
  Object.assign(corpus, told);
  corpus.n = told.rows.utterance_id.length;
  corpus.roles = new Int8Array(roles);
  corpus.rowOf = new Map(told.rows.utterance_id.map((name, row) => [name, row]));
  corpus.haystack = told.rows.utterance_id.map((name, row) =>
    `${name} ${told.rows.text[row]} ${told.rows.label_raw[row]}`.toLowerCase(),
  );
}

/** Raw logits of all of a fold's teachers: name -> [N x C]. */
export function loadFold(fold) {
  const names = corpus.folds[fold - 1] ?? [];
  return once(`fold ${fold}`, async () => {
    const parts = await Promise.all(names.map((_, i) => floats(`/api/logits/${fold}/${i}`)));
    return new Map(names.map((name, i) => [name, parts[i]]));
  });
}

/** A student's raw logits [N x C], NaN where it says nothing. */
export const loadStudent = (number) => once(`student ${number}`, () => floats(`/api/student/${number}`));

/** A teacher's embeddings in two dimensions, and how much of their variance that is, if it tells. */
export function loadMap(fold, name, way) {
  const index = corpus.folds[fold - 1].indexOf(name);
  if (way === "tsne") {
    return once(`neighbours ${fold} ${name}`, async () => ({
      points: await floats(`/api/neighbours/${fold}/${index}`), shares: null,
    }));
  }
  return once(`map ${fold} ${name}`, async () => {
    const answer = await ask(`/api/map/${fold}/${index}`);
    const shares = (answer.headers.get("X-Variance") ?? "").split(",").map(Number);
    return { points: new Float32Array(await answer.arrayBuffer()), shares };
  });
}

/** Waveform, F0 and loudness of one utterance. */
export const loadUtterance = async (row) => (await ask(`/api/utterance/${row}`)).json();
