// A player and the transcript below it: a time plays from there, and what is said is marked while it plays.
(() => {
  if (window.dualasrPlayer) return;
  window.dualasrPlayer = true;

  const at = (element) => Number(element.dataset.start);
  const sounds = (element, now) => at(element) <= now && now < Number(element.dataset.end);

  const mark = (audio) => {
    const answer = audio.closest(".answer");
    if (!answer) return;
    const now = audio.currentTime;
    let said = "";
    for (const line of answer.querySelectorAll(".line")) {
      const current = sounds(line, now);
      line.classList.toggle("current", current);
      if (current) said = line.querySelector("p").textContent;
      if (current || line.querySelector(".word.current"))
        for (const word of line.querySelectorAll(".word")) word.classList.toggle("current", current && sounds(word, now));
    }
    const caption = answer.querySelector(".caption");
    if (caption) caption.textContent = said;
  };

  // media events do not bubble, but they are captured
  document.addEventListener("play", (event) => {
    const audio = event.target;
    const follow = () => {
      mark(audio);
      if (!audio.paused && audio.isConnected) requestAnimationFrame(follow);
    };
    follow();
  }, true);
  for (const name of ["seeked", "pause", "ended"]) document.addEventListener(name, (event) => mark(event.target), true);

  document.addEventListener("click", (event) => {
    const place = event.target.closest?.("[data-at], .word");
    const audio = place?.closest(".answer")?.querySelector("audio");
    if (!audio) return;
    audio.currentTime = Number(place.dataset.at ?? place.dataset.start);
    audio.play();
  });

  // gradio's page takes files called audio/* alone; the server finds the sound in any file, as for other clients
  const asSounds = (files) => {
    const sounds = new DataTransfer();
    for (const file of files) sounds.items.add(new File([file], file.name, { type: "audio/any" }));
    return sounds.files;
  };
  document.addEventListener("click", (event) => {
    event.target.closest?.("#sound")?.querySelector("input[type=file]")?.removeAttribute("accept");
  }, true);
  document.addEventListener("change", (event) => {
    if (event.target.matches?.("#sound input[type=file]")) event.target.files = asSounds(event.target.files);
  }, true);
  document.addEventListener("drop", (event) => {
    if (event.target.closest?.("#sound")) Object.defineProperty(event.dataTransfer, "files", { value: asSounds(event.dataTransfer.files) });
  }, true);
})();
