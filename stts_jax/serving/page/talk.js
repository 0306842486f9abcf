// Questions and answers.

import { ask } from "./api.js";

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat();

export class Talk {
  // `context` returns the model, the media and the settings of the moment.
  constructor(context) {
    this.context = context;
    this.turns = [];
    $("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      const question = $("question").value.trim();
      if (question && !this.going) this.ask(question);
    });
    $("question").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        $("ask").requestSubmit();
      }
    });
    $("stop").addEventListener("click", () => this.going?.abort());
    $("forget").addEventListener("click", () => this.clear());
    $("compare").addEventListener("click", () => this.compare());
  }

  clear() {
    this.going?.abort();
    this.turns = [];
    $("log").replaceChildren();
    $("compare").hidden = $("forget").hidden = true;
    $("question").focus();
  }

  async ask(question) {
    $("question").value = "";
    const earlier = [...this.turns];
    const turn = { question, answer: "" };
    const facts = await this.answer(turn, earlier, this.context().settings, "");
    if (!facts) return;
    this.turns.push(turn);
    this.last = { turn, earlier };
    const dropped = facts.usage.visual_tokens_before > facts.usage.visual_tokens_after;
    $("compare").hidden = !dropped;
    $("forget").hidden = false;
  }

  async compare() {
    const { turn, earlier } = this.last;
    $("compare").hidden = true;
    const again = { question: turn.question, answer: "" };
    await this.answer(again, earlier, { prune: 0 }, "with all tokens");
  }

  // Shows the answer as it comes; returns its counts and times, or nothing if it failed.
  async answer(turn, earlier, settings, note) {
    const { model, media } = this.context();
    const view = new TurnView(turn.question, note);
    const going = (this.going = new AbortController());
    this.showGoing(true);
    try {
      const messages = messagesOf(media, [...earlier, turn]);
      const facts = await ask({ model, messages, ...settings }, (piece) => {
        turn.answer += piece;
        view.say(turn.answer);
      }, going.signal);
      view.end(factsLine(facts));
      return facts;
    } catch (error) {
      view.end(error.name === "AbortError" ? "stopped" : error.message, error.name !== "AbortError");
      return null;
    } finally {
      this.going = null;
      this.showGoing(false);
    }
  }

  showGoing(isGoing) {
    $("send").disabled = $("compare").disabled = isGoing;
    $("stop").hidden = !isGoing;
  }
}

class TurnView {
  constructor(question, note) {
    this.root = document.createElement("article");
    this.root.className = "turn going";
    if (note) this.root.classList.add("compared");
    this.said = paragraph("said", "");
    this.facts = paragraph("facts", note);
    this.note = note;
    this.root.append(paragraph("asked", question), this.said, this.facts);
    if (note) this.root.firstChild.remove();
    $("log").append(this.root);
    this.follow();
  }

  say(text) {
    this.said.textContent = text;
    this.follow();
  }

  end(line, isWrong = false) {
    this.root.classList.remove("going");
    if (!this.said.textContent && !isWrong) this.said.textContent = "(no words)";
    if (isWrong && !this.said.textContent) this.said.remove();
    this.facts.textContent = [this.note, line].filter(Boolean).join(" · ");
    this.facts.classList.toggle("wrong", isWrong);
    this.follow();
  }

  follow() {
    $("log").scrollTop = $("log").scrollHeight;
  }
}

function paragraph(name, text) {
  const made = document.createElement("p");
  made.className = name;
  made.textContent = text;
  return made;
}

function messagesOf(media, turns) {
  return turns.flatMap(({ question, answer }, index) => {
    const content = [{ type: "text", text: question }];
    if (index === 0 && media) {
      const part = `${media.type}_url`;
      content.unshift({ type: part, [part]: { url: media.url } });
    }
    const asked = { role: "user", content };
    const isLast = index === turns.length - 1;
    return isLast ? [asked] : [asked, { role: "assistant", content: answer }];
  });
}

function factsLine({ usage, timings, reason }) {
  const parts = [];
  if (usage.visual_tokens_before) {
    const [before, after] = [usage.visual_tokens_before, usage.visual_tokens_after].map(number.format);
    parts.push(before === after ? `${before} visual tokens` : `${before} → ${after} visual tokens`);
    if (usage.prompt_tokens_details.cached_tokens) parts.push("clip known");
  }
  parts.push(`first word after ${Math.round(timings.first_token_ms)} ms`);
  if (timings.finished_ms) parts.push(`${Math.round(timings.finished_ms)} ms in all`);
  if (reason === "length") parts.push("cut at its length");
  return parts.join(" · ");
}
