"""Draws the pictures of the documentation: `python docs/pictures/draw.py`. A test sees that they are current.

Each is narrow enough for a phone, has a ground of its own, so that it can be read on light and dark pages, and follows
the light or dark mode of the machine.
"""

from html import escape
from pathlib import Path

HERE = Path(__file__).parent
WIDTH = 440
STYLE = """
  .ground { fill: #ffffff; stroke: #c9d3d6 }
  .box { fill: #eef5f5; stroke: #2f6f73; stroke-width: 1.2 }
  .strong { fill: #d3e9e7 }
  .store { fill: #faf4e6; stroke: #93702a; stroke-width: 1.2 }
  .line { stroke: #44575c; stroke-width: 1.6; fill: none }
  .back { stroke: #a2461f; stroke-width: 1.6; fill: none }
  .tip { fill: #44575c }
  .backtip { fill: #a2461f }
  text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #16282c }
  .title { font-weight: 600 }
  .small { font-size: 12px; fill: #44575c }
  .file { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #2f5f63 }
  .backtext { fill: #a2461f }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #182327; stroke: #3a4a4f }
    .box { fill: #20343a; stroke: #6db5b5 }
    .strong { fill: #25494a }
    .store { fill: #332c1b; stroke: #cfa75a }
    .line { stroke: #a9bcc1 }
    .back { stroke: #f09a6f }
    .tip { fill: #a9bcc1 }
    .backtip { fill: #f09a6f }
    text { fill: #e6eef0 }
    .small { fill: #b5c5c9 }
    .file { fill: #8fd0cf }
    .backtext { fill: #f09a6f }
  }
"""


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> str:
    """Returns a line of text."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'


def box(x: float, y: float, width: float, lines: list[tuple[str, str]], kind: str = "box") -> tuple[str, float]:
    """Returns a box with lines of (class, words), and the y of its lower edge."""
    height = 14 + 18 * len(lines)
    parts = [f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="{kind}"/>']
    for number, (style, words) in enumerate(lines):
        parts.append(text(x + width / 2, y + 21 + 18 * number, words, style))
    return "\n".join(parts), y + height


def arrow(x: float, y: float, to_x: float, to_y: float, kind: str = "line") -> str:
    """Returns an arrow, down or sideways."""
    tip = "backtip" if kind == "back" else "tip"
    if x == to_x:
        head = f"{to_x - 4:g},{to_y - 8:g} {to_x + 4:g},{to_y - 8:g} {to_x:g},{to_y:g}"
        end_x, end_y = to_x, to_y - 7
    else:
        side = 8 if to_x < x else -8
        head = f"{to_x + side:g},{to_y - 4:g} {to_x + side:g},{to_y + 4:g} {to_x:g},{to_y:g}"
        end_x, end_y = to_x + side, to_y
    return (
        f'<line x1="{x:g}" y1="{y:g}" x2="{end_x:g}" y2="{end_y:g}" class="{kind}"/>'
        f'<polygon points="{head}" class="{tip}"/>'
    )


def drawing(title: str, description: str, parts: list[str], height: float) -> str:
    """Returns the SVG file."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
            f'height="{height:g}" role="img" aria-labelledby="title desc">',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="desc">{escape(description)}</desc>',
            f"<style>{STYLE}</style>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" rx="10" class="ground"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def datas_way() -> str:
    """Returns the way of the data, from logs to a report, with the files that do each step."""
    parts: list[str] = []
    left, right, middle = 20, 230, WIDTH / 2

    def down(y: float, words: str, file: str, x: float = middle, length: float = 50) -> float:
        parts.append(arrow(x, y, x, y + length))
        if words:
            parts.extend(
                [text(x + 12, y + length / 2 - 3, words, "small", "start")]
                if not file
                else [
                    text(x + 12, y + length / 2 - 4, words, "small", "start"),
                    text(x + 12, y + length / 2 + 11, file, "file", "start"),
                ]
            )
        return y + length

    def put(x: float, y: float, width: float, lines: list[tuple[str, str]], kind: str = "box") -> float:
        drawn, below = box(x, y, width, lines, kind)
        parts.append(drawn)
        return below

    y = put(70, 18, 300, [("title", "your logs, items, pictures"), ("file", "data/sources/log.py, a plugin")], "store")
    y = down(y, "prepare, extract", "prepare.py, extract.py")
    y = put(
        40,
        y,
        360,
        [
            ("title", "dataset folder"),
            ("file", "dataset.yaml · vocab/ · items.parquet"),
            ("file", "samples/ · images/*.tar · features/"),
        ],
        "store",
    )
    y = down(y, "read, collate", "data/reader.py, collate.py")
    batch = put(40, y, 360, [("title", "Batch"), ("small", "N impressions of G users, each with L earlier clicks")])
    top = batch + 40
    parts += [arrow(115, batch, 115, top), arrow(325, batch, 325, top)]
    parts += [
        text(127, batch + 22, "ids, numbers", "small", "start"),
        text(313, batch + 22, "picture keys", "small", "end"),
    ]
    ids = put(
        left, top, 190, [("title", "features"), ("small", "a vector for each value"), ("file", "features/encoders.py")]
    )
    put(
        right,
        top,
        190,
        [("title", "images"), ("small", "each picture once"), ("file", "images/server.py")],
        "box strong",
    )
    parts += [arrow(115, ids, 115, ids + 40), arrow(325, ids, 325, ids + 40)]
    parts += [text(127, ids + 22, "[G, L, D]", "small", "start"), text(313, ids + 22, "[G, L, I]", "small", "end")]
    y = put(
        left,
        ids + 40,
        400,
        [("title", "interest"), ("small", "the clicks before: one vector"), ("file", "interest/attention.py")],
    )
    y = down(y, "beside user, target, context", "", length=40)
    y = put(70, y, 300, [("title", "net"), ("small", "all vectors: one logit"), ("file", "nets/mlp.py")])
    y = down(y, "loss, metrics", "training/module.py")
    y = put(
        70, y, 300, [("title", "prediction, run folder"), ("file", "checkpoints/ · test.json · report.html")], "store"
    )
    description = (
        "Logs, items and pictures become a dataset folder (data/prepare.py). Its samples are read and collated into "
        "batches (data/reader.py, data/collate.py). Of a batch, ids and numbers become vectors (features/encoders.py), "
        "picture keys become vectors, each picture once (images/server.py). The vectors of earlier clicks become one "
        "interest vector (interest/attention.py). A net makes a logit of all vectors (nets/mlp.py); training/module.py "
        "has the loss and the metrics. A run leaves checkpoints, test.json and report.html."
    )
    return drawing("The data's way", description, parts, y + 18)


