// The page: choosing a clip, and what follows from it.

import { models, ServerError, upload, useKey } from "./api.js";
import { KeptView } from "./kept_view.js";
import { Talk } from "./talk.js";

const $ = (id) => document.getElementById(id);
const state = { model: null, media: null };
const view = new KeptView(say);
const talk = new Talk(() => ({ ...state, settings: view.settings }));

function say(text, isWrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", isWrong);
}

async function connect() {
  try {
    [state.model] = await models();
    $("model").textContent = state.model;
    $("key-form").hidden = true;
  } catch (error) {
    $("model").textContent = error.message;
    $("key-form").hidden = error.status !== 401;
    if (error.status === 401) $("key").focus();
    else setTimeout(connect, 2000);
  }
}

async function choose(file) {
  if (!file) return;
  talk.clear();
  view.clear();
  state.media = null;
  show(file);
  try {
    say("uploading …");
    const media = await upload(file);
    say("reading …");
    await view.open(media);
    state.media = media;
    say("");
    $("question").focus();
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    say(error.message, true);
  }
}

function show(file) {
  const isPicture = file.type.startsWith("image/") && file.type !== "image/gif";
  URL.revokeObjectURL(state.shown);
  state.shown = URL.createObjectURL(file);
  $("video").hidden = isPicture;
  $("picture").hidden = !isPicture;
  $(isPicture ? "picture" : "video").src = state.shown;
  $(isPicture ? "video" : "picture").removeAttribute("src");
  $("file-name").textContent = file.name;
  $("drop").hidden = true;
  $("viewer").hidden = false;
}

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = "";
  choose(file);
});
$("change").addEventListener("click", () => $("file").click());
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value);
  connect();
});
// Anywhere on the page: a clip that misses the field would replace the page.
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  choose(event.dataTransfer.files[0]);
});

connect();
