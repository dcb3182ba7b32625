"use strict";
// Names and texts from files and from the service go into the page as text only, never as markup.
const at = (id) => document.getElementById(id);
let served = null, token = sessionStorage.getItem("asd-token") || "", busy = false;

const headers = () => token ? { Authorization: "Bearer " + token } : {};

function say(text, wrong = false) {
  at("state").textContent = text;
  at("state").classList.toggle("wrong", wrong);
}

async function start() {
  let answer;
  try {
    answer = await fetch("model", { headers: headers() });
  } catch {
    return say("The service does not answer. Is it still running?", true);
  }
  if (answer.status === 401) return askToken();
  if (answer.status === 503) {
    say("The model is being loaded …");
    return setTimeout(start, 1500);
  }
  if (!answer.ok) return say((await problem(answer)), true);
  served = await answer.json();
  show(served.model, served.limits);
}

function askToken() {
  at("about").textContent = "";
  at("ask").hidden = true;
  at("token-form").hidden = false;
  at("token-note").textContent = token ? "That token is not the right one." : "";
  at("token").focus();
}

function show(model, limits) {
  at("token-form").hidden = true;
  at("ask").hidden = false;
  at("about").textContent = `Model ${model.system}${model.title && model.title !== model.system ? ` (${model.title})` : ""}`
    + ` of study ${model.study}: the mean of ${model.members} network${model.members === 1 ? "" : "s"}.`;
  at("limits").textContent = `WAV, FLAC, OGG or MP3; at least ${model.min_seconds} s, at most ${limits.max_seconds} s`
    + ` and ${limits.max_file_mb} MB each`;
  at("machine").replaceChildren(...model.machines.map((entry) => new Option(entry.machine)));
  at("machine").onchange = showSections;
  showSections();
  say("");
}

function showSections() {
  const machine = served.model.machines.find((entry) => entry.machine === at("machine").value);
  at("section").replaceChildren(...machine.sections.map((entry) => new Option(entry.section)));
  at("section-label").hidden = machine.sections.length < 2;
}

async function problem(answer) {
  try {
    const told = await answer.json();
    return told.valid ? `${told.detail} (valid: ${told.valid.join(", ")})` : told.detail;
  } catch {
    return `The service answered with status ${answer.status}.`;
  }
}

// Files in as many requests as the limits ask for.
function portions(files, limits) {
  const all = [];
  let size = Infinity;
  for (const file of files) {
    if (size + file.size > limits.max_request_mb * 2 ** 20 || all.at(-1).length >= limits.max_files) {
      all.push([]);
      size = 0;
    }
    all.at(-1).push(file);
    size += file.size;
  }
  return all;
}

async function score(files) {
  if (busy || !served || !files.length) return;
  busy = true;
  at("drop").classList.add("busy");
  at("results").replaceChildren();
  const machine = at("machine").value, section = at("section").value, limits = served.limits;
  const fits = (file) => file.size <= limits.max_file_mb * 2 ** 20;
  for (const file of files.filter((file) => !fits(file))) {
    addRow({ file: file.name, problem: `too large: more than ${limits.max_file_mb} MB` }, null);
  }
  let done = 0, anomalies = 0;
  try {
    for (const portion of portions(files.filter(fits), limits)) {
      say(`Scoring ${portion.length} recording${portion.length === 1 ? "" : "s"} …`);
      const rows = await send(portion, machine, section);
      rows.forEach((row, index) => addRow(row, portion[index]));
      done += rows.filter((row) => row.decision).length;
      anomalies += rows.filter((row) => row.decision === "anomaly").length;
    }
    say(`${done} of ${files.length} recording${files.length === 1 ? "" : "s"} scored, ${anomalies} anomalous.`);
  } catch (error) {
    say(error instanceof TypeError ? "The connection was lost. Try again." : error.message, true);
  }
  busy = false;
  at("drop").classList.remove("busy");
  at("files").value = "";
}

async function send(portion, machine, section) {
  const form = new FormData();
  form.append("machine", machine);
  form.append("section", section);
  form.append("spectrogram", "true");
  for (const file of portion) form.append("files", file, file.name);
  const answer = await fetch("score", { method: "POST", body: form, headers: headers() });
  if (answer.status === 401) askToken();
  if (!answer.ok) throw new Error(await problem(answer));
  return (await answer.json()).clips;
}

function addRow(row, file) {
  const card = at("row").content.cloneNode(true).firstElementChild;
  const find = (name) => card.querySelector(name);
  const kind = row.decision || "problem";
  card.classList.add(kind);
  find(".file").textContent = row.file || "(no name)";
  find(".badge").textContent = { anomaly: "Anomaly", normal: "Normal", problem: "Not scored" }[kind];
  if (row.decision) {
    find(".figures").textContent = `Score ${round(row.score)}, threshold ${round(row.threshold)}; `
      + `at least as high as ${Math.round(row.percentile)} % of the normal training clips.`;
    gauge(card, row);
  } else {
    find(".figures").textContent = row.problem;
    gauge(card, null);
  }
  if (row.spectrogram) {
    draw(find("canvas"), row.spectrogram);
    find("canvas").setAttribute("role", "img");
    find("canvas").setAttribute("aria-label", `Spectrogram of ${row.file}, 0 to 8 kHz`);
    find(".end").textContent = `${round(row.spectrogram.seconds)} s`;
    find(".what").textContent = "log-mel spectrogram, 0 (bottom) to 8 kHz (top)";
  } else {
    find("figure").remove();
  }
  if (row.decision && file) find("audio").src = URL.createObjectURL(file);
  else find("audio").remove();
  at("results").append(card);
}

function round(value) {
  const small = value !== 0 && Math.abs(value) < 1e-3;
  if (!small) return String(Number(value.toPrecision(4)));
  return value.toExponential(3).replace("e-", " · 10⁻").replace(/\d+$/, superscript);
}

const superscript = (digits) => [...digits].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");

// The threshold is in the middle; distances and errors start at 0.
function gauge(card, row) {
  const bar = card.querySelector(".bar"), shown = row && row.threshold > 0 && row.score >= 0;
  for (const part of card.querySelectorAll(".gauge, .scale")) part.hidden = !shown;
  if (!shown) return;
  bar.style.width = `${50 * Math.min(2, row.score / row.threshold)}%`;
  bar.parentElement.setAttribute("aria-label", `${Math.round(100 * row.score / row.threshold)} % of the threshold`);
}

const COLOURS = [[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]];

function colour(level) {
  const place = level / 255 * (COLOURS.length - 1), low = Math.min(COLOURS.length - 2, Math.floor(place));
  return COLOURS[low].map((value, index) => value + (place - low) * (COLOURS[low + 1][index] - value));
}

function draw(canvas, picture) {
  const levels = atob(picture.data), { bands, columns } = picture;
  canvas.width = columns;
  canvas.height = bands;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, bands);
  for (let band = 0; band < bands; band++) {
    for (let column = 0; column < columns; column++) {
      const [red, green, blue] = colour(levels.charCodeAt(band * columns + column));
      image.data.set([red, green, blue, 255], 4 * ((bands - 1 - band) * columns + column));
    }
  }
  context.putImageData(image, 0, 0);
}

at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  sessionStorage.setItem("asd-token", token);
  start();
});
at("files").addEventListener("change", () => score([...at("files").files]));
for (const name of ["dragover", "dragleave", "drop"]) {
  window.addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") score([...event.dataTransfer.files]);
  });
}
start();
