// Chat with several people side by side, through the server's own OpenAI-compatible routes.

const TRAITS = ["openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism"];
const LETTERS = ["O", "C", "E", "A", "N"];
const $ = (selector, root = document) => root.querySelector(selector);

let model = "";
let presets = [];
let people = [];
let made = 0;
let running = null;

const capital = (word) => word[0].toUpperCase() + word.slice(1);
const tenth = (value) => Number(value.toFixed(1));
const signed = (value) => (value > 0 ? `+${value}` : `${value}`).replace("-", "\u2212");

function headers() {
  const key = $("#key").value.trim();
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function send(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers() });
  if (!answer.ok) {
    const body = await answer.json().catch(() => null);
    throw new Error(body?.error?.message ?? `The server answered with status ${answer.status}.`);
  }
  return answer;
}

function say(text) {
  $("#status").textContent = text;
}

// ---------------------------------------------------------------- people

function scoresOf(text) {
  const found = TRAITS.map(() => 0);
  for (const [, letter, value] of text.matchAll(/([OCEAN])([+-]?[\d.]+)/g)) found[LETTERS.indexOf(letter)] = Number(value);
  return found;
}

function personalityOf(person) {
  const chosen = $(".preset select", person.element).value;
  if (chosen === "base") return null;
  return Object.fromEntries(TRAITS.map((trait, index) => [trait, person.scores[index]]));
}

function textOf(person) {
  if (personalityOf(person) === null) return "the base model, without a personality";
  const parts = person.scores.map((value, index) => (value ? `${LETTERS[index]}${signed(value)}` : "")).filter(Boolean);
  return parts.join(" ") || "neutral, all five scores 0";
}

function show(person) {
  const base = personalityOf(person) === null;
  person.inputs.forEach((input, index) => {
    input.value = person.scores[index];
    input.disabled = base;
    input.setAttribute("aria-valuetext", signed(person.scores[index]));
    person.outputs[index].textContent = base ? "" : signed(person.scores[index]);
  });
  $(".asked", person.element).textContent = `Asked for: ${textOf(person)}.`;
}

// ---------------------------------------------------------------- drift

// Answer n of `turns` is given with scores that lie n - 1 steps on the way; a score that is moved by hand begins another way.
function restart(person) {
  person.drift = { from: [...person.scores], turn: 0 };
  showDrift(person);
}

function goal(person) {
  return presets.find((one) => one.name === $(".drift select", person.element).value);
}

function showDrift(person) {
  const turns = Number($(".drift input", person.element).value);
  const { turn } = person.drift;
  $(".drift output", person.element).textContent = turns;
  let text = "The scores stay as they are.";
  if (personalityOf(person) === null) text = "Nobody without a personality can change.";
  else if (goal(person)) text = turn >= turns ? `Has become ${goal(person).name}.` : `Turn ${turn + 1} of ${turns} is next, on the way to ${goal(person).name}.`;
  $(".drift .hint", person.element).textContent = text;
}

function drift(person) {
  const to = goal(person);
  if (!to || personalityOf(person) === null) return;
  const last = Number($(".drift input", person.element).value) - 1;
  const share = Math.min(1, person.drift.turn / last);
  const target = scoresOf(to.personality);
  person.scores = person.drift.from.map((from, index) => Number((from + share * (target[index] - from)).toFixed(2)));
  $(".preset select", person.element).value = "own";
  show(person);
}

function grown(person) {
  if (!goal(person)) return;
  person.drift.turn += 1;
  showDrift(person);
}

