// Keeps the page as it would be if it were loaded now: it asks for itself, and takes over the parts that have changed.
(() => {
  'use strict';
  const live = document.getElementById('live');
  const button = document.getElementById('pause');
  let paused = false, last = Date.now(), asking = false;

  const say = (text, bad) => {
    if (live.textContent !== text) live.textContent = text;
    live.classList.toggle('bad', bad);
  };
  const selects = (part) => {
    const selection = getSelection();
    return !selection.isCollapsed && part.contains(selection.anchorNode);
  };
  const take = (here, fresh) => {
    // What somebody is about to copy stays.
    if (here.innerHTML === fresh.innerHTML || selects(here)) return;
    const focus = here.contains(document.activeElement) ? document.activeElement.id : '';
    const moved = [...here.querySelectorAll('.scroll')].map((box) => [box.id, box.scrollLeft]);
    here.replaceChildren(...fresh.childNodes);
    for (const [id, left] of moved) {
      const box = document.getElementById(id);
      if (box) box.scrollLeft = left;
    }
    if (focus) document.getElementById(focus)?.focus({ preventScroll: true });
  };
  const look = async () => {
    if (paused || asking || document.hidden) return;
    asking = true;
    try {
      const answer = await fetch(location.pathname, {
        headers: { accept: 'text/html' },
        cache: 'no-store',
        signal: AbortSignal.timeout(5000),
      });
      if (!answer.ok) throw new Error(answer.statusText);
      const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
      for (const part of fresh.querySelectorAll('[data-live]')) {
        const here = document.getElementById(part.id);
        if (here) take(here, part);
      }
      document.title = fresh.title;
      last = Date.now();
      say('live', false);
    } catch {
      const seconds = Math.round((Date.now() - last) / 1000);
      say(`no answer: this is from ${seconds} s ago`, true);
    } finally {
      asking = false;
    }
  };

  button.hidden = false;
  button.addEventListener('click', () => {
    paused = !paused;
    button.textContent = paused ? 'Resume' : 'Pause';
    if (paused) say('paused', false);
    else look();
  });
  document.addEventListener('visibilitychange', look);
  setInterval(look, 1000);
  say('live', false);
})();
