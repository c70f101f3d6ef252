"""How figures are called where people read them, and which way is better."""

_NAMES = {"JF": "J&F", "MAE": "MAE", "S": "S", "max_F": "max F", "max_E": "max E"}


def display_name(figure: str) -> str:
    """`J_mean` is J, `J_recall` "J recall", `sod_mean_F` "sod mean F": the prefix stays, it marks other definitions."""
    if figure in _NAMES:
        return _NAMES[figure]
    words = figure.split("_")
    if words[0] == "sod":
        return " ".join(words)
    words[0] = _NAMES.get(words[0], words[0])
    if words[1:] == ["mean"]:
        return words[0]
    if words[1:] == ["class", "mean"]:
        return f"{words[0]} over classes"
    return " ".join(words)


def lower_is_better(figure: str) -> bool:
    """Whether a smaller value is the better one, as of errors and decays."""
    return figure == "MAE" or figure.endswith("_decay")


def better(figure: str, a: float, b: float) -> bool:
    """Whether `a` beats `b`; NaN never does."""
    return a < b if lower_is_better(figure) else a > b
