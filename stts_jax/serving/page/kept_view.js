// What is kept of the clip: slider, counts, chart and frames.

import { kept as askKept } from "./api.js";
import { showChart } from "./chart.js";
import { showFrames, showMasks } from "./frames.js";
import { count, selected } from "./selection.js";

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat();
const DELAY = 300;

export class KeptView {
  constructor(say) {
    this.say = say;
    this.media = this.said = null;
    $("ratio").addEventListener("input", () => this.preview());
    $("auto").addEventListener("change", () => this.preview());
    let timer;
    addEventListener("resize", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.drawChart(), 150);
    });
  }

  // What a question is to be asked with; nothing before the model has said how it was trained.
  get settings() {
    if (!this.said) return {};
    return { prune: $("auto").checked ? "auto" : Number($("ratio").value) / 100 };
  }

  clear() {
    this.request?.abort();
    clearTimeout(this.timer);
    this.media = this.said = null;
    $("kept").hidden = true;
  }

  async open(media) {
    this.clear();
    this.media = media;
    await this.refresh({});
  }

  async refresh(settings) {
    this.request?.abort();
    const request = (this.request = new AbortController());
    const isFirst = !this.said;
    $("kept").classList.add("waiting");
    try {
      const said = await askKept(this.media, { ...settings, thumbnails: isFirst }, request.signal);
      if (isFirst) this.start(said);
      this.said = { ...said, frames: said.frames ?? this.said.frames };
      this.show(said.keep, said.visual_tokens_after, said);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (isFirst) throw error;
      this.say(error.message, true);
    } finally {
      if (this.request === request) $("kept").classList.remove("waiting");
    }
  }

  start(said) {
    this.said = said;
    const isVideo = Boolean(said.keep);
    $("kept").hidden = false;
    document.querySelector(".controls").hidden = $("chart-box").hidden = !isVideo;
    $("auto-line").hidden = !said.threshold;
    $("auto").checked = said.is_automatic;
    $("ratio").value = Math.round(100 * said.trained_ratio);
    showFrames($("frames"), said);
  }

  preview() {
    clearTimeout(this.timer);
    this.say("");
    $("kept").classList.add("waiting");
    if (!$("auto").checked) {
      const keep = selected(this.said.scores, Number($("ratio").value) / 100);
      this.show(keep, count(keep));
    }
    this.timer = setTimeout(() => this.refresh(this.settings), DELAY);
  }

  show(keep, after, said) {
    const before = this.said.visual_tokens_before;
    this.keep = keep;
    const automatic = $("auto").checked;
    $("ratio").disabled = automatic;
    $("ratio-text").textContent = `${Math.round(100 * (1 - after / before))} %`;
    $("before").textContent = number.format(before);
    $("after").textContent = number.format(after);
    $("share").textContent = `${Math.round((100 * after) / before)} %`;
    $("read").textContent = said ? `${Math.round(said.timings.finished_ms)} ms` : "…";
    if (said?.cached) $("read").textContent += " (known)";
    showMasks($("frames"), this.said.grid, keep);
    this.drawChart();
  }

  drawChart() {
    if (this.said?.scores && this.keep) {
      showChart($("chart"), this.said.times, this.said.scores, this.keep);
    }
  }
}
