"""Formatting of durations."""


def format_duration(seconds: float) -> str:
    """Return a duration as text, such as 42 s, 3 min 5 s or 2 h 10 min."""
    total = max(0, round(seconds))
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600} h {total % 3600 // 60} min"