function addPerson(preset) {
  const element = $("#person").content.firstElementChild.cloneNode(true);
  const number = ++made;
  const person = { element, number, scores: TRAITS.map(() => 0), inputs: [], outputs: [], history: [], spoken: [], last: null };
  $("h3", element).textContent = `Person ${number}`;
  element.setAttribute("aria-label", `Person ${number}`);
  const select = $(".preset select", element);
  select.id = `preset-${number}`;
  $(".preset label", element).htmlFor = select.id;
  $(".preset label", element).textContent = "Start from";
  for (const [value, label] of [["own", "my own scores"], ["base", "no personality"], ...presets.map((one) => [one.name, one.name])]) {
    select.append(new Option(label, value));
  }
  TRAITS.forEach((trait, index) => {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "range", min: -5, max: 5, step: 0.5, value: 0 });
    const output = document.createElement("output");
    input.id = `${trait}-${number}`;
    label.htmlFor = output.htmlFor = input.id;
    label.textContent = capital(trait);
    input.addEventListener("input", () => {
      person.scores[index] = Number(input.value);
      select.value = "own";
      show(person);
      restart(person);
    });
    person.inputs.push(input);
    person.outputs.push(output);
    $(".traits", element).append(label, input, output);
  });
  select.addEventListener("change", () => {
    const found = presets.find((one) => one.name === select.value);
    if (found) person.scores = scoresOf(found.personality);
    show(person);
    restart(person);
  });
  const [towards, turns] = [$(".drift select", element), $(".drift input", element)];
  [towards.id, turns.id] = [`towards-${number}`, `turns-${number}`];
  $(".drift .row label", element).htmlFor = towards.id;
  $(".drift .sliders label", element).htmlFor = $(".drift output", element).htmlFor = turns.id;
  towards.append(new Option("nobody", ""), ...presets.map((one) => new Option(one.name, one.name)));
  towards.addEventListener("change", () => restart(person));
  turns.addEventListener("input", () => showDrift(person));
  const remove = $(".remove", element);
  remove.setAttribute("aria-label", `Remove person ${number}`);
  remove.addEventListener("click", () => {
    people = people.filter((one) => one !== person);
    element.remove();
    $("#add").focus();
  });
  $(".talk", element).setAttribute("aria-label", `Conversation with person ${number}`);
  const assess = $(".assess", element);
  assess.addEventListener("click", () => score(person));
  select.value = presets.some((one) => one.name === preset) ? preset : "own";
  select.dispatchEvent(new Event("change"));
  people.push(person);
  $("#people").append(element);
  return person;
}

// ---------------------------------------------------------------- answers

function line(person, who, text) {
  const paragraph = document.createElement("p");
  paragraph.className = who;
  paragraph.textContent = text;
  const talk = $(".talk", person.element);
  talk.append(paragraph);
  talk.scrollTop = talk.scrollHeight;
  return paragraph;
}

function requestOf(person, messages) {
  return {
    model,
    messages,
    personality: personalityOf(person),
    temperature: Number($("#temperature").value),
    max_tokens: Number($("#tokens").value),
  };
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function answerOf(person, text, signal) {
  drift(person);
  const messages = [...person.history, { role: "user", content: text }];
  const personality = personalityOf(person);
  line(person, "user", text);
  if (goal(person)) line(person, "as", `as ${textOf(person)}`);
  const paragraph = line(person, "assistant", "");
  let content = "";
  try {
    const body = JSON.stringify({ ...requestOf(person, messages), stream: true });
    const answer = await send("/v1/chat/completions", { method: "POST", body, signal });
    for await (const event of events(answer)) {
      if (event.error) throw new Error(event.error.message);
      content += event.choices[0]?.delta?.content ?? "";
      paragraph.textContent = content;
      $(".talk", person.element).scrollTop = $(".talk", person.element).scrollHeight;
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      paragraph.textContent = `${content}\n(${error.message})`;
      throw error;
    }
  } finally {
    if (content) {
      grown(person);
      person.spoken.push(personality);
      person.history = [...messages, { role: "assistant", content }];
      person.last = { question: text, text: content, asked: personality === null ? null : TRAITS.map((trait) => personality[trait]) };
      $(".assess", person.element).disabled = false;
    }
  }
}

$("#ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("#message").value.trim();
  if (!text || running || !people.length) return;
  running = new AbortController();
  $("#send").disabled = true;
  $("#stop").disabled = false;
  say("Waiting for answers.");
  const ended = await Promise.allSettled(people.map((person) => answerOf(person, text, running.signal)));
  const failed = ended.filter((one) => one.status === "rejected");
  say(failed.length ? `${failed.length} of ${ended.length} failed: ${failed[0].reason.message}` : "Everybody has answered.");
  running = null;
  $("#send").disabled = false;
  $("#stop").disabled = true;
});

$("#message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("#ask").requestSubmit();
  }
});

$("#stop").addEventListener("click", () => running?.abort());
$("#add").addEventListener("click", () => addPerson("own").inputs[0].focus());
$("#forget").addEventListener("click", () => {
  for (const person of people) {
    person.history = [];
    person.spoken = [];
    person.last = null;
    person.scores = person.drift.from;
    show(person);
    restart(person);
    $(".talk", person.element).replaceChildren();
    $(".scores", person.element).replaceChildren();
    $(".assess", person.element).disabled = true;
  }
  say("The conversation is forgotten; the people stay.");
});

// ---------------------------------------------------------------- scores

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function point(index, value) {
  const angle = (2 * Math.PI * index) / 5 - Math.PI / 2;
  const radius = (40 * (Math.max(-5, Math.min(5, value)) + 5)) / 10;
  return [60 + radius * Math.cos(angle), 55 + radius * Math.sin(angle)];
}

