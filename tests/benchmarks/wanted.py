"""A line of a benchmark's table: what was measured, what came out, what was wanted."""


def row(what: str, came_out: str, wanted: str = "") -> None:
    print(f"{what:66} {came_out:>34}   {wanted}")
