"""Looks and behaviour of the HTML this package writes: one style sheet, one small script."""

from __future__ import annotations

import base64
import hashlib

CSS = """\
:root { color-scheme: light; --ink: #1c1e21; --soft: #6b7280; --line: #d8dce2; --paper: #fff; }
* { box-sizing: border-box; }
body { margin: 0; background: #eef0f3; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header { padding: 1.2rem 2rem; background: var(--paper); border-bottom: 1px solid var(--line); }
header h1 { margin: 0; font-size: 1.3rem; overflow-wrap: anywhere; }
header p, .fate { margin: .2rem 0 0; color: var(--soft); font-size: .85rem; }
article { max-width: 52rem; margin: 1.5rem auto; padding: 2rem 2.5rem; background: var(--paper);
  border: 1px solid var(--line); border-radius: 6px; overflow-wrap: anywhere; }
article.report { max-width: 110rem; display: grid; gap: 1.5rem; padding: 1.2rem;
  grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); margin-inline: 1.2rem; }
.picture { position: sticky; top: 1rem; align-self: start; justify-self: center;
  width: fit-content; border: 1px solid var(--line); }
.picture img { display: block; width: auto; max-width: 100%; height: auto;
  max-height: calc(100vh - 2rem - 2px); }
.picture svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.picture rect { fill-opacity: .08; stroke-width: 2; vector-effect: non-scaling-stroke; }
.picture rect.lit { fill-opacity: .35; stroke-width: 4; }
.block { position: relative; padding: .1rem .6rem; border-left: 3px solid transparent; }
.report .block { border-left-color: var(--color, var(--line)); margin-bottom: .5rem; }
.report .block.lit { background: #fff6d6; }
.tag { color: var(--color, var(--soft)); font-size: .7rem; text-transform: uppercase; }
.note { padding: .5rem .8rem; background: #fdecea; border-left: 4px solid #c0392b; }
.status { padding: 0 .5em; border-radius: 1em; color: #fff; background: #1e8449; }
.status.truncated, .status.repeated { background: #b9770e; }
.status.failed { background: #c0392b; }
h1, h2, h3, h4, h5, h6 { line-height: 1.25; margin: .8em 0 .4em; }
article h1 { font-size: 1.5rem; }
article h2 { font-size: 1.3rem; }
article h3 { font-size: 1.1rem; }
p { margin: .5em 0; } ul, ol { margin: .2em 0; padding-left: 1.6em; }
.caption { color: var(--soft); font-size: .93em; } .line p { margin: 0; }
.footnote, .furniture { color: var(--soft); font-size: .85em; }
figure { margin: 1em 0; } figure img { max-width: 100%; }
table { border-collapse: collapse; margin: .8em 0; font-size: .93em; }
.scroll { overflow-x: auto; overflow-wrap: normal; word-break: normal; }
caption { padding: .3em 0; color: var(--soft); text-align: left; }
td, th { border: 1px solid var(--line); padding: .25em .6em; vertical-align: top; }
pre { overflow: auto; background: #f5f6f8; padding: .8em; }
.math { font-family: "DejaVu Serif", Georgia, serif; }
math { overflow-wrap: normal; } math[display=block] { overflow: auto hidden; padding: .3em 0; }
@media (max-width: 60rem) { article.report { grid-template-columns: 1fr; }
  .picture { position: relative; top: 0; } }
@media print { body { background: none; } article { border: 0; margin: 0; max-width: none; } }
"""

SCRIPT = """\
const light = (event) => {
  const name = event.target.closest?.("[data-block]")?.dataset.block;
  document.querySelectorAll(".lit").forEach((element) => element.classList.remove("lit"));
  if (name) document.querySelectorAll(`[data-block="${name}"]`)
    .forEach((element) => element.classList.add("lit"));
};
document.addEventListener("mouseover", light);
"""


def content_policy() -> str:
    """Content-Security-Policy: pictures inside the file, our style, our script, nothing else."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
