"""The template and the style sheet of every page; it loads nothing from elsewhere and runs no script."""

__all__ = ["TEMPLATE"]

STYLE = """\
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5a6069; --line: #d9dde3; --paper: #fff; --tint: #f4f6f8;
  --main: #0b62a8; --good: #1a7f37; --bad: #b3372e; --open: #6b6f76;
  --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #aa4499; --s4: #b58900; --s5: #56b4e9; --s6: #882255;
  --s7: #44aa99; --s8: #7a5c3e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a3a9b2; --line: #3a3f46; --paper: #16181b; --tint: #1f2226;
    --main: #62b0f0; --good: #4fbf6b; --bad: #f0837a; --open: #9aa0a8;
    --s0: #4ba6e0; --s1: #f08c4a; --s2: #35c79b; --s3: #d488c8; --s4: #e0b83a; --s5: #8fd0f5; --s6: #d0719c;
    --s7: #7cd3c5; --s8: #c49b74; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .4rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p, ul { max-width: 46rem; } ul { padding-left: 1.3rem; } .lead { color: var(--soft); margin-top: 0; }
.card { border: 1px solid var(--line); border-left: .5rem solid var(--tone); border-radius: .5rem;
  padding: 1rem 1.2rem; margin: 1.2rem 0; background: var(--tint); }
.good { --tone: var(--good); } .bad { --tone: var(--bad); } .open { --tone: var(--open); }
.card .question { color: var(--soft); margin: 0; }
.card .answer { font-size: 2rem; font-weight: 700; line-height: 1.2; margin: .1rem 0 .4rem; color: var(--tone); }
.card p { margin: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; overflow-wrap: normal; }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--soft); }
details.part { border-top: 1px solid var(--line); padding-top: .7rem; }
details.part > summary { color: var(--ink); font-weight: 600; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 46rem; }
svg { display: block; width: 100%; max-width: 42rem; height: auto; font: 13px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .tick { fill: var(--soft); font-size: 12px; } svg .in { fill: var(--ink); }
svg .control { fill: var(--soft); stroke: var(--soft); } svg .other { fill: var(--ink); stroke: var(--ink); }
svg .main { fill: var(--main); stroke: var(--main); }
svg text.main { font-weight: 700; }
svg text.label { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.card svg text.label { stroke: var(--tint); }
svg .bar { stroke-width: 4; stroke-linecap: round; } svg .grid { stroke: var(--line); }
svg .level { stroke: var(--main); stroke-dasharray: 4 4; }
svg .curve { fill: none; stroke: var(--tone); stroke-width: 2.5; stroke-linejoin: round; }
svg .half { stroke: var(--tone); stroke-width: 1.5; stroke-opacity: .6; }
svg .dashed { stroke-dasharray: 5 5; }
svg .point { fill: var(--tone); fill-opacity: .85; } svg .rest { --tone: var(--open); }
svg .right { fill: var(--good); } svg .wrong { fill: var(--bad); }
svg .s0 { --tone: var(--s0); } svg .s1 { --tone: var(--s1); } svg .s2 { --tone: var(--s2); }
svg .s3 { --tone: var(--s3); } svg .s4 { --tone: var(--s4); } svg .s5 { --tone: var(--s5); }
svg .s6 { --tone: var(--s6); } svg .s7 { --tone: var(--s7); } svg .s8 { --tone: var(--s8); }
.tiles { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 6.5rem)); gap: .5rem .4rem; }
.c2 { --columns: 2; } .c3 { --columns: 3; } .c4 { --columns: 4; } .c5 { --columns: 5; } .c6 { --columns: 6; }
.tile { font-size: .78rem; line-height: 1.25; color: var(--soft); border-top: .25rem solid transparent; }
.tile img { display: block; width: 100%; image-rendering: pixelated; border-radius: 3px; }
.tile.good, .tile.bad { border-color: var(--tone); }
pre { overflow: auto; max-height: 24rem; padding: .8rem; background: var(--tint); border-radius: 4px;
  font-size: .82rem; white-space: pre-wrap; }
@media (max-width: 44rem) {
  th, td { padding: .35rem .5rem; } td:first-child { white-space: normal; min-width: 7.5rem; }
  figure .scroll img { max-width: none; width: 35rem; } .card { padding: .8rem; }
  .wide, .wide tbody, .wide tr, .wide td { display: block; } .wide tr:first-child, .wide td:empty { display: none; }
  .wide td { border: 0; padding: .1rem 0; white-space: normal; } .wide tr { border-bottom: 1px solid var(--line); }
  .wide tr { padding: .4rem 0; } .wide td:first-child { font-weight: 600; }
  .wide td:not(:first-child)::before { content: attr(data-column); float: left; color: var(--soft);
    margin-right: 1rem; text-align: left; }
}
@media print { body { max-width: none; padding: 0; font-size: 12px; } svg { max-width: 30rem; }
  figure, tr, .tile, p { break-inside: avoid; } figure:has(.tiles) { break-inside: auto; }
  h2, .question, .answer { break-after: avoid; } .scroll { overflow: visible; } pre { max-height: none; } }
"""

TEMPLATE = (
    """\
{% macro show(rows) %}
<div class="scroll"><table{% if rows[0] | length > 3 %} class="wide"{% endif %}>
<tr>{% for column in rows[0] %}<th>{{ column }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for column, value in row.items() %}<td data-column="{{ column }}">{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endmacro %}
{% macro draw(drawing) %}
<figure>{{ drawing.svg | safe }}<figcaption>{{ drawing.caption }}</figcaption></figure>
{% endmacro %}
{% macro body(section) %}
{% for kind, content in section.blocks %}
{% if kind == "list" %}
<ul>{% for item in content %}<li>{{ item }}</li>{% endfor %}</ul>
{% else %}
<p>{{ content }}</p>
{% endif %}
{% endfor %}
{% if section.table %}
{{ show(section.table) }}
{% endif %}
{% for drawing in section.drawings %}
{{ draw(drawing) }}
{% endfor %}
{% for gallery in section.galleries %}
<figure><div class="tiles c{{ gallery.columns }}">
{% for tile in gallery.tiles %}
<div class="tile {{ tile.tone }}"><img src="{{ tile.source }}" alt="{{ tile.text }}">{{ tile.text }}</div>
{% endfor %}
</div><figcaption>{{ gallery.caption }}</figcaption></figure>
{% endfor %}
{% for title, rows in section.folded.items() %}
<details><summary>{{ title }}</summary>
{{ show(rows) }}
</details>
{% endfor %}
{% for figure in section.figures %}
<figure><div class="scroll"><img src="{{ figure.source }}" alt="{{ figure.caption }}"></div>
<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
{{ section.html | safe }}
{% if section.code %}
<pre>{{ section.code }}</pre>
{% endif %}
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
"""
    + STYLE
    + """\
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% if lead %}
<p class="lead">{{ lead }}</p>
{% endif %}
{% if verdict %}
<div class="card {{ verdict.tone }}">
<p class="question">{{ verdict.question }}</p>
<p class="answer">{{ verdict.answer }}</p>
{% for sentence in verdict.sentences %}
<p>{{ sentence }}</p>
{% endfor %}
{% if verdict.drawing %}
{{ draw(verdict.drawing) }}
{% endif %}
</div>
{% endif %}
{% for section in sections %}
{% if section.collapsed %}
<details class="part"><summary>{{ section.heading }}</summary>
{{ body(section) }}
</details>
{% else %}
<section>
<h2>{{ section.heading }}</h2>
{{ body(section) }}
</section>
{% endif %}
{% endfor %}
</body>
</html>
"""
)
