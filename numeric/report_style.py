"""The style sheet of the report: light and dark, from a phone to a desk. Exported: `STYLE`."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1c1d; --soft: #5c6066; --paper: #ffffff; --card: #f5f6f7;
  --rule: #d7dadd; --good: #00694a; --bad: #a83c00; --open: #6b5200; --link: #0062a3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7e8; --soft: #a3a8ae; --paper: #15171a;
  --card: #1e2125; --rule: #383d43; --good: #4ccf9f; --bad: #ff9d66; --open: #e3c04d; --link: #7cc0f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 74rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1.2rem; line-height: 1.3; margin: 0 0 .3rem; }
h4 { font-size: 1.02rem; margin: 1.4rem 0 .3rem; } h4::first-letter { text-transform: uppercase; }
a { color: var(--link); }
p { max-width: 50rem; }
section { border-top: 1px solid var(--rule); margin-top: 2rem; padding-top: 1.4rem; }
sup, sub { line-height: 0; font-size: .75em; }
.soft { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; overflow-wrap: normal; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; } .wide th { white-space: nowrap; }
.wide table { min-width: 48rem; font-size: .82rem; } .wide td:last-child { min-width: 14rem; }
.verdict { font-weight: 600; white-space: nowrap; }
.confirmed, .ok { color: var(--good); } .refuted, .error, .no { color: var(--bad); }
.undecided { color: var(--open); } .not-run { color: var(--soft); }
.papers { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .8rem; }
.paper { background: var(--card); border-radius: 8px; padding: .8rem 1rem; }
.paper h3 { font-size: 1rem; }
.paper p { margin: .3rem 0; font-size: .9rem; }
.paper ul { list-style: none; margin: .5rem 0 0; padding: 0; font-size: .95rem; }
.paper b { font-variant-numeric: tabular-nums; }
a.arxiv { white-space: nowrap; }
.findings { padding-left: 1.1rem; max-width: 54rem; } .findings li { margin: .6rem 0; }
.formula { overflow-x: auto; background: var(--card); border-radius: 6px; padding: .7rem .9rem;
  margin: .6rem 0; }
.formula p { margin: 0 0 .3rem; } math { font-size: 1.1rem; }
math[display="block"] { margin: .5rem 0; }
/* Fractions within fractions at full size: the optima nest three of them. */
mfrac > * { math-depth: inherit; math-style: normal; }
figure { margin: 1rem 0; } figure svg { display: block; width: 100%; min-width: 30rem;
  max-width: 44rem; height: auto; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 44rem; }
details { margin: .4rem 0; } summary { cursor: pointer; color: var(--link); }
pre { overflow-x: auto; background: var(--card); border-radius: 6px; padding: .7rem .9rem; }
pre.source { white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; }
pre.command { white-space: pre-wrap; overflow-wrap: normal; user-select: all; }
code { font-size: .9rem; }
"""