def exchange() -> str:
    """Returns the exchange of two ranks: keys there, vectors back, gradients home, with the numbers of the text."""
    parts: list[str] = []
    zero, one, width = 118, 322, 188
    y = 34.0
    parts += [text(zero, y, "rank 0", "title"), text(one, y, "rank 1", "title")]

    def row(y: float, words: str, left: str, right: str, kind: str = "box") -> float:
        parts.append(text(WIDTH / 2, y + 14, words, "small"))
        for center, value in ((zero, left), (one, right)):
            drawn, below = box(center - width / 2, y + 22, width, [("", value)], kind)
            parts.append(drawn)
        return below

    def travel(y: float, words: str, to_right: bool, kind: str = "line") -> float:
        begin, end = (zero, one) if to_right else (one, zero)
        parts.append(arrow(begin, y + 32, end, y + 32, kind))
        parts.append(text(WIDTH / 2, y + 24, words, "backtext small" if kind == "back" else "small"))
        return y + 38

    y = row(46, "the batch refers to pictures", "4 7 4", "7")
    y = row(y + 2, "each key once", "4 7", "7")
    y = travel(y, "key 7 to its owner: 8 bytes", True)
    y = row(y + 2, "the owner computes, once for all ranks", "e4", "e7", "box strong")
    y = travel(y, "vector e7 back: 4 I = 48 bytes", False)
    y = row(y + 2, "to every reference", "e4 e7 e4", "e7")
    y = travel(y, "backward: gradient of e7 home: 48 bytes", True, "back")
    y = row(y + 2, "summed at the owner", "grad e4: two references", "grad e7: rank 0's + 1's", "box strong")
    parts.append(text(WIDTH / 2, y + 24, "with 8 bytes of sizes each way: 16 + 8 + 48 + 48 = 120 bytes", "small"))
    description = (
        "Rank 0's batch refers to the pictures 4, 7, 4 and rank 1's to 7. Each rank keeps each key once: 4 7 and 7. "
        "Rank 0 owns 4 and sends key 7 to rank 1, its owner: 8 bytes. Rank 0 computes the vector e4, rank 1 computes "
        "e7 once for both. e7 goes back to rank 0: 48 bytes. Every reference gets its vector: e4 e7 e4 and e7. Going "
        "back, rank 0's gradient of e7 goes home to rank 1: 48 bytes. The owner adds up: the gradient of e4 over two "
        "references, that of e7 over both ranks."
    )
    return drawing("The exchange of two ranks", description, parts, y + 42)


DRAWINGS = {"datas_way.svg": datas_way, "exchange.svg": exchange}

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        (HERE / name).write_text(draw(), encoding="utf-8")