function radar(asked, found) {
  const picture = svg("svg", { viewBox: "0 0 120 110", role: "img", "aria-label": "Asked for and judged scores with their intervals; the table has the numbers" });
  const shape = (values, attributes) => picture.append(svg("polygon", { points: values.map((v, i) => point(i, v).join(",")).join(" "), ...attributes }));
  for (const ring of [-5, 0, 5]) shape(Array(5).fill(ring), { fill: "none", stroke: "var(--line)", "stroke-width": 0.5 });
  if (asked) shape(asked, { fill: "none", stroke: "var(--soft)", "stroke-width": 1, "stroke-dasharray": "3 2" });
  shape(found.map((one) => one.score), { fill: "var(--accent)", "fill-opacity": 0.25, stroke: "var(--accent)", "stroke-width": 1 });
  found.forEach((one, index) => {
    const [[x1, y1], [x2, y2]] = [point(index, one.low), point(index, one.high)];
    picture.append(svg("line", { x1, y1, x2, y2, stroke: "var(--accent)", "stroke-width": 2.5, "stroke-linecap": "round" }));
  });
  LETTERS.forEach((letter, index) => {
    const [px, py] = point(index, 5);
    const text = svg("text", { x: px + (px - 60) * 0.14, y: py + (py - 55) * 0.14 + 3, "font-size": 8, "text-anchor": "middle", fill: "currentColor" });
    text.textContent = letter;
    picture.append(text);
  });
  return picture;
}

async function score(person) {
  const box = $(".scores", person.element);
  const button = $(".assess", person.element);
  const { question, text, asked } = person.last;
  button.disabled = true;
  box.textContent = "The judge is reading.";
  try {
    const body = JSON.stringify({ question, text });
    const found = await (await send("/v1/assess", { method: "POST", body })).json();
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const title of ["Trait", "Asked for", "Judged", "Interval"]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = title;
      head.append(cell);
    }
    const rows = table.createTBody();
    found.traits.forEach((one, index) => {
      const row = rows.insertRow();
      const values = [capital(one.trait), asked ? signed(asked[index]) : "\u2013", signed(tenth(one.score)), `${signed(tenth(one.low))} to ${signed(tenth(one.high))}`];
      for (const value of values) row.insertCell().textContent = value;
    });
    const trust = document.createElement("p");
    trust.className = "hint";
    trust.textContent = "A weak judge: read differences between many answers, not one score. The interval is what other descriptions of the traits would say (one standard deviation).";
    const more = document.createElement("details");
    const summary = document.createElement("summary");
    summary.textContent = "How far to trust it";
    const whole = document.createElement("p");
    whole.className = "hint";
    whole.textContent = found.judge;
    more.append(summary, whole);
    box.replaceChildren(radar(asked, found.traits), table, trust, more);
  } catch (error) {
    box.textContent = error.message;
  } finally {
    button.disabled = false;
  }
}

// ---------------------------------------------------------------- export

const python = (value) => JSON.stringify(value, null, 4).replace(/\bnull\b/g, "None");

function exported(kind) {
  const message = { role: "user", content: $("#message").value.trim() };
  if (kind === "jsonl") {
    return people
      .map((one) => JSON.stringify({ personality: personalityOf(one), messages: one.history, spoken_as: one.spoken }))
      .join("\n");
  }
  if (!people.length) return "";
  const { personality, ...request } = requestOf(people[0], [...people[0].history, message]);
  if (kind === "curl") {
    const body = JSON.stringify({ ...request, personality }).replaceAll("'", "'\\''");
    return `curl ${location.origin}/v1/chat/completions -H 'Content-Type: application/json' -d '${body}'`;
  }
  return [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${location.origin}/v1", api_key="none")`,
    "answer = client.chat.completions.create(",
    `    model=${JSON.stringify(request.model)},`,
    `    messages=${python(request.messages)},`,
    `    temperature=${request.temperature},`,
    `    max_tokens=${request.max_tokens},`,
    `    extra_body={"personality": ${personality === null ? "None" : JSON.stringify(personality)}},`,
    ")",
    "print(answer.choices[0].message.content)",
  ].join("\n");
}

for (const button of document.querySelectorAll("[data-export]")) {
  button.addEventListener("click", () => {
    $("#exported").value = exported(button.dataset.export);
    $("#exported").focus();
    $("#exported").select();
  });
}

// ---------------------------------------------------------------- start

async function start() {
  try {
    model = (await (await send("/v1/models")).json()).data[0].id;
    presets = (await (await send("/v1/personalities")).json()).data.filter((one) => !one.personality.startsWith("@"));
    $("#model").textContent = `The model is ${model}.`;
    if (!people.length) {
      addPerson("optimist");
      addPerson("recluse");
    }
    say("");
  } catch (error) {
    $("#model").textContent = error.message;
    $("#key").closest("details").open = true;
  }
}

$("#key").addEventListener("change", start);
start();
